# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices of this host's guests: in libvirt's definitions, or open in a process.

libvirt keeps the definition of a guest in /etc/libvirt/qemu/NAME.xml:
https://libvirt.org/formatdomain.html#host-device-assignment
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Iterable, Iterator

from gpu.pci import PciAddress
from state.mdev_records import UUID
from system import sysfs

__all__ = ["defined_functions", "defined_mdevs", "open_functions", "running_guests"]

_DOMAINS = Path("etc/libvirt/qemu")
_RUNNING_DOMAINS = Path("run/libvirt/qemu")  # NAME.xml while a guest is running
_MAX_BYTES = 1024 * 1024  # of one definition
_VFIO_DEVICE = re.compile(r".*/vfio/((?:devices/)?[A-Za-z0-9]+)(?: \(deleted\))?", re.ASCII)
_NUMBER = re.compile(r"\b(domain|bus|slot|function)=['\"]0x([0-9a-fA-F]{1,8})['\"]")


def running_guests(root: Path) -> tuple[str, ...]:
    """Return the names of the running guests, with or without a vGPU."""
    return tuple(sorted(path.stem for path in (root / _RUNNING_DOMAINS).glob("*.xml")))


def defined_mdevs(root: Path) -> frozenset[str]:
    """Return the UUIDs of the mediated devices in definitions of guests."""
    sources = (source for _, device, source in _sources(root) if "mdev" in device)
    return frozenset(uuid for source in sources for uuid in UUID.findall(source))


def defined_functions(root: Path) -> dict[PciAddress, str]:
    """Return the PCI functions in definitions of guests, each with the name of a guest."""
    functions = {}
    for guest, device, source in _sources(root):
        numbers = {name: int(number, 16) for name, number in _NUMBER.findall(source)}
        if "pci" in device and numbers.keys() >= {"bus", "slot", "function"}:
            place = (numbers["bus"], numbers["slot"], numbers["function"])
            functions[PciAddress(numbers.get("domain", 0), *place)] = guest
    return functions


def open_functions(root: Path, functions: Iterable[PciAddress]) -> frozenset[PciAddress]:
    """Return the PCI functions whose VFIO device is open in a process, which is a guest.

    The device is that of the IOMMU group, or with iommufd that of the function; every process is
    inspected once. Devices are compared by number as well as by path: libvirt gives each guest a
    /dev of its own, and paths in it may look different from outside.
    """
    devices: dict[str, set[PciAddress]] = {}  # functions may share a group
    for function in functions:
        for device in _vfio_devices(root, function):
            devices.setdefault(device, set()).add(function)
    return frozenset().union(*(devices.get(device, ()) for device in _open_vfio_devices(root)))


def _vfio_devices(root: Path, function: PciAddress) -> Iterator[str]:
    """Return paths and numbers, `major:minor`, of the devices through which a guest has it."""
    folder = sysfs.device(root, function)
    for name in _names(os.path.join(folder, "vfio-dev")):
        yield f"devices/{name}"
        yield sysfs.read(os.path.join(folder, "vfio-dev", name, "dev"))
    with contextlib.suppress(OSError):
        group = os.path.basename(os.readlink(os.path.join(folder, "iommu_group")))
        yield group
        yield sysfs.read(root / "sys/class/vfio" / group / "dev")


def _open_vfio_devices(root: Path) -> Iterator[str]:
    for process in filter(str.isdigit, _names(root / "proc")):
        folder = root / "proc" / process / "fd"
        for name in _names(folder):
            with contextlib.suppress(OSError):
                match = _VFIO_DEVICE.fullmatch(os.readlink(folder / name))
                if match is not None:
                    yield match[1]
                    number = os.stat(folder / name).st_rdev
                    yield f"{os.major(number)}:{os.minor(number)}"


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a process may end while it is inspected
        return []


def _sources(root: Path) -> Iterator[tuple[str, str, str]]:
    """Return each host device of each guest: the guest, its attributes, its source, as text."""
    for path in sorted((root / _DOMAINS).glob("*.xml")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_BYTES)
            for attributes, content in _elements(text, "hostdev"):
                for _, source in _elements(content, "source"):
                    yield path.stem, attributes, source
            for attributes, content in _elements(text, "interface"):
                for _, source in _elements(content, "source"):
                    if "hostdev" in attributes:  # as Neutron's ports with SR-IOV
                        yield path.stem, "pci", source


def _elements(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Return attributes and content of each element; a pattern could take hours on bad XML."""
    for chunk in text.split(f"<{name}")[1:]:
        attributes, _, rest = chunk.partition(">")
        content, end, _ = rest.partition(f"</{name}>")
        if end:
            yield attributes, content
