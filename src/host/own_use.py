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
from host import nvml_clients, programs
from system import sysfs

__all__ = ["find"]

# Destinations that every interface has: link-local and multicast addresses.
_LOCAL_IPV6 = re.compile(r"fe[89ab]|ff", re.IGNORECASE)


def find(root: Path, function: PciFunction) -> Problem | None:
    """Return what the host uses a function for; None if it uses it for nothing.

    Interfaces and disks may be far below their function: behind a bus of virtio or USB, or as a
    part of a device with several controllers.
    """
    address = function.address
    folder = sysfs.device(root, address)
    place = os.path.realpath(folder) + os.sep
    if sysfs.read(os.path.join(folder, "boot_vga")) == "1":
        return Problem(ProblemKind.BOOT_DISPLAY, address)
    for interface in _interfaces(root, place):
        use = _network_use(root, interface)
        if use:
            return Problem(ProblemKind.HOST_NETWORK, address, interface=interface, use=use)
    if _has_hidden_interface(place):
        interface, use = "its interface", "in another network namespace"
        return Problem(ProblemKind.HOST_NETWORK, address, interface=interface, use=use)
    disk = next(_disks_in_use(root, place), None)
    if disk is not None:
        return Problem(ProblemKind.HOST_STORAGE, address, disk=disk)
    if _has_user_space_driver(function, folder):
        return Problem(ProblemKind.USER_SPACE_DRIVER, address, driver=str(function.driver))
    program = _program(root, function, place)
    if program is not None:
        return Problem(ProblemKind.USED_BY_PROGRAM, address, program=program)
    return None


def _program(root: Path, function: PciFunction, place: str) -> str | None:
    """Return a program that has a device of a function open; None if there is none."""
    driver = function.driver or ""
    if driver == "nvidia":
        client = nvml_clients.find_user(root, function.address)
        if client is not None:
            return client
    devices = dict(_device_nodes(root, place))
    patterns = [*map(re.escape, devices.values())]
    if driver == "nvidia-nvswitch":  # which of its devices belongs to which switch is not shown
        patterns.append("nvidia-nvswitch.*")
    if not patterns:
        return None
    path = re.compile(f"/dev/(?:.*/)?(?:{'|'.join(patterns)})")
    return next(iter(programs.with_open(root, path, devices.keys())), None)


def _device_nodes(root: Path, place: str) -> Iterator[tuple[str, str]]:
    """Yield kind and number, and the name, of each device node below a function.

    Such as those of DRM, RDMA, PTP, disks and sound; see /sys/dev in sysfs(5).
    """
    for kind in ("block", "char"):
        folder = root / "sys/dev" / kind
        for number in sysfs.names(folder):
            path = os.path.realpath(folder / number)
            if _is_below(path, place):
                yield f"{kind} {number}", os.path.basename(path)


def _has_user_space_driver(function: PciFunction, folder: str) -> bool:
    """Whether somebody has chosen a driver for programs, such as DPDK, or a variant of vfio-pci.

    https://docs.kernel.org/driver-api/uio-howto.html
    """
    is_variant = "vfio" in (function.driver or "") or bool(
        sysfs.names(os.path.join(folder, "vfio-dev"))
    )
    return is_variant or bool(sysfs.names(os.path.join(folder, "uio")))


def _interfaces(root: Path, place: str) -> list[str]:
    """Return the network interfaces below a function."""
    folder = root / "sys/class/net"
    below = [
        name for name in sysfs.names(folder) if os.path.realpath(folder / name).startswith(place)
    ]
    return sorted({*below, *sysfs.names(os.path.join(place, "net"))})


def _has_hidden_interface(place: str) -> bool:
    """Whether an interface is in another namespace, such as a container's.

    The folder of the interfaces exists as long as there is one, but shows only those of the
    namespace of the reader.
    """
    return any(
        os.path.basename(folder) == "net" and not folders and not files
        for folder, folders, files in os.walk(place.rstrip(os.sep))
    )


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


def _disks_in_use(root: Path, place: str) -> Iterator[str]:
    """Return the disks below a function that are mounted, or part of another disk.

    A logical volume or a RAID array appears in the holders of its disks.
    """
    mounted = {row[2] for row in _rows(root / "proc/1/mountinfo") if len(row) > 2}
    swaps = {os.path.basename(row[0]) for row in _rows(root / "proc/swaps")}
    for name in sorted(sysfs.names(root / "sys/class/block")):
        path = os.path.realpath(root / "sys/class/block" / name)
        if _is_below(path, place) and (
            sysfs.read(os.path.join(path, "dev")) in mounted
            or name in swaps
            or sysfs.names(os.path.join(path, "holders"))
            or _is_claimed(root / "dev" / name)
        ):
            yield name


def _is_below(device: str, place: str) -> bool:
    """Whether a device is below a function.

    The disks of NVMe with several paths are below a virtual device, which links to its
    controllers: https://docs.kernel.org/admin-guide/nvme-multipath.html
    """
    if device.startswith(place):
        return True
    subsystems = [path for path in Path(device).parents if path.name.startswith("nvme-subsys")]
    return any(
        os.path.realpath(subsystem / name).startswith(place)
        for subsystem in subsystems
        for name in sysfs.names(subsystem)
    )


def _is_claimed(device: Path) -> bool:
    """Whether the kernel or a program has a disk for itself, as ZFS and Ceph: open(2), O_EXCL."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
