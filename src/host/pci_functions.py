# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""PCI functions of any kind, from /sys/bus/pci/devices.

https://docs.kernel.org/PCI/sysfs-pci.html
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable

from gpu.pci import NVIDIA, NVSWITCH_CLASS, Device, PciAddress, PciFunction, PciId
from system import sysfs

__all__ = ["group_members", "nvswitches", "read", "select"]


def select(root: Path, devices: Iterable[Device]) -> tuple[PciFunction, ...]:
    """Return the functions that some devices mean, in the order of their addresses.

    An ID does not mean virtual functions with the ID of their card, as GPUs have.
    """
    devices = frozenset(devices)
    addresses = {device for device in devices if isinstance(device, PciAddress)}
    ids = {device for device in devices if isinstance(device, PciId)}
    functions = {address: read(root, address) for address in addresses}
    for address in _with_ids(root, ids) if ids else ():
        functions.setdefault(address, read(root, address))
    return tuple(filter(None, (functions[address] for address in sorted(functions))))


def read(root: Path, address: PciAddress) -> PciFunction | None:
    """Read a function; None if there is none at the address, or it does not answer."""
    folder = sysfs.device(root, address)
    pci_id, pci_class = _id(folder), sysfs.read_hexadecimal(os.path.join(folder, "class"))
    if pci_id is None or pci_class is None:
        return None
    return PciFunction(
        address=address,
        id=pci_id,
        pci_class=pci_class >> 8,
        driver=sysfs.link_name(os.path.join(folder, "driver")),
        numa_node=sysfs.read_number(os.path.join(folder, "numa_node")),
        iommu_group=sysfs.link_name(os.path.join(folder, "iommu_group")),
        total_vfs=sysfs.read_number(os.path.join(folder, "sriov_totalvfs")) or 0,
        enabled_vfs=sysfs.read_number(os.path.join(folder, "sriov_numvfs")) or 0,
        physical_function=_address(sysfs.link_name(os.path.join(folder, "physfn")) or ""),
        bridges=_bridges(folder),
    )


def group_members(root: Path, function: PciFunction) -> tuple[PciFunction, ...]:
    """Return the other functions of an IOMMU group, without bridges, which need no driver.

    https://docs.kernel.org/driver-api/vfio.html
    """
    folder = os.path.join(sysfs.device(root, function.address), "iommu_group", "devices")
    addresses = filter(None, map(_address, sysfs.names(folder)))
    members = (read(root, address) for address in sorted(addresses))
    return tuple(
        member
        for member in members
        if member and member.address != function.address and not member.is_bridge
    )


def nvswitches(root: Path) -> tuple[PciAddress, ...]:
    """Return NVIDIA's NVSwitches, which connect the cards of an HGX board."""
    found = []
    for name in sysfs.names(root / sysfs.PCI_DEVICES):
        folder = os.path.join(root, sysfs.PCI_DEVICES, name)
        address = _address(name)
        if address is None or sysfs.read_hexadecimal(os.path.join(folder, "vendor")) != NVIDIA:
            continue
        pci_class = sysfs.read_hexadecimal(os.path.join(folder, "class"))
        if pci_class is not None and pci_class >> 8 == NVSWITCH_CLASS:
            found.append(address)
    return tuple(sorted(found))


def _bridges(folder: str) -> tuple[str, ...]:
    """Return the parts of the place of a function from its root complex to the last bridge."""
    parts = os.path.realpath(folder).split(os.sep)[:-1]
    roots = [number for number, part in enumerate(parts) if part.startswith("pci")]
    return tuple(parts[roots[-1] :]) if roots else ()


def _with_ids(root: Path, ids: set[PciId]) -> list[PciAddress]:
    vendors = {f"0x{pci_id.vendor:04x}" for pci_id in ids}
    found = []
    for name in sysfs.names(root / sysfs.PCI_DEVICES):
        folder = os.path.join(root, sysfs.PCI_DEVICES, name)
        address = _address(name)
        if address is None or sysfs.read(os.path.join(folder, "vendor")) not in vendors:
            continue
        pci_id = _id(folder)
        if pci_id in ids and _id(os.path.join(folder, "physfn")) != pci_id:
            found.append(address)
    return found


def _id(folder: str) -> PciId | None:
    vendor = sysfs.read_hexadecimal(os.path.join(folder, "vendor"))
    device = sysfs.read_hexadecimal(os.path.join(folder, "device"))
    return None if vendor is None or device is None else PciId(vendor, device)


def _address(name: str) -> PciAddress | None:
    try:
        return PciAddress.parse(name)
    except ValueError:
        return None
