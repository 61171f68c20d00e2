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
_NUMBER = re.compile(r"\b(domain|bus|slot|function)=['\"]0x([0-9a-fA-F]{1,8})['\"]")


def running_guests(root: Path) -> tuple[str, ...]:
    """Return the names of the running guests, with or without a vGPU."""
    return tuple(sorted(path.stem for path in (root / _RUNNING_DOMAINS).glob("*.xml")))


def defined_mdevs(root: Path) -> frozenset[str]:
    """Return the UUIDs of the mediated devices in definitions of guests."""
    sources = (source for device, source in _sources(root) if "mdev" in device)
    return frozenset(uuid for source in sources for uuid in UUID.findall(source))


def defined_functions(root: Path) -> frozenset[PciAddress]:
    """Return the addresses of the PCI functions in definitions of guests."""
    addresses = set()
    for device, source in _sources(root):
        numbers = {name: int(number, 16) for name, number in _NUMBER.findall(source)}
        if "pci" in device and numbers.keys() >= {"bus", "slot", "function"}:
            place = (numbers["bus"], numbers["slot"], numbers["function"])
            addresses.add(PciAddress(numbers.get("domain", 0), *place))
    return frozenset(addresses)


def open_functions(root: Path, functions: Iterable[PciAddress]) -> frozenset[PciAddress]:
    """Return the PCI functions whose VFIO device is open in a process, which is a guest.

    The device is /dev/vfio/GROUP, or /dev/vfio/devices/NAME with iommufd; every process is
    inspected once.
    """
    nodes: dict[str, set[PciAddress]] = {}  # functions may share a group
    for function in functions:
        folder = sysfs.device(root, function)
        for name in _names(os.path.join(folder, "vfio-dev")):
            nodes.setdefault(f"/dev/vfio/devices/{name}", set()).add(function)
        with contextlib.suppress(OSError):
            group = os.path.basename(os.readlink(os.path.join(folder, "iommu_group")))
            nodes.setdefault(f"/dev/vfio/{group}", set()).add(function)
    return frozenset().union(*(nodes.get(target, ()) for target in _open_files(root)))


def _open_files(root: Path) -> Iterator[str]:
    for process in filter(str.isdigit, _names(root / "proc")):
        folder = root / "proc" / process / "fd"
        for name in _names(folder):
            with contextlib.suppress(OSError):
                yield os.readlink(folder / name)


def _names(folder: str | Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a process may end while it is inspected
        return []


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    """Return the attributes and the source of each host device of each guest, as text."""
    for path in sorted((root / _DOMAINS).glob("*.xml")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            for attributes, content in _elements(file.read(_MAX_BYTES), "hostdev"):
                for _, source in _elements(content, "source"):
                    yield attributes, source


def _elements(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Return attributes and content of each element; a pattern could take hours on bad XML."""
    for chunk in text.split(f"<{name}")[1:]:
        attributes, _, rest = chunk.partition(">")
        content, end, _ = rest.partition(f"</{name}>")
        if end:
            yield attributes, content
