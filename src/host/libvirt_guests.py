# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices that guests of this host have: defined with them, running or not, or open.

libvirt keeps a definition in /etc/libvirt/qemu/NAME.xml:
https://libvirt.org/formatdomain.html#host-device-assignment
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Iterable, Iterator

from host.gpus import PciAddress

__all__ = ["defined_functions", "defined_mdevs", "open_functions"]

_DOMAINS = Path("etc/libvirt/qemu")
_MAX_BYTES = 1024 * 1024  # of one definition
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_NUMBER = re.compile(r"\b(domain|bus|slot|function)=['\"]0x([0-9a-fA-F]{1,8})['\"]")


def defined_mdevs(root: Path) -> frozenset[str]:
    """Return the UUIDs of mediated devices."""
    sources = (text for kind, text in _sources(root) if "mdev" in kind)
    return frozenset(uuid for text in sources for uuid in _UUID.findall(text))


def defined_functions(root: Path) -> frozenset[PciAddress]:
    """Return the addresses of PCI functions."""
    found = set()
    for kind, text in _sources(root):
        numbers = {name: int(number, 16) for name, number in _NUMBER.findall(text)}
        if "pci" in kind and numbers.keys() >= {"bus", "slot", "function"}:
            parts = (numbers["bus"], numbers["slot"], numbers["function"])
            found.add(PciAddress(numbers.get("domain", 0), *parts))
    return frozenset(found)


def open_functions(root: Path, functions: Iterable[PciAddress]) -> frozenset[PciAddress]:
    """Return those PCI functions whose VFIO device a process, that is a guest, holds open.

    /dev/vfio/GROUP, or /dev/vfio/devices/NAME with iommufd; every process is looked at once.
    """
    nodes: dict[str, set[PciAddress]] = {}  # functions may share a group
    for function in functions:
        path = root / "sys/bus/pci/devices" / str(function)
        for name in _names(path / "vfio-dev"):
            nodes.setdefault(f"/dev/vfio/devices/{name}", set()).add(function)
        with contextlib.suppress(OSError):
            group = os.path.basename(os.readlink(path / "iommu_group"))
            nodes.setdefault(f"/dev/vfio/{group}", set()).add(function)
    return frozenset().union(*(nodes.get(target, ()) for target in _open_files(root)))


def _open_files(root: Path) -> Iterator[str]:
    for process in filter(str.isdigit, _names(root / "proc")):
        folder = root / "proc" / process / "fd"
        for name in _names(folder):
            with contextlib.suppress(OSError):
                yield os.readlink(folder / name)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a process may end while it is looked at
        return []


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    """Return what each device of each guest is, and where on the host; only looked for as text."""
    for path in sorted((root / _DOMAINS).glob("*.xml")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            for device in _elements(file.read(_MAX_BYTES), "hostdev"):
                for source in _elements(device[1], "source"):
                    yield device[0], source[1]


def _elements(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Return attributes and content of each element; a pattern would take hours over bad XML."""
    for piece in text.split(f"<{name}")[1:]:
        attributes, _, rest = piece.partition(">")
        content, end, _ = rest.partition(f"</{name}>")
        if end:
            yield attributes, content
