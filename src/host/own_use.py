# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the host itself does with a PCI function: network, disks, display, programs.

A function that the host uses is never given to a guest.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Iterator

from gpu.pci import PciFunction
from gpu.problems import Problem, ProblemKind
from host import nvml_clients
from system import sysfs

__all__ = ["find"]

_STORAGE = 0x01  # the class of disk controllers, https://pci-ids.ucw.cz/read/PD
# Destinations that every interface has: link-local and multicast addresses.
_LOCAL_IPV6 = re.compile(r"fe[89ab]|ff", re.IGNORECASE)


def find(root: Path, function: PciFunction) -> Problem | None:
    """Return what the host uses a function for; None if it uses it for nothing."""
    address = function.address
    folder = sysfs.device(root, address)
    if sysfs.read(os.path.join(folder, "boot_vga")) == "1":
        return Problem(ProblemKind.BOOT_DISPLAY, address)
    for interface in sorted(sysfs.names(os.path.join(folder, "net"))):
        use = _network_use(root, interface)
        if use:
            return Problem(ProblemKind.HOST_NETWORK, address, interface=interface, use=use)
    if function.pci_class >> 8 == _STORAGE:
        disk = next(_disks_in_use(root, folder), None)
        if disk is not None:
            return Problem(ProblemKind.HOST_STORAGE, address, disk=disk)
    if function.driver == "nvidia":
        client = nvml_clients.find_user(root, address)
        if client is not None:
            return Problem(ProblemKind.USED_BY_PROGRAM, address, program=client)
    return None


def _network_use(root: Path, interface: str) -> str:
    """Return what a network interface is used for; empty if it is not used.

    https://docs.kernel.org/networking/proc_net_tcp.html and proc(5) describe /proc/net.
    """
    folder = root / "sys/class/net" / interface
    for name in sorted(sysfs.names(folder)):
        if name == "master" or name.startswith("upper_"):  # a bond, a bridge, a VLAN
            return f"part of {os.path.basename(os.path.realpath(folder / name))}"
    for row in _rows(root / "proc/net/route"):
        if row[0] == interface:
            return "default route" if row[1] == "00000000" else "has an address"
    for name in ("if_inet6", "ipv6_route"):
        rows = (row for row in _rows(root / "proc/net" / name) if row[-1] == interface)
        if any(not _LOCAL_IPV6.match(row[0]) for row in rows):
            return "has an address"
    return ""


def _rows(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in sysfs.read(path).splitlines() if line.strip())


def _disks_in_use(root: Path, folder: str) -> Iterator[str]:
    """Return the disks of a controller that are mounted, or part of another disk.

    Disks below it are those whose real path is below that of the controller; a logical volume or
    a RAID array appears in the holders of its disks.
    """
    controller = os.path.realpath(folder) + os.sep
    mounted = {row[2] for row in _rows(root / "proc/1/mountinfo") if len(row) > 2}
    swaps = {os.path.basename(row[0]) for row in _rows(root / "proc/swaps")}
    for name in sorted(sysfs.names(root / "sys/class/block")):
        path = os.path.realpath(root / "sys/class/block" / name)
        if path.startswith(controller) and (
            sysfs.read(os.path.join(path, "dev")) in mounted
            or name in swaps
            or sysfs.names(os.path.join(path, "holders"))
            or _is_claimed(root / "dev" / name)
        ):
            yield name


def _is_claimed(device: Path) -> bool:
    """Whether the kernel or a program has a disk for itself, as ZFS and Ceph: open(2), O_EXCL."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
