# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How each card offers vGPUs, and which types, as its host driver shows them in sysfs.

Which way a card goes is read from what is there, card by card, never from its model or from the
host's release; a host may mix them. Sources:
https://docs.kernel.org/driver-api/vfio-mediated-device.html (mdev) and
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html (both).
"""

from __future__ import annotations

import enum
import json
import logging
import os
import re
from pathlib import Path
from typing import AbstractSet, Iterable, NamedTuple

import guests
from files import ensure_text
from pci import Gpu, PciAddress, PciId

__all__ = [
    "Card",
    "Framework",
    "VgpuType",
    "creatable_types",
    "inspect",
    "mdevs",
    "names",
    "remember_carried",
    "remember_types",
    "remembered_types",
]

_REMEMBERED = Path("var/lib/nova-compute-nvidia-vgpu/types.json")
_CARRIED = Path("var/lib/nova-compute-nvidia-vgpu/carried.json")

_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*-([0-9]{1,9})", re.ASCII)
_BRAND = re.compile(r"^(?:GRID|NVIDIA)\s+", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"([0-9]{1,4})[ABCQ][A-Z0-9]*$", re.ASCII)  # T4-2B4, A100-1-5CME
_CREATABLE = re.compile(r"\s*([0-9]{1,9})\s*:\s*(\S.*?)\s*", re.ASCII)


logger = logging.getLogger(__name__)


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
        maximum: how many of it fit on an empty card; None if the driver does not say.
        available: how many more fit now; None if that was not asked for.
    """

    id: str
    name: str
    description: str = ""
    maximum: int | None = None
    available: int | None = None

    @property
    def framebuffer(self) -> int | None:
        """Memory in MiB; NVIDIA's names count in GiB, 0 for half of one."""
        stated = _stated(self.description, "framebuffer")
        size = _SIZE.search(self.name)
        if stated is not None or size is None:
            return stated
        return int(size[1]) * 1024 or 512

    def is_called(self, wanted: str) -> bool:
        """Whether an operator's word, an id or a name, means this type.

        A name may lack its brand, or all but its last word: `GRID T4-8Q`, `T4-8Q`. An id is
        known by its number, since the folder takes its prefix from the parent's driver.
        """
        mine, theirs = _TYPE_ID.fullmatch(self.id), _TYPE_ID.fullmatch(wanted)
        if mine is not None and theirs is not None:
            return int(mine[1]) == int(theirs[1])
        plain = _BRAND.sub("", self.name).casefold()
        return _BRAND.sub("", wanted).casefold() in (plain, plain.rsplit(maxsplit=1)[-1])


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
        types_in_use: the ids of their types (mdev).
        carried: functions that carry a type, and its id (vendor VFIO).
        creatable: ids of the types that a free function can still become (vendor VFIO).
        function_id: vendor and device of the functions, which Nova's alias goes by.
    """

    gpu: Gpu
    framework: Framework | None
    types: tuple[VgpuType, ...] = ()
    parents: tuple[PciAddress, ...] = ()
    in_use: tuple[str, ...] = ()
    types_in_use: tuple[str, ...] = ()
    carried: tuple[tuple[PciAddress, str], ...] = ()
    creatable: frozenset[str] = frozenset()
    function_id: PciId | None = None

    def find_type(self, wanted: str) -> VgpuType | None:
        """Return the type that an operator's word means on this card, or None."""
        return next((known for known in self.types if known.is_called(wanted)), None)


def inspect(
    root: Path, gpu: Gpu, *, count: bool = False, remembered: tuple[VgpuType, ...] = ()
) -> Card:
    """Read what one card offers.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        count: whether to add up the free instances; that reads one file for each type of each
            virtual function.
        remembered: types that such a card was seen to offer.
    """
    devices = root / "sys/bus/pci/devices"
    functions = (gpu.address, *gpu.virtual_functions)
    parents = tuple(
        address
        for address in functions
        if os.path.isdir(devices / str(address) / "mdev_supported_types")
    )
    if parents:
        folders = [devices / str(address) / "mdev_supported_types" for address in parents]
        types = _mdev_types(folders, count)
        present = mdevs(devices, parents)
        used = tuple(sorted(set(present.values())))
        return Card(gpu, Framework.MDEV, types, parents, tuple(sorted(present)), used)
    return _vendor_vfio_card(root, gpu, remembered)


def _mdev_types(folders: list[Path], count: bool) -> tuple[VgpuType, ...]:
    """Read the types of the first parent; the others of a card offer the same ones."""
    types = []
    known = filter(_TYPE_ID.fullmatch, names(folders[0]))
    for type_id in sorted(known, key=lambda name: int(name.rsplit("-", 1)[1])):
        folder = folders[0] / type_id
        description = _read(folder / "description")
        available = None
        if count:
            available = sum(_available(parent / type_id) for parent in folders)
        types.append(
            VgpuType(
                id=type_id,
                name=_read(folder / "name") or type_id,
                description=description,
                maximum=_stated(description, "max_instance"),
                available=available,
            )
        )
    return tuple(types)


def names(folder: Path) -> list[str]:
    """List a folder of sysfs; none if it is not there or its card fell off the bus (EIO)."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read: %s", folder, error)
        return []


def _read(path: Path) -> str:
    """Return the text of an attribute, empty if it is absent or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return ""


def _stated(description: str, key: str) -> int | None:
    match = re.search(rf"\b{key}=([0-9]{{1,9}})M?\b", description, re.ASCII)
    return int(match[1]) if match else None


def _available(folder: Path) -> int:
    text = _read(folder / "available_instances")
    return int(text) if text.isascii() and text.isdigit() else 0


def mdevs(devices: Path, parents: tuple[PciAddress, ...]) -> dict[str, str]:
    """Return the types of a card's mediated devices: folders of its parents, by their UUID."""
    found = {}
    for address in parents:
        folder = devices / str(address)
        for name in names(folder):
            if len(name) == 36 and os.path.lexists(folder / name / "mdev_type"):
                found[name] = os.path.basename(os.readlink(folder / name / "mdev_type"))
    return found


def _vendor_vfio_card(root: Path, gpu: Gpu, remembered: tuple[VgpuType, ...]) -> Card:
    """Read `nvidia/` of the virtual functions; the card itself has none, or an unused one.

    The lists of types shrink as the card fills, down to their heading, so an empty one does not
    say that there are no types: what was seen once stays known.
    """
    devices = root / "sys/bus/pci/devices"
    types = {known.id: known for known in remembered}
    parents, carried = [], []
    creatable: set[str] = set()
    for address in gpu.virtual_functions:
        folder = devices / str(address) / "nvidia"
        current = _read(folder / "current_vgpu_type")
        if not current.isdigit():
            continue
        parents.append(address)
        listed = creatable_types(folder)
        types.update((known.id, known) for known in listed)
        if int(current):
            type_id = f"nvidia-{int(current)}"
            carried.append((address, type_id))
            types.setdefault(type_id, VgpuType(type_id, type_id))
        else:
            creatable.update(known.id for known in listed)
    if not parents:
        return Card(gpu, None)
    return Card(
        gpu=gpu,
        framework=Framework.VENDOR_VFIO,
        types=tuple(sorted(types.values(), key=lambda known: int(known.id.rsplit("-", 1)[1]))),
        parents=tuple(parents),
        in_use=_held(root, carried) if carried else (),
        carried=tuple(carried),
        creatable=frozenset(creatable),
        function_id=_function_id(devices / str(parents[0])),
    )


def creatable_types(folder: Path) -> tuple[VgpuType, ...]:
    """Read the types that a virtual function can still become, `ID : NAME` lines below a heading.

    Names hold blanks, and ids are padded with them: the first colon parts the two.
    """
    lines = _read(folder / "creatable_vgpu_types").splitlines()
    found = filter(None, map(_CREATABLE.fullmatch, lines))
    return tuple(VgpuType(f"nvidia-{int(match[1])}", match[2]) for match in found)


def _function_id(path: Path) -> PciId | None:
    try:
        return PciId.parse(f"{_read(path / 'vendor')[2:]}:{_read(path / 'device')[2:]}")
    except ValueError:
        return None


def remembered_types(root: Path) -> dict[PciId, tuple[VgpuType, ...]]:
    """Return the types that cards were seen to offer, by the card's PCI id."""
    try:
        data = json.loads((root / _REMEMBERED).read_text(encoding="utf-8"))
        return {
            PciId.parse(card): tuple(VgpuType(str(type_id), str(name)) for type_id, name in rows)
            for card, rows in data.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember_carried(
    root: Path, cards: tuple[Card, ...], set_by_us: AbstractSet[PciAddress]
) -> None:
    """Keep which functions carry a type that we set: such a type alone is no sign of a guest.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    rows = {
        str(function): type_id
        for card in cards
        if card.gpu.address in set_by_us
        for function, type_id in card.carried
    }
    if rows or (root / _CARRIED).exists():
        ensure_text(root / _CARRIED, json.dumps(rows, indent=1, sort_keys=True) + "\n")


def _set_by_us(root: Path) -> AbstractSet[tuple[str, str]]:
    try:
        return set(json.loads((root / _CARRIED).read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _held(root: Path, carried: Iterable[tuple[PciAddress, str]]) -> tuple[str, ...]:
    """Return the functions that a guest has, or whose type somebody else set."""
    ours = _set_by_us(root)
    known = dict(carried)
    held = known.keys() & (guests.defined_functions(root) | guests.open_functions(root, known))
    foreign = {function for function in known if (str(function), known[function]) not in ours}
    return tuple(str(function) for function in sorted(held | foreign))


def remember_types(root: Path, cards: tuple[Card, ...]) -> None:
    """Keep what cards with vendor-specific VFIO offer, for the time when they are full.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = remembered_types(root)
    known.update({card.gpu.id: card.types for card in cards if card.creatable})
    rows = {str(card): [(found.id, found.name) for found in known[card]] for card in sorted(known)}
    if rows:
        ensure_text(root / _REMEMBERED, json.dumps(rows, indent=1) + "\n")
