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
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from pci import Gpu, PciAddress

__all__ = ["Card", "Framework", "VgpuType", "inspect"]

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
        in_use: the vGPUs that exist now, by UUID (mdev) or virtual function (vendor VFIO).
        types_in_use: the ids of their types (mdev).
    """

    gpu: Gpu
    framework: Framework | None
    types: tuple[VgpuType, ...] = ()
    parents: tuple[PciAddress, ...] = ()
    in_use: tuple[str, ...] = ()
    types_in_use: tuple[str, ...] = ()

    def find_type(self, wanted: str) -> VgpuType | None:
        """Return the type that an operator's word means on this card, or None."""
        return next((known for known in self.types if known.is_called(wanted)), None)


def inspect(root: Path, gpu: Gpu, *, count: bool = False) -> Card:
    """Read what one card offers.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        count: whether to add up the free instances; that reads one file for each type of each
            virtual function.
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
        mdevs = _mdevs(devices, parents)
        used = tuple(sorted(set(mdevs.values())))
        return Card(gpu, Framework.MDEV, types, parents, tuple(sorted(mdevs)), used)
    return _vendor_vfio_card(devices, gpu)


def _mdev_types(folders: list[Path], count: bool) -> tuple[VgpuType, ...]:
    """Read the types of the first parent; the others of a card offer the same ones."""
    types = []
    known = filter(_TYPE_ID.fullmatch, _names(folders[0]))
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


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:  # a card that fell off its bus answers with EIO
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


def _mdevs(devices: Path, parents: tuple[PciAddress, ...]) -> dict[str, str]:
    """Return the types of a card's mediated devices: folders of its parents, by their UUID."""
    found = {}
    for address in parents:
        folder = devices / str(address)
        for name in _names(folder):
            if len(name) == 36 and os.path.lexists(folder / name / "mdev_type"):
                found[name] = os.path.basename(os.readlink(folder / name / "mdev_type"))
    return found


def _vendor_vfio_card(devices: Path, gpu: Gpu) -> Card:
    """Read `nvidia/` of the virtual functions; the card itself has none, or an unused one.

    The list of types shrinks as the card fills, down to its heading, so the functions' lists
    are joined, and an empty one says nothing.
    """
    parents, in_use, types = [], [], {}
    for address in gpu.virtual_functions:
        folder = devices / str(address) / "nvidia"
        current = _read(folder / "current_vgpu_type")
        if not current:
            continue
        parents.append(address)
        if current != "0":
            in_use.append(str(address))
        for line in _read(folder / "creatable_vgpu_types").splitlines():
            match = _CREATABLE.fullmatch(line)
            if match is not None:
                types[int(match[1])] = VgpuType(f"nvidia-{match[1]}", match[2])
    if not parents:
        return Card(gpu, None)
    ordered = tuple(types[number] for number in sorted(types))
    return Card(gpu, Framework.VENDOR_VFIO, ordered, tuple(parents), tuple(in_use))
