# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards and their vGPU types, as data; `host.mdev` and `host.vendor_vfio` read them from sysfs.

How a card offers vGPUs is read from sysfs for each card, never derived from its model or from the
release of the host: the cards of one host may differ. Sources:
https://docs.kernel.org/driver-api/vfio-mediated-device.html (mdev) and
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html (both).
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from gpu.pci import Gpu, PciAddress, PciId
from gpu.problems import ASSIGNED_ELSEWHERE, Problem

__all__ = [
    "COUNT_LIMIT",
    "NAME_LIMIT",
    "Card",
    "CardMode",
    "Framework",
    "VgpuType",
    "description_number",
    "is_mig_backed",
    "is_type_id",
    "type_number",
]

# More than any driver reports; larger values are ignored.
COUNT_LIMIT = 999  # vGPUs of a card
NAME_LIMIT = 100  # characters of a type's name

# In lower case, as the kernel names the folders; names of types have capitals: A100-40.
_TYPE_ID = re.compile(r"[a-z][a-z0-9_-]*-([0-9]{1,9})", re.ASCII)
_BRAND = re.compile(r"^(?:GRID|NVIDIA)\s+", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"([0-9]{1,4})[ABCQ][A-Z0-9]*$", re.ASCII)  # T4-2B4, A100-1-5CME
_MIG_BACKED = re.compile(r"-[0-9]{1,2}-[0-9]{1,4}[ABCQ][A-Z0-9]*$", re.ASCII | re.IGNORECASE)
# Media extensions and graphics, which some drivers leave out of the name; longer ones first.
_ATTRIBUTE = re.compile(r"(?<=[ABCQ])(?:MEALL|NOME|GFX|ME)$", re.ASCII | re.IGNORECASE)


class Framework(enum.Enum):
    """The kernel interface through which a card offers vGPUs."""

    MDEV = "mdev"  # mediated devices, on the card or on its virtual functions
    VENDOR_VFIO = "vendor-vfio"  # types are set on virtual functions; Nova: kernel variant driver


class VgpuType(NamedTuple):
    """One vGPU type of one card.

    Attributes:
        id: Nova's name for it, `nvidia-233`: a folder in mdev_supported_types.
        name: NVIDIA's name for it, `GRID T4-8Q`.
        description: the driver's own line: heads, framebuffer, resolution, instances.
        max_instances: how many fit on an empty card; None if the driver does not report it.
        available_instances: how many more fit now; None if that was not read.
        gpu_instance_profile: that of a MIG-backed type; None if it is time-sliced or unknown.
        vgpus_per_gpu_instance: how many share one GPU instance.
    """

    id: str
    name: str
    description: str = ""
    max_instances: int | None = None
    available_instances: int | None = None
    gpu_instance_profile: int | None = None
    vgpus_per_gpu_instance: int = 1

    @property
    def number(self) -> str:
        """The number of the ID, which the driver takes in current_vgpu_type."""
        return self.id.rsplit("-", 1)[-1]

    @property
    def short_name(self) -> str:
        """The last word of the name, `T4-8Q`."""
        return self.name.split()[-1] if self.name.split() else self.id

    @property
    def framebuffer(self) -> int | None:
        """Memory in MiB; NVIDIA's names count in GiB, with 0 for half a GiB."""
        described = description_number(self.description, "framebuffer")
        size = _SIZE.search(self.name)
        if described is not None or size is None:
            return described
        return int(size[1]) * 1024 or 512

    @property
    def is_mig_backed(self) -> bool:
        """Whether its vGPUs use a GPU instance, a slice of the card, not a share of its time."""
        return self.gpu_instance_profile is not None or is_mig_backed(self.name)

    def matches(self, requested: str) -> bool:
        """Whether a requested type, an ID or a name, is this type.

        A name may lack its brand, or all but its last word: `GRID T4-8Q`, `T4-8Q`. IDs are
        compared by number, since the folder takes its prefix from the driver of the parent.
        """
        number, requested_number = type_number(self.id), type_number(requested)
        if number is not None and requested_number is not None:
            return number == requested_number
        name = _BRAND.sub("", self.name).casefold()
        return _BRAND.sub("", requested).casefold() in (name, *name.split()[-1:])


class CardMode(NamedTuple):
    """How a card is partitioned, as nvidia-smi reported since the last boot.

    Attributes:
        gpu_instances: the profiles of its GPU instances, sorted; none: it is time-sliced.
        mixed_size: whether its vGPUs may differ in size; None: the card does not support that.
        vgpus_on_functions: whether vGPUs are on virtual functions; False: the driver says no.
        supports_mig: whether it may have GPU instances; False: the driver says no.
        types_queried: whether the driver was asked for all types of the card.
    """

    gpu_instances: tuple[int, ...] = ()
    mixed_size: bool | None = False
    vgpus_on_functions: bool = True
    supports_mig: bool = True
    types_queried: bool = False


class Card(NamedTuple):
    """A GPU and how it offers vGPUs.

    Attributes:
        gpu: the physical function.
        framework: None while it is unknown: the driver is not loaded, offers nothing, or the
            virtual functions of the card are not enabled yet.
        types: in the order of their IDs; possibly incomplete on a card in use (vendor VFIO).
        parents: the functions that offer vGPUs: the card itself, or its virtual functions.
        in_use: the vGPUs that exist now, by UUID (mdev), or the virtual functions that a guest
            has or whose type the charm did not assign (vendor VFIO).
        guest_vgpus: parent and type ID of each vGPU that a guest has, including those that
            defined guests lost at boot.
        assigned_types: functions that have a type assigned, with its ID (vendor VFIO).
        creatable: IDs of the types that can still be assigned to a free function (vendor VFIO).
        function_id: vendor and device ID of the virtual functions, which Nova's alias matches.
        known_types: types that the driver has ever reported, visible now or not.
        known_types_complete: whether those are all, since the driver was asked a moment ago.
        lost_types: the types of vGPUs that defined guests lost at boot.
        mode: how the card is partitioned; None if that was not read since the last boot.
        obstacle: why it cannot offer vGPUs, whatever is requested; see `host.obstacles`.
    """

    gpu: Gpu
    framework: Framework | None
    types: tuple[VgpuType, ...] = ()
    parents: tuple[PciAddress, ...] = ()
    in_use: tuple[str, ...] = ()
    guest_vgpus: tuple[tuple[PciAddress, str], ...] = ()
    assigned_types: tuple[tuple[PciAddress, str], ...] = ()
    creatable: frozenset[str] = frozenset()
    function_id: PciId | None = None
    known_types: tuple[VgpuType, ...] = ()
    known_types_complete: bool = False
    lost_types: tuple[VgpuType, ...] = ()
    mode: CardMode | None = None
    obstacle: Problem | None = None

    @property
    def address(self) -> PciAddress:
        """The address of the physical function."""
        return self.gpu.address

    @property
    def is_assigned_elsewhere(self) -> bool:
        """Whether an operator or a guest has the card as a whole."""
        return self.obstacle is not None and self.obstacle.kind in ASSIGNED_ELSEWHERE

    @property
    def unreadable_functions(self) -> tuple[str, ...]:
        """The virtual functions that count as in use because their type cannot be read."""
        if self.framework is Framework.MDEV:
            return ()
        assigned = {str(function) for function, _ in self.assigned_types}
        return tuple(name for name in self.in_use if name not in assigned)

    @property
    def is_own_parent(self) -> bool:
        """Whether the card itself, not a virtual function, is the parent of its vGPUs."""
        return self.parents == (self.address,)

    @property
    def guest_parents(self) -> frozenset[PciAddress]:
        """The parents of the guests' vGPUs."""
        return frozenset(parent for parent, _ in self.guest_vgpus)

    @property
    def guest_type_ids(self) -> tuple[str, ...]:
        """The type IDs of the guests' vGPUs, sorted."""
        return tuple(sorted({type_id for _, type_id in self.guest_vgpus}))

    @property
    def is_sriov(self) -> bool:
        """Whether its vGPUs are on virtual functions, as far as is known.

        SR-IOV alone is no proof: on some servers a T4 has it, but offers its vGPUs itself.
        """
        is_excluded = self.mode is not None and not self.mode.vgpus_on_functions
        return self.gpu.total_vfs > 0 and not self.is_own_parent and not is_excluded

    @property
    def types_queried(self) -> bool:
        """Whether the driver was asked for all types of the card since the last boot."""
        return self.known_types_complete or (self.mode is not None and self.mode.types_queried)

    @property
    def visible_types(self) -> tuple[VgpuType, ...]:
        """The types that its vGPUs have or could have as it is partitioned now."""
        if self.framework is not Framework.VENDOR_VFIO:
            return self.types
        ids = self.creatable.union(type_id for _, type_id in self.assigned_types)
        return tuple(vgpu_type for vgpu_type in self.types if vgpu_type.id in ids)

    @property
    def is_mig_partitioned(self) -> bool:
        """Whether it has GPU instances, by nvidia-smi's report or by its visible types."""
        is_reported = self.mode is not None and bool(self.mode.gpu_instances)
        return is_reported or any(vgpu_type.is_mig_backed for vgpu_type in self.visible_types)

    def find_type(self, requested: str) -> VgpuType | None:
        """Return the type that a requested type, an ID or a name, means on this card, or None."""
        return _find(self.types, requested)

    def find_known_type(self, requested: str) -> VgpuType | None:
        """Return the type that a requested type means, visible now or not, or None."""
        return _find(self.known_types, requested)

    def find_mig_backed_type(self, requested: str) -> VgpuType | None:
        """Return the MIG-backed type that a requested type means, visible now or not, or None."""
        mig_backed = tuple(filter(lambda vgpu_type: vgpu_type.is_mig_backed, self.known_types))
        return _find(mig_backed, requested)

    def describe_type(self, type_id: str) -> str:
        """Return the ID of a type and, as far as it is known, its name: `nvidia-233 (T4-8Q)`."""
        types = (*self.types, *self.known_types, *self.lost_types)
        names = {item.short_name for item in types if item.id == type_id} - {type_id}
        return f"{type_id} ({min(names)})" if names else type_id

    def is_mig_backed_name(self, requested: str) -> bool:
        """Whether a requested type is MIG-backed on this card, as far as is known."""
        vgpu_type = self.find_mig_backed_type(requested) or self.find_type(requested)
        return is_mig_backed(requested) if vgpu_type is None else vgpu_type.is_mig_backed

    def gpu_instance_capacity(self, vgpu_type: VgpuType) -> int | None:
        """Return how many vGPUs of a type its GPU instances have room for; None if unknown."""
        if vgpu_type.gpu_instance_profile is None or self.mode is None:
            return None
        instances = self.mode.gpu_instances.count(vgpu_type.gpu_instance_profile)
        return instances * vgpu_type.vgpus_per_gpu_instance


def _find(types: tuple[VgpuType, ...], requested: str) -> VgpuType | None:
    """Look for the exact name first: a driver may list both A100-1-5C and A100-1-5CME."""
    for name in dict.fromkeys((requested, _ATTRIBUTE.sub("", requested))):
        for vgpu_type in types:
            if vgpu_type.matches(name):
                return vgpu_type
    return None


def is_mig_backed(name: str) -> bool:
    """Whether a name is that of a MIG-backed type: slices, then memory, `A100-1-5C`."""
    return _MIG_BACKED.search(name) is not None


def is_type_id(text: str) -> bool:
    """Whether a text is a type ID, `nvidia-233`."""
    return _TYPE_ID.fullmatch(text) is not None


def type_number(type_id: str) -> int | None:
    """Return the number of a type ID, `nvidia-233`; None if the text is not a type ID."""
    match = _TYPE_ID.fullmatch(type_id)
    return None if match is None else int(match[1])


def description_number(description: str, key: str) -> int | None:
    """Return a number from the driver's description of a type, `max_instance=4`."""
    match = re.search(rf"\b{key}=([0-9]{{1,9}})M?\b", description, re.ASCII)
    return int(match[1]) if match else None
