# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that offer vGPUs as mediated devices, on themselves or on their virtual functions.

https://docs.kernel.org/driver-api/vfio-mediated-device.html
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gpu.card import (
    NAME_LIMIT,
    Card,
    Framework,
    VgpuType,
    description_number,
    type_number,
)
from gpu.pci import Gpu, PciAddress
from system import sysfs
from system.text import one_line

__all__ = ["existing_mdevs", "inspect"]

_UUID_LENGTH = 36


def inspect(root: Path, gpu: Gpu, *, count: bool = False) -> Card | None:
    """Read what a card offers; None if it offers no mediated devices.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        count: whether to add up the available instances, which reads one file for each type of
            each virtual function.
    """
    folders = {
        address: folder
        for address in (gpu.address, *gpu.virtual_functions)
        for folder in [os.path.join(sysfs.device(root, address), "mdev_supported_types")]
        if os.path.isdir(folder)
    }
    if not folders:
        return None
    mdevs = {address: existing_mdevs(root, (address,)) for address in folders}
    types_in_use = {uuid: type_id for on in mdevs.values() for uuid, type_id in on.items()}
    return Card(
        gpu=gpu,
        framework=Framework.MDEV,
        types=_read_types(list(folders.values()), count, list(types_in_use.values())),
        parents=tuple(folders),
        in_use=tuple(sorted(types_in_use)),
        guest_vgpus=tuple(
            (address, type_id) for address in mdevs for type_id in mdevs[address].values()
        ),
    )


def existing_mdevs(root: Path, parents: tuple[PciAddress, ...]) -> dict[str, str]:
    """Return the type IDs of the mediated devices on some parents, by UUID."""
    mdevs = {}
    for address in parents:
        folder = sysfs.device(root, address)
        for name in sysfs.names(folder):
            if len(name) == _UUID_LENGTH:
                link = os.path.join(folder, name, "mdev_type")
                with contextlib.suppress(OSError):  # not a device, or one that has just gone
                    mdevs[name] = os.path.basename(os.readlink(link))
    return mdevs


def _read_types(folders: list[str], count: bool, in_use: list[str]) -> tuple[VgpuType, ...]:
    """Read the types of the first parent; the others of a card offer the same ones."""
    numbers = ((type_number(name), name) for name in sysfs.names(folders[0]))
    type_ids = [name for _, name in sorted(pair for pair in numbers if pair[0] is not None)]
    return tuple(_read_type(folders, type_id, count, in_use) for type_id in type_ids)


def _read_type(folders: list[str], type_id: str, count: bool, in_use: list[str]) -> VgpuType:
    folder = os.path.join(folders[0], type_id)
    description = sysfs.read(os.path.join(folder, "description"))
    limit = description_number(description, "max_instance")
    available = None
    if count:  # each virtual function reports 1, even where the card has less room
        available = sum(_available_instances(os.path.join(on, type_id)) for on in folders)
        if limit is not None:
            available = min(available, max(limit - in_use.count(type_id), 0))
    return VgpuType(
        id=type_id,
        name=one_line(sysfs.read(os.path.join(folder, "name")).strip(), NAME_LIMIT) or type_id,
        description=one_line(description, 300),
        max_instances=limit,
        available_instances=available,
    )


def _available_instances(folder: str) -> int:
    return sysfs.read_number(os.path.join(folder, "available_instances")) or 0
