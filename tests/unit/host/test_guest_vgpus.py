# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""vGPUs of guests are found wherever the host shows them; what cannot be read is in use."""

from __future__ import annotations

import os
import stat

import pytest

import recorded
from gpu.pci import PciAddress
from host import libvirt_guests
from host.facts import gather

UUID = recorded.UUIDS[0]
FUNCTION = "0000:3d:00.5"


def make_unreadable(root, address, attribute):
    path = root / "sys/bus/pci/devices" / address / attribute
    path.unlink()
    path.mkdir()


def set_type(root, function):
    folder = root / "sys/bus/pci/devices" / function / "nvidia"
    (folder / "current_vgpu_type").write_text("1152\n")
    records = root / "var/lib/nova-compute-nvidia-vgpu/assigned-types.json"
    records.parent.mkdir(parents=True)
    records.write_text(f'{{"{function}": "nvidia-1152"}}')


def open_device(root, target):
    """Let a process have a device open, and return its link."""
    link = root / "proc/4711/fd/23"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    return link


@pytest.fixture
def l40s(host):
    """A host with an L40S, of which one function has a type."""
    root = host("l40s-vendor-vfio")
    set_type(root, FUNCTION)
    assert gather(root).in_use == ()
    return root


def test_function_of_a_defined_guest_is_in_use(l40s):
    recorded.define_guest(l40s, "instance-00000001", FUNCTION)
    assert gather(l40s).in_use == (FUNCTION,)


@pytest.mark.parametrize(
    "target",
    ["/dev/vfio/77", "/vfio/77", "/dev/vfio/77 (deleted)"],
    ids=["same", "own", "deleted"],
)
def test_function_whose_group_is_open_is_in_use(l40s, target):
    (l40s / "sys/bus/pci/devices" / FUNCTION / "iommu_group").symlink_to("../../iommu_groups/77")
    open_device(l40s, target)
    assert gather(l40s).in_use == (FUNCTION,)


def test_function_that_is_open_through_iommufd_is_in_use(l40s):
    (l40s / "sys/bus/pci/devices" / FUNCTION / "vfio-dev/vfio3").mkdir(parents=True)
    open_device(l40s, "/dev/vfio/devices/vfio3")
    assert gather(l40s).in_use == (FUNCTION,)


@pytest.mark.parametrize("interface", ["group", "iommufd"])
def test_open_device_is_recognised_by_its_number(l40s, tmp_path, interface):
    """In the /dev of a guest of its own, the device may have any name."""
    folder = l40s / "sys/bus/pci/devices" / FUNCTION
    node = tmp_path / "vfio/another"
    node.parent.mkdir()
    try:
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(511, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    if interface == "group":
        (folder / "iommu_group").symlink_to("../../iommu_groups/77")
        number = l40s / "sys/class/vfio/77/dev"
    else:
        number = folder / "vfio-dev/vfio3/dev"
    number.parent.mkdir(parents=True)
    number.write_text("511:3\n")
    open_device(l40s, node)
    assert gather(l40s).in_use == (FUNCTION,)


def test_function_whose_type_cannot_be_read_is_in_use(l40s):
    make_unreadable(l40s, "0000:3d:00.6", "nvidia/current_vgpu_type")
    assert gather(l40s).in_use == ("0000:3d:00.6",)


def test_card_all_of_whose_functions_cannot_be_read_is_in_use(host):
    root = host("l40s-vendor-vfio")
    functions = [str(function) for function in gather(root).cards[0].gpu.virtual_functions]
    for function in functions:
        make_unreadable(root, function, "nvidia/current_vgpu_type")
    assert gather(root).in_use == tuple(functions)


def test_function_of_a_guest_on_an_unreadable_card_is_in_use(l40s):
    recorded.define_guest(l40s, "instance-00000001", FUNCTION)
    make_unreadable(l40s, "0000:3d:00.0", "class")
    assert gather(l40s).in_use == (FUNCTION,)


def test_mediated_device_on_an_unreadable_card_is_in_use(host):
    root = host("t4-pair")
    recorded.add_mdev(root, "0000:d8:00.0", "nvidia-233", UUID)
    make_unreadable(root, "0000:d8:00.0", "class")
    assert gather(root).in_use == (UUID,)


def test_mediated_device_of_another_vendor_is_not_counted(host):
    root = host("t4-pair")
    device = root / "sys/devices/pci0000:00/0000:00:02.0"
    (device / UUID).mkdir(parents=True)
    (device / "vendor").write_text("0x8086\n")
    (root / "sys/bus/mdev/devices").mkdir(parents=True)
    (root / "sys/bus/mdev/devices" / UUID).symlink_to(device / UUID)
    assert gather(root).in_use == ()


def test_function_of_a_network_interface_is_its_guests(host):
    """As Neutron's ports of the type direct are defined."""
    root = host("whole-cards")
    path = root / "etc/libvirt/qemu/instance-00000001.xml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "<domain><devices><interface type='network'><source network='default'/></interface>"
        "<interface type='hostdev' managed='yes'><source>"
        "<address type='pci' domain='0x0000' bus='0xb1' slot='0x00' function='0x2'/>"
        "</source></interface></devices></domain>"
    )
    function = PciAddress.parse("0000:b1:00.2")
    assert libvirt_guests.defined_functions(root) == {function: "instance-00000001"}
