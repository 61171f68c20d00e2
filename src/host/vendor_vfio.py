# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that offer vGPUs through vendor-specific VFIO: types are assigned to virtual functions.

Nova calls it the kernel variant driver:
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from gpu.card import NAME_LIMIT, Card, Framework, VgpuType, type_number
from gpu.pci import Gpu, PciAddress, PciId
from system import sysfs
from system.text import one_line

__all__ = ["creatable_types", "inspect", "type_folder"]

_ID_FIRST = re.compile(r"\s*(?P<id>[0-9]{1,9})\s*:\s*(?P<name>\S.*?)\s*", re.ASCII)
_NAME_FIRST = re.compile(r"\s*(?P<name>[^:\s][^:]*?)\s+(?P<id>[0-9]{1,9})\s*", re.ASCII)


def inspect(root: Path, gpu: Gpu, known_types: tuple[VgpuType, ...]) -> Card | None:
    """Read what a card offers; None if it offers nothing through vendor-specific VFIO.

    Only `nvidia/` of the virtual functions counts; the card itself has none, or an unused one.
    The lists of types shrink as the card fills, down to their heading, so an empty list does not
    mean that there are no types. Guests are added later, by `guest_vgpus.with_functions_in_use`;
    a function whose type cannot be read counts as in use.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        known_types: types that such a card has reported earlier.
    """
    types = {vgpu_type.id: vgpu_type for vgpu_type in known_types}
    parents: list[PciAddress] = []
    assigned: list[tuple[PciAddress, str]] = []
    creatable: set[str] = set()
    unreadable: list[str] = []  # may have a guest's vGPU
    for address in gpu.virtual_functions:
        folder = type_folder(root, address)
        path = os.path.join(folder, "current_vgpu_type")
        current = sysfs.read_number(path)
        if current is None:
            unreadable += [str(address)] if os.path.lexists(path) else []
            continue
        parents.append(address)
        listed = creatable_types(folder)
        for vgpu_type in listed:
            types.setdefault(vgpu_type.id, vgpu_type)
        if current:
            type_id = f"nvidia-{current}"
            assigned.append((address, type_id))
            types.setdefault(type_id, VgpuType(type_id, type_id))
        else:
            creatable.update(vgpu_type.id for vgpu_type in listed)
    if not parents:
        return Card(gpu, None, in_use=tuple(unreadable)) if unreadable else None
    return Card(
        gpu=gpu,
        framework=Framework.VENDOR_VFIO,
        types=tuple(sorted(types.values(), key=lambda vgpu_type: type_number(vgpu_type.id) or 0)),
        parents=tuple(parents),
        in_use=tuple(unreadable),
        assigned_types=tuple(assigned),
        creatable=frozenset(creatable),
        function_id=_function_id(sysfs.device(root, parents[0])),
    )


def type_folder(root: Path, function: PciAddress) -> str:
    """Return the folder of a virtual function with current_vgpu_type and creatable_vgpu_types."""
    return os.path.join(sysfs.device(root, function), "nvidia")


def creatable_types(folder: str) -> tuple[VgpuType, ...]:
    """Read the types that can be assigned to a function: `ID : NAME` lines below a heading.

    Names contain blanks, and IDs are padded with them: the first colon separates the two. Some
    drivers are reported to write `NAME ID`.
    """
    return _parse_types(sysfs.read(os.path.join(folder, "creatable_vgpu_types")))


@functools.lru_cache(maxsize=64)  # hundreds of functions have the same list
def _parse_types(text: str) -> tuple[VgpuType, ...]:
    types = []
    for line in text.splitlines():
        match = _ID_FIRST.fullmatch(line) or _NAME_FIRST.fullmatch(line)
        if match is not None:
            type_id = f"nvidia-{int(match['id'])}"
            name = one_line(match["name"].strip(), NAME_LIMIT)
            types.append(VgpuType(type_id, name or type_id))
    return tuple(types)


def _function_id(folder: str) -> PciId | None:
    vendor, device = (sysfs.read(os.path.join(folder, name))[2:] for name in ("vendor", "device"))
    try:
        return PciId.parse(f"{vendor}:{device}")
    except ValueError:
        return None
