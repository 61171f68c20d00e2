# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards and their vGPU types, as data; `mdev` and `vendor_vfio` read them from sysfs.

Which way a card goes is read from what is there, card by card, never from its model or from the
host's release; a host may mix them. Sources:
https://docs.kernel.org/driver-api/vfio-mediated-device.html (mdev) and
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html (both).
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from host.gpus import Gpu, PciAddress, PciId

__all__ = [
    "COUNT_LIMIT",
    "NAME_LIMIT",
    "Card",
    "CardMode",
    "Framework",
    "VgpuType",
    "is_mig_backed",
    "stated",
    "type_number",
]

# More than any driver tells; what is beyond is made up.
COUNT_LIMIT = 999  # vGPUs of a card
NAME_LIMIT = 100  # characters of a type's name

_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*-([0-9]{1,9})", re.ASCII)
_BRAND = re.compile(r"^(?:GRID|NVIDIA)\s+", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"([0-9]{1,4})[ABCQ][A-Z0-9]*$", re.ASCII)  # T4-2B4, A100-1-5CME
_MIG_BACKED = re.compile(r"-[0-9]{1,2}-[0-9]{1,4}[ABCQ][A-Z0-9]*$", re.ASCII | re.IGNORECASE)
# Media extensions and graphics, which some drivers leave out of the name; the longer ones first.
_ATTRIBUTE = re.compile(r"(?<=[ABCQ])(?:MEALL|NOME|GFX|ME)$", re.ASCII | re.IGNORECASE)


class Framework(enum.Enum):
    """Through which kernel interface a card offers vGPUs."""

    MDEV = "mdev"  # mediated devices, on the card or on its virtual functions
    VENDOR_VFIO = "vendor-vfio"  # a type is set on a virtual function; Nova: kernel variant driver


class VgpuType(NamedTuple):
    """One vGPU type of one card.

    Attributes:
        id: what Nova knows it by, `nvidia-233`: a folder in mdev_supported_types.
        name: what people know it by, `GRID T4-8Q`.
        description: the driver's own line: heads, framebuffer, resolution, instances.
        max_instances: how many of it fit on an empty card; None if the driver does not say.
        available_instances: how many more fit now; None if that was not asked for.
        gpu_instance_profile: that of a MIG-backed type; None: time-sliced, or unknown.
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
    def framebuffer(self) -> int | None:
        """Memory in MiB; NVIDIA's names count in GiB, 0 for half of one."""
        size = _SIZE.search(self.name)
        told = stated(self.description, "framebuffer")
        if told is not None or size is None:
            return told
        return int(size[1]) * 1024 or 512

    @property
    def is_mig_backed(self) -> bool:
        """Whether its vGPUs have a GPU instance, a slice of the card, and not a share of time."""
        return self.gpu_instance_profile is not None or is_mig_backed(self.name)

    def matches(self, wanted: str) -> bool:
        """Whether an operator's word, an id or a name, means this type.

        A name may lack its brand, or all but its last word: `GRID T4-8Q`, `T4-8Q`. An id is
        known by its number, since the folder takes its prefix from the parent's driver.
        """
        mine, theirs = type_number(self.id), type_number(wanted)
        if mine is not None and theirs is not None:
            return mine == theirs
        plain = _BRAND.sub("", self.name).casefold()
        return _BRAND.sub("", wanted).casefold() in (plain, *plain.split()[-1:])


class CardMode(NamedTuple):
    """How the driver parts a card, as nvidia-smi told in this boot.

    Attributes:
        gpu_instances: the profiles of its GPU instances, sorted; none: it is time-sliced.
        mixed_size: whether its vGPUs may differ in size; None: the card cannot do that.
        vgpus_on_functions: whether they may go on virtual functions; False: the driver says no.
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
        framework: None while that cannot be told: the driver is not loaded, offers nothing, or
            the card's virtual functions are not enabled yet.
        types: in the order of their ids; of a card in use maybe not all (vendor VFIO).
        parents: the functions that carry vGPUs: the card itself, or its virtual functions.
        in_use: the vGPUs that exist now, by UUID (mdev), or the virtual functions that a guest has
            or somebody else gave a type (vendor VFIO).
        guest_vgpus: parent and type id of each vGPU that a guest has, including those that
            defined guests lost at boot.
        assigned_types: functions that carry a type, and its id (vendor VFIO).
        creatable: ids of the types that a free function can still become (vendor VFIO).
        function_id: vendor and device of the functions, which Nova's alias goes by.
        known_types: types that the driver told of once, shown now or not.
        known_types_complete: whether that is all that it knows, since it was asked a moment ago.
        lost_types: the types of vGPUs that a boot took from defined guests.
        mode: how the card is parted; None: nobody has looked in this boot.
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

    @property
    def guest_parents(self) -> frozenset[PciAddress]:
        """The parents of guests' vGPUs."""
        return frozenset(parent for parent, _ in self.guest_vgpus)

    @property
    def guest_type_ids(self) -> tuple[str, ...]:
        """The ids of their types."""
        return tuple(sorted({type_id for _, type_id in self.guest_vgpus}))

    @property
    def is_sriov(self) -> bool:
        """Whether its vGPUs go on virtual functions, as far as can be told.

        That it has SR-IOV is no proof: some servers show a T4 with it, which carries them itself.
        """
        is_itself = self.parents == (self.gpu.address,)
        is_denied = self.mode is not None and not self.mode.vgpus_on_functions
        return self.gpu.total_vfs > 0 and not is_itself and not is_denied

    @property
    def visible_types(self) -> tuple[VgpuType, ...]:
        """The types that its vGPUs are or could become as it is parted now."""
        if self.framework is not Framework.VENDOR_VFIO:
            return self.types
        ids = self.creatable.union(type_id for _, type_id in self.assigned_types)
        return tuple(known for known in self.types if known.id in ids)

    @property
    def is_mig_partitioned(self) -> bool:
        """Whether it has GPU instances, or is said to have."""
        is_said = self.mode is not None and bool(self.mode.gpu_instances)
        return is_said or any(known.is_mig_backed for known in self.visible_types)

    def find_type(self, wanted: str) -> VgpuType | None:
        """Return the type that an operator's word means on this card, or None."""
        return _find(self.types, wanted)

    def find_known_type(self, wanted: str) -> VgpuType | None:
        """Return the type that a word means, shown now or not, or None."""
        return _find(self.known_types, wanted)

    def find_mig_backed_type(self, wanted: str) -> VgpuType | None:
        """Return the MIG-backed type that a word means, shown now or not, or None."""
        return _find(tuple(known for known in self.known_types if known.is_mig_backed), wanted)

    def is_mig_backed_name(self, wanted: str) -> bool:
        """Whether a word means a MIG-backed type here, as far as can be told."""
        known = self.find_mig_backed_type(wanted) or self.find_type(wanted)
        return is_mig_backed(wanted) if known is None else known.is_mig_backed


def _find(types: tuple[VgpuType, ...], wanted: str) -> VgpuType | None:
    """Look for the exact word first: a driver may list A100-1-5C and A100-1-5CME."""
    for word in dict.fromkeys((wanted, _ATTRIBUTE.sub("", wanted))):
        for known in types:
            if known.matches(word):
                return known
    return None


def is_mig_backed(name: str) -> bool:
    """Whether a name is that of a MIG-backed type: slices, then memory, `A100-1-5C`."""
    return _MIG_BACKED.search(name) is not None


def type_number(type_id: str) -> int | None:
    """Return the number of a type's id, `nvidia-233`; None if it is none."""
    match = _TYPE_ID.fullmatch(type_id)
    return None if match is None else int(match[1])


def stated(description: str, key: str) -> int | None:
    """Return a number of the driver's description, `max_instance=4`."""
    match = re.search(rf"\b{key}=([0-9]{{1,9}})M?\b", description, re.ASCII)
    return int(match[1]) if match else None
