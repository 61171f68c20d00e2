# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The machines themselves: their cards, groups, nodes and boots are as the tests assume."""

from __future__ import annotations

import os

import pytest
import topology
from virtual_machine import DEVICES

CARDS = [
    *topology.root_port("rp1"),
    *topology.card("a100", "rp1"),
    *topology.root_port("rp2"),
    *topology.board(["rtx", "audio"], "rp2"),
    *topology.root_port("rp3"),
    *topology.switch("upstream", "rp3", ["dp1", "dp2"]),
    *topology.card("t4", "dp1"),
    *topology.card("connectx7", "dp2"),
    *topology.root_port("rp4"),
    *topology.card("nvswitch", "rp4"),
    *topology.root_port("rp5"),
    *topology.network_card("rp5"),
    *topology.root_port("rp6", acs=False),
    *topology.card("connectx6", "rp6"),
    *topology.expander("socket1", 0x40, numa_node=1),
    *topology.root_port("rp7", "socket1"),
    *topology.card("t4", "rp7"),
    *topology.root_port("rp8", "socket1"),
    *topology.nvme_disk("rp8", "disk"),
]


GUEST = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0' bus='1' slot='0' function='0'/></source>
    </hostdev>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def machine(boot):
    with boot(CARDS, numa_nodes=2) as booted:
        yield booted


def group(machine, device: str) -> list[str]:
    """Return the addresses of an IOMMU group."""
    path = f"{DEVICES}/{machine.address_of(device)}/iommu_group/devices"
    return machine.run("ls", path).stdout.split()


def bridges(machine, device: str) -> list[str]:
    """Return the part of a device's path in /sys that precedes it."""
    path = machine.run("readlink", "-f", f"{DEVICES}/{machine.address_of(device)}").stdout
    return path.split("/")[3:-1]


def bind_to_vfio(machine, address: str) -> None:
    machine.run("modprobe", "vfio-pci")
    machine.write(f"{DEVICES}/{address}/driver_override", "vfio-pci")
    if machine.driver_of(address):
        machine.write(f"{DEVICES}/{address}/driver/unbind", address)
    machine.write("/sys/bus/pci/drivers_probe", address)


def test_cards_have_the_ids_and_classes_of_real_ones_and_their_drivers(machine):
    numbers = machine.run("lspci", "-n").stdout.splitlines()
    shown = {"0000:" + line.split()[0]: line.split()[1:3] for line in numbers}
    cards = {
        "rp1.0": ("0302:", "10de:20b5", "nvidia"),
        "rp2.0": ("0300:", "10de:2230", "nvidia"),
        "rp2.1": ("0403:", "10de:1aef", None),
        "dp1.0": ("0302:", "10de:1eb8", "nvidia"),
        "dp2.0": ("0207:", "15b3:1021", "mlx5_core"),
        "rp4.0": ("0680:", "10de:22a3", None),
        "rp5.0": ("0200:", "8086:10d3", "e1000e"),
        "rp6.0": ("0200:", "15b3:101d", "mlx5_core"),
        "rp7.0": ("0302:", "10de:1eb8", "nvidia"),
        "rp8.0": ("0108:", "1b36:0010", "nvme"),
    }
    addresses = {device: machine.address_of(device) for device in cards}
    found = {
        device: (*shown[address], machine.driver_of(address))
        for device, address in addresses.items()
    }
    assert found == cards
    assert machine.read("/sys/module/nvidia/version").strip() == "570.172.07"


def test_functions_share_a_group_only_where_nothing_separates_them(machine):
    addresses = {device: machine.address_of(device) for device in ("rp2.0", "rp2.1")}
    assert group(machine, "rp2.0") == list(addresses.values())
    for device in ("rp1.0", "rp4.0", "rp7.0"):
        assert group(machine, device) == [machine.address_of(device)]
    for port in ("dp1", "rp6"):  # neither has ACS
        assert group(machine, f"{port}.0") == sorted(map(machine.address_of, (port, f"{port}.0")))


def test_paths_and_numa_nodes_show_the_topology(machine):
    paths = {device: bridges(machine, device) for device in ("rp1.0", "dp1.0", "dp2.0", "rp7.0")}
    assert [bridge for bridge in paths["dp1.0"] if bridge in paths["dp2.0"]] == [
        "pci0000:00",
        machine.address_of("rp3"),
        machine.address_of("upstream"),
    ]
    assert [bridge for bridge in paths["rp1.0"] if bridge in paths["dp1.0"]] == ["pci0000:00"]
    assert paths["rp7.0"][0] == "pci0000:40"
    nodes = {
        device: machine.read(f"{DEVICES}/{machine.address_of(device)}/numa_node").strip()
        for device in ("rp1.0", "rp7.0")
    }
    assert nodes == {"rp1.0": "-1", "rp7.0": "1"}
    assert machine.read("/sys/devices/system/node/online").strip() == "0-1"


@pytest.mark.parametrize(
    ("device", "ids", "driver"),
    [("rp1.0", "10de:20b5", "nvidia"), ("dp2.0", "15b3:101e", "mlx5_core")],
)
def test_a_card_creates_virtual_functions(machine, device, ids, driver):
    physical = f"{DEVICES}/{machine.address_of(device)}"
    assert machine.read(f"{physical}/sriov_totalvfs").strip() == "4"
    machine.write(f"{physical}/sriov_numvfs", "4")
    functions = [machine.link(f"{physical}/virtfn{number}") for number in range(4)]
    assert machine.link(f"{DEVICES}/{functions[3]}/physfn") == os.path.basename(physical)
    assert machine.driver_of(functions[3]) == driver
    assert ids in machine.run("lspci", "-n", "-s", functions[3]).stdout
    machine.write(f"{physical}/sriov_numvfs", "0")
    assert machine.link(f"{physical}/virtfn0") is None


def test_a_guest_has_its_card_alone(machine):
    address = machine.address_of("rp4.0")
    bind_to_vfio(machine, address)
    assert machine.driver_of(address) == "vfio-pci"
    guest = machine.hold(address)
    with pytest.raises(AssertionError, match="EBUSY"):
        machine.hold(address)
    number = machine.link(f"{DEVICES}/{address}/iommu_group")
    opened = machine.run("sh", "-c", f": <>/dev/vfio/{number}", check=False)
    assert "Device or resource busy" in opened.stderr
    machine.release(guest)
    machine.release(machine.hold(address))


def test_a_guest_gets_all_functions_of_a_board(machine):
    """The group is viable only if no function of it has a driver of the host."""
    addresses = [machine.address_of(device) for device in ("rp2.0", "rp2.1")]
    bind_to_vfio(machine, addresses[1])
    with pytest.raises(AssertionError, match="EPERM"):
        machine.hold(addresses[1])
    bind_to_vfio(machine, addresses[0])
    machine.release(machine.hold(*addresses))


def test_the_driver_waits_for_the_programs_that_use_a_card(machine):
    address = machine.address_of("dp1.0")
    machine.write("/sys/module/nvidia/parameters/in_use", address)
    unbind = ("sh", "-c", f"echo {address} >/sys/bus/pci/drivers/nvidia/unbind")
    assert machine.run(*unbind, check=False, timeout=3).returncode == 124
    machine.write("/sys/module/nvidia/parameters/in_use", "\n")
    bind_to_vfio(machine, address)
    assert machine.driver_of(address) == "vfio-pci"


def test_the_driver_refuses_a_card(machine):
    address = machine.address_of("rp7.0")
    machine.write(f"{DEVICES}/{address}/driver/unbind", address)
    machine.write("/sys/module/nvidia/parameters/refuse", address)
    machine.write("/sys/bus/pci/drivers_probe", address)
    assert machine.driver_of(address) is None
    machine.write("/sys/module/nvidia/parameters/refuse", "\n")
    machine.write("/sys/bus/pci/drivers_probe", address)
    assert machine.driver_of(address) == "nvidia"


def test_a_card_is_pulled_and_plugged(machine):
    address = machine.address_of("rp6.0")
    present = ("test", "-e", f"{DEVICES}/{address}")
    machine.qmp("device_del", id="rp6.0")
    machine.wait_until(lambda: machine.run(*present, check=False).returncode == 1)
    machine.qmp("device_add", **topology.as_plugged(topology.card("connectx6", "rp6")))
    machine.wait_until(lambda: machine.driver_of(address) == "mlx5_core")


def test_folders_and_files_are_copied(machine, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/binary").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "link").symlink_to("sub/binary")
    machine.copy_in(tmp_path, "/opt/copied")
    expected = f"{os.path.getsize(tmp_path / 'sub/binary')} /opt/copied/link"
    assert machine.run("wc", "-c", "/opt/copied/link").stdout.strip() == expected
    machine.write("/opt/new/script", "#!/bin/sh\necho né\n", 0o755)
    assert machine.run("/opt/new/script").stdout == "né\n"


def test_libvirt_starts_guests_where_vfio_pci_is_there_before_udev(boot):
    cards = [*topology.root_port("rp1"), *topology.card("a100", "rp1")]
    with boot(cards, memory=1536, libvirt=True, vfio_built_in=True) as machine:
        machine.run("test", "-d", "/sys/bus/pci/drivers/vfio-pci")
        virsh = ("virsh", "-c", "qemu:///system")
        xml = machine.run(*virsh, "nodedev-dumpxml", "pci_0000_01_00_0").stdout
        assert "<capability type='virt_functions' maxCount='4'/>" in xml
        assert "<name>nvidia</name>" in xml
        machine.run(*virsh, "create", "--paused", "/dev/stdin", stdin=GUEST, timeout=300)
        assert machine.driver_of("0000:01:00.0") == "vfio-pci"
        machine.run(*virsh, "destroy", "guest")
        assert machine.driver_of("0000:01:00.0") == "nvidia"


def test_only_what_is_on_the_disk_outlasts_boots(machine):
    """This test is the last one of this machine, whose options it changes."""
    address = machine.address_of("rp4.0")
    boot_id = machine.read("/proc/sys/kernel/random/boot_id")
    machine.write("/etc/kept", "kept")
    machine.reboot()
    assert machine.read("/etc/kept") == "kept"
    assert machine.read("/proc/sys/kernel/random/boot_id") != boot_id
    assert machine.driver_of(address) is None  # the override is gone
    machine.write("/etc/kept", "changed")
    machine.run("sync")
    machine.write("/etc/lost", "lost")
    machine.cut_power()
    machine.iommu = False
    machine.power_on()
    assert machine.read("/etc/kept") == "changed"
    assert machine.run("cat", "/etc/lost", check=False).returncode == 1
    assert machine.run("ls", "/sys/kernel/iommu_groups").stdout == ""
    bind_to_vfio(machine, address)
    assert machine.driver_of(address) is None
    assert "vfio-pci: probe of" in machine.run("dmesg").stdout
