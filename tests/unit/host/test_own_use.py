# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the host itself uses is never given to a guest: its network, its disks, its display."""

from __future__ import annotations

import errno
import os

import pytest

from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host import own_use, pci_functions

NIC = {"address": "0000:5e:00.0", "id": "15b3:1021", "class": "020000", "driver": "mlx5_core"}
DISK = {"address": "0000:01:00.0", "id": "144d:a80a", "class": "010802", "driver": "nvme"}
ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
ZERO = "00000000000000000000000000000000"


@pytest.fixture
def build(host):
    """Build a host with one function; return its root and that function's folder."""

    def build_with(function):
        root = host("no-gpu", functions=[function])
        return root, (root / "sys/bus/pci/devices" / function["address"]).resolve()

    return build_with


def find(root, function):
    read = pci_functions.read(root, PciAddress.parse(function["address"]))
    return own_use.find(root, read)


def add_interface(root, folder, name="ens1"):
    """Add the interface of a network function, as the kernel shows it."""
    (folder / "net" / name).mkdir(parents=True)
    (root / "sys/class/net").mkdir(parents=True)
    (root / "sys/class/net" / name).symlink_to(folder / "net" / name)
    return folder / "net" / name


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def network(use):
    arguments = {"interface": "ens1", "use": use}
    return Problem(ProblemKind.HOST_NETWORK, PciAddress.parse(NIC["address"]), **arguments)


def test_idle_interface_is_not_in_use(build):
    """Each interface has link-local and multicast addresses; routes may be of other ones."""
    root, folder = build(NIC)
    add_interface(root, folder)
    write(root, "proc/net/route", f"{ROUTE}ens2\t00000000\t010AA8C0\t0003\t0\t0\t0\t00000000\n")
    write(root, "proc/net/if_inet6", "fe8000000000000056bf64fffe000001 02 40 20 80 ens1\n")
    routes = f"ff{ZERO[2:]} 08 {ZERO} 00 {ZERO} 0100 01 00 01 ens1\n"
    write(root, "proc/net/ipv6_route", routes)
    assert find(root, NIC) is None


@pytest.mark.parametrize(
    ("path", "text", "use"),
    [
        (
            "proc/net/route",
            f"{ROUTE}ens1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n",
            "has an address",
        ),
        (
            "proc/net/route",
            f"{ROUTE}ens1\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n",
            "default route",
        ),
        (
            "proc/net/if_inet6",
            "20010db8000000000000000000000001 02 40 00 80 ens1\n",
            "has an address",
        ),
        (
            "proc/net/ipv6_route",
            f"{ZERO} 00 {ZERO} 00 fe80{ZERO[4:]} 0400 01 00 03 ens1\n",
            "has an address",
        ),
    ],
)
def test_interface_with_an_address_or_a_route_is_in_use(build, path, text, use):
    root, folder = build(NIC)
    add_interface(root, folder)
    write(root, path, text)
    assert find(root, NIC) == network(use)


@pytest.mark.parametrize("link", ["master", "upper_bond0"])
def test_interface_that_is_part_of_a_bond_or_bridge_is_in_use(build, link):
    root, folder = build(NIC)
    interface = add_interface(root, folder)
    (root / "sys/class/net/bond0").mkdir()
    (interface / link).symlink_to(root / "sys/class/net/bond0")
    assert find(root, NIC) == network("part of bond0")


@pytest.mark.parametrize(
    ("pci_class", "place"),
    [
        ("020000", "virtio0/net"),
        ("020000", "mlx5_core.sf.2/net"),
        ("0c0330", "usb1/1-1/1-1:1.0/net"),
    ],
    ids=["virtio", "sub-function", "USB"],
)
def test_interface_far_below_its_function_is_in_use(build, pci_class, place):
    function = {**NIC, "class": pci_class}
    root, folder = build(function)
    (folder / place / "ens1").mkdir(parents=True)
    (root / "sys/class/net").mkdir(parents=True)
    (root / "sys/class/net/ens1").symlink_to(folder / place / "ens1")
    write(root, "proc/net/route", f"{ROUTE}ens1\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\n")
    assert find(root, function) == network("default route")


def add_disk(root, folder):
    disk = folder / "nvme/nvme0/nvme0n1"
    (disk / "holders").mkdir(parents=True)
    (disk / "dev").write_text("259:0\n")
    (disk / "nvme0n1p1/holders").mkdir(parents=True)
    (disk / "nvme0n1p1/dev").write_text("259:1\n")
    blocks = root / "sys/class/block"
    blocks.mkdir(parents=True)
    (blocks / "nvme0n1").symlink_to(disk)
    (blocks / "nvme0n1p1").symlink_to(disk / "nvme0n1p1")
    return disk


def storage(disk):
    kind = ProblemKind.HOST_STORAGE
    return Problem(kind, PciAddress.parse(DISK["address"]), disk=disk)


def test_disk_that_nobody_uses_may_be_given_away(build):
    root, folder = build(DISK)
    add_disk(root, folder)
    write(root, "proc/1/mountinfo", "22 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw\n")
    assert find(root, DISK) is None


def test_mounted_partition_keeps_its_controller(build):
    root, folder = build(DISK)
    add_disk(root, folder)
    write(root, "proc/1/mountinfo", "22 1 259:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n")
    assert find(root, DISK) == storage("nvme0n1p1")


def test_disk_with_several_paths_keeps_its_controllers(build):
    """It is below a virtual device; below each controller is only a hidden one."""
    root, folder = build(DISK)
    subsystem = root / "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    (folder / "nvme/nvme0/nvme0c0n1").mkdir(parents=True)
    (subsystem / "nvme0n1/nvme0n1p1").mkdir(parents=True)
    (subsystem / "nvme0n1/nvme0n1p1/dev").write_text("259:1\n")
    (subsystem / "nvme0").symlink_to(folder / "nvme/nvme0")
    blocks = root / "sys/class/block"
    blocks.mkdir(parents=True)
    (blocks / "nvme0c0n1").symlink_to(folder / "nvme/nvme0/nvme0c0n1")
    (blocks / "nvme0n1p1").symlink_to(subsystem / "nvme0n1/nvme0n1p1")
    write(root, "proc/1/mountinfo", "22 1 259:1 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw\n")
    assert find(root, DISK) == storage("nvme0n1p1")


@pytest.mark.parametrize(
    ("pci_class", "place"),
    [
        ("0c0330", "usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"),
        ("0c0400", "host7/rport-7:0-0/target7:0:0/7:0:0:1/block/sdb"),
    ],
    ids=["USB", "Fibre Channel"],
)
def test_mounted_disk_keeps_its_controller_of_any_class(build, pci_class, place):
    function = {**DISK, "class": pci_class}
    root, folder = build(function)
    (folder / place).mkdir(parents=True)
    (folder / place / "dev").write_text("8:16\n")
    (root / "sys/class/block").mkdir(parents=True)
    (root / "sys/class/block/sdb").symlink_to(folder / place)
    write(root, "proc/1/mountinfo", "22 1 8:16 / /srv rw - ext4 /dev/sdb rw\n")
    assert find(root, function) == storage("sdb")


def test_swap_keeps_its_controller(build):
    root, folder = build(DISK)
    add_disk(root, folder)
    write(root, "proc/swaps", "Filename Type Size\n/dev/nvme0n1p1 partition 1\n")
    assert find(root, DISK) == storage("nvme0n1p1")


def test_part_of_a_volume_or_an_array_keeps_its_controller(build):
    root, folder = build(DISK)
    disk = add_disk(root, folder)
    (disk / "holders/dm-0").mkdir()
    assert find(root, DISK) == storage("nvme0n1")


def test_disk_that_a_program_has_for_itself_keeps_its_controller(build, monkeypatch):
    """ZFS and Ceph appear neither as mounts nor as holders."""
    root, folder = build(DISK)
    add_disk(root, folder)
    real_open = os.open

    def refuse(path, flags, *arguments, **options):
        if str(path).endswith("/dev/nvme0n1") and flags & os.O_EXCL:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert find(root, DISK) == storage("nvme0n1")


def test_boot_display_is_in_use(build):
    function = {"address": "0000:d8:00.0", "id": "10de:2230", "class": "030000", "boot-vga": True}
    root, _ = build(function)
    address = PciAddress.parse("0000:d8:00.0")
    assert find(root, function) == Problem(ProblemKind.BOOT_DISPLAY, address)


def add_device_node(root, folder, path, kind, number):
    """Add a device node of a function, as /sys/dev shows it."""
    (folder / path).mkdir(parents=True)
    (root / "sys/dev" / kind).mkdir(parents=True)
    (root / "sys/dev" / kind / number).symlink_to(folder / path)


def run_program(root, *files):
    (root / "proc/55/fd").mkdir(parents=True)
    for number, file in enumerate(files):
        (root / "proc/55/fd" / str(number)).symlink_to(file)
    (root / "proc/55/comm").write_text("program\n")


@pytest.mark.parametrize(
    ("path", "kind", "number", "file"),
    [
        ("infiniband_verbs/uverbs0", "char", "231:192", "/dev/infiniband/uverbs0"),
        ("nvme/nvme0/nvme0n1", "block", "259:0", "/dev/nvme0n1"),
        ("infiniband_verbs/uverbs0", "char", "1:3", "/dev/null"),
    ],
    ids=["character device", "disk", "by its number, in a container"],
)
def test_program_that_has_a_device_of_a_function_open_uses_it(build, path, kind, number, file):
    root, folder = build(NIC)
    add_device_node(root, folder, path, kind, number)
    run_program(root, "pipe:[1]", file)
    address = PciAddress.parse(NIC["address"])
    assert find(root, NIC) == Problem(ProblemKind.USED_BY_PROGRAM, address, program="program")


def test_only_devices_are_compared_by_number_and_by_kind(build, monkeypatch):
    """A file on a server that is down would never answer, and a disk may have equal numbers."""
    root, folder = build(NIC)
    add_device_node(root, folder, "infiniband_verbs/uverbs0", "block", "1:3")
    run_program(root, "/var/lib/nova/instances/disk", "socket:[1]", "/dev/null")
    looked_at, real_stat = [], os.stat

    def record(path, **options):
        looked_at.append(str(path))
        return real_stat(path, **options)

    monkeypatch.setattr(os, "stat", record)
    assert find(root, NIC) is None
    assert [path for path in looked_at if "/fd/" in path] == [str(root / "proc/55/fd/2")]


def test_card_of_unknown_number_is_in_use_if_a_program_uses_any_card(build):
    """The driver does not show which of its devices belongs to the card."""
    card = {"address": "0000:3b:00.0", "id": "10de:1eb8", "class": "030200", "driver": "nvidia"}
    root, _ = build(card)
    assert find(root, card) is None
    (root / "proc/55/fd").mkdir(parents=True)
    (root / "proc/55/fd/9").symlink_to("/dev/nvidia3")
    (root / "proc/55/cgroup").write_text("0::/system.slice/nvidia-persistenced.service\n")
    address = PciAddress.parse(card["address"])
    program = "nvidia-persistenced"
    assert find(root, card) == Problem(ProblemKind.USED_BY_PROGRAM, address, program=program)
