# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that offer vGPUs as mediated devices, on themselves or on their virtual functions.

https://docs.kernel.org/driver-api/vfio-mediated-device.html
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gpu.card import NAME_LIMIT, Card, Framework, VgpuType, stated, type_number
from host.gpus import Gpu, PciAddress
from system.sysfs import names, read, read_number
from system.text import one_line

__all__ = ["inspect", "present"]


def inspect(root: Path, gpu: Gpu, *, count: bool = False) -> Card | None:
    """Read what a card offers; None if that is no mediated device.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        count: whether to add up the free instances; that reads one file for each type of each
            virtual function.
    """
    devices = os.path.join(root, "sys/bus/pci/devices")  # a Path would cost more than the reading
    parents = tuple(
        address
        for address in (gpu.address, *gpu.virtual_functions)
        if os.path.isdir(os.path.join(devices, str(address), "mdev_supported_types"))
    )
    if not parents:
        return None
    folders = [os.path.join(devices, str(address), "mdev_supported_types") for address in parents]
    found = {address: present(root, (address,)) for address in parents}
    used = {uuid: type_id for mdevs in found.values() for uuid, type_id in mdevs.items()}
    return Card(
        gpu=gpu,
        framework=Framework.MDEV,
        types=_types(folders, count, list(used.values())),
        parents=parents,
        in_use=tuple(sorted(used)),
        guest_vgpus=tuple(
            (address, type_id) for address, mdevs in found.items() for type_id in mdevs.values()
        ),
    )


def present(root: Path, parents: tuple[PciAddress, ...]) -> dict[str, str]:
    """Return the types of the mediated devices on some parents, by their UUID."""
    found = {}
    for address in parents:
        folder = os.path.join(root, "sys/bus/pci/devices", str(address))
        for name in names(folder):
            if len(name) == 36:
                link = os.path.join(folder, name, "mdev_type")
                with contextlib.suppress(OSError):  # no device, or one that has just gone
                    found[name] = os.path.basename(os.readlink(link))
    return found


def _types(folders: list[str], count: bool, used: list[str]) -> tuple[VgpuType, ...]:
    """Read the types of the first parent; the others of a card offer the same ones."""
    numbers = ((type_number(name), name) for name in names(folders[0]))
    types = []
    for _, type_id in sorted((number, name) for number, name in numbers if number is not None):
        folder = os.path.join(folders[0], type_id)
        description = read(os.path.join(folder, "description"))
        maximum = stated(description, "max_instance")
        available = None
        if count:  # each virtual function says 1, also where the card does not hold so many
            available = sum(_available(os.path.join(parent, type_id)) for parent in folders)
            if maximum is not None:
                available = min(available, max(maximum - used.count(type_id), 0))
        types.append(
            VgpuType(
                id=type_id,
                name=one_line(read(os.path.join(folder, "name")).strip(), NAME_LIMIT) or type_id,
                description=one_line(description, 300),
                max_instances=maximum,
                available_instances=available,
            )
        )
    return tuple(types)


def _available(folder: str) -> int:
    return read_number(os.path.join(folder, "available_instances")) or 0
