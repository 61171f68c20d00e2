# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's GPUs on the PCI buses of a host, from /sys/bus/pci/devices.

https://docs.kernel.org/PCI/sysfs-pci.html
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from gpu.pci import GPU_CLASSES, NVIDIA, Gpu, PciAddress, PciId
from system import sysfs
from system.text import one_line

__all__ = ["GpuScan", "is_virtual_function", "read", "scan"]

_VIRTUAL_FUNCTION_LINK = re.compile(r"virtfn([0-9]{1,6})", re.ASCII)

logger = logging.getLogger(__name__)


class GpuScan(NamedTuple):
    """The GPUs of a host.

    Attributes:
        gpus: NVIDIA's GPUs in the order of their addresses; never a virtual function.
        unreadable: NVIDIA's functions whose attributes cannot be read; they may be GPUs.
    """

    gpus: tuple[Gpu, ...]
    unreadable: tuple[PciAddress, ...] = ()


def scan(root: Path) -> GpuScan:
    """Find the GPUs of a host.

    A device that cannot be read is left out with a warning, and hides no other.
    """
    devices = root / sysfs.PCI_DEVICES
    unreadable: list[PciAddress] = []
    gpus: list[Gpu] = []
    for name in _names(devices):
        try:
            address = PciAddress.parse(name)
        except ValueError:
            logger.warning("%s: not a PCI address, skipped", one_line(str(devices / name), 300))
            continue
        if is_virtual_function(devices / name):
            continue  # it has the vendor, the class and often the device ID of its card
        try:
            gpu = _read_gpu(devices / name, address)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read, skipped: %s", devices / name, error)
            if sysfs.read_hexadecimal(devices / name / "vendor") == NVIDIA:
                unreadable.append(address)
            continue
        if gpu is not None:
            gpus.append(gpu)
    gpus.sort(key=lambda gpu: gpu.address)
    return GpuScan(tuple(gpus), tuple(sorted(unreadable)))


def read(root: Path, address: PciAddress) -> Gpu | None:
    """Read one GPU; None if it cannot be read any more, as after it has fallen off the bus."""
    try:
        return _read_gpu(Path(sysfs.device(root, address)), address)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", address, error)
        return None


def is_virtual_function(folder: str | Path) -> bool:
    """Whether a PCI function is a virtual one: it has a link to its physical function."""
    return os.path.lexists(os.path.join(folder, "physfn"))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # a host, or a container, without a PCI bus
        return []


def _read_gpu(path: Path, address: PciAddress) -> Gpu | None:
    vendor = _hex_number(path / "vendor")
    # The last byte of the class is the programming interface.
    if vendor != NVIDIA or _hex_number(path / "class") >> 8 not in GPU_CLASSES:
        return None
    return Gpu(
        address=address,
        id=PciId(vendor, _hex_number(path / "device")),
        subsystem=_subsystem(path),
        driver=sysfs.link_name(path / "driver"),
        numa_node=sysfs.read_number(path / "numa_node"),
        total_vfs=sysfs.read_number(path / "sriov_totalvfs") or 0,
        virtual_functions=_virtual_functions(path),
    )


def _hex_number(path: Path) -> int:
    return int(path.read_text(encoding="ascii").strip(), 16)


def _subsystem(path: Path) -> PciId | None:
    vendor = sysfs.read_hexadecimal(path / "subsystem_vendor")
    device = sysfs.read_hexadecimal(path / "subsystem_device")
    return None if vendor is None or device is None else PciId(vendor, device)


def _virtual_functions(path: Path) -> tuple[PciAddress, ...]:
    """Follow the virtfnN links: how functions are numbered differs from card to card."""
    functions = []
    for name in os.listdir(path):
        match = _VIRTUAL_FUNCTION_LINK.fullmatch(name)
        if match is None:
            continue
        try:
            target = os.path.basename(os.readlink(os.path.join(path, name)))
            functions.append((int(match[1]), PciAddress.parse(target)))
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be followed, skipped: %s", path / name, error)
    return tuple(dict.fromkeys(address for _, address in sorted(functions)))
