# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA GPUs that sysfs shows."""

from __future__ import annotations

import pytest

import recorded
from gpu.pci import Gpu, PciAddress, PciId
from host.gpus import scan

GPUS = {
    "a10-vendor-vfio": ["0000:41:00.0"],
    "a100-80-pair": ["0000:31:00.0", "0000:b1:00.0"],
    "a100-sriov-off": ["0000:41:00.0"],
    "a16-board": ["0000:ce:00.0", "0000:cf:00.0", "0000:d0:00.0", "0000:d1:00.0"],
    "a40-mdev": ["0000:41:00.0"],
    "h200": ["0000:18:00.0"],
    "l40s-vendor-vfio": ["0000:3d:00.0"],
    "m10-board": ["0000:84:00.0", "0000:85:00.0", "0000:86:00.0", "0000:87:00.0"],
    "mixed": ["0000:3b:00.0", "0000:41:00.0", "0000:c1:00.0"],
    "no-gpu": [],
    "rtx-pro-6000": ["0001:c8:00.0"],
    "t4-fresh": ["0000:84:00.0", "0000:d8:00.0"],
    "t4-pair": ["0000:84:00.0", "0000:d8:00.0"],
    "v100-pair": ["0000:41:00.0", "0000:c1:00.0"],
    "whole-cards": [
        "0000:3b:00.0", "0000:5e:00.0", "0000:86:00.0", "0000:af:00.0", "0000:d8:00.0",
    ],
}  # fmt: skip

T4 = {"address": "0000:84:00.0", "id": "10de:1eb8", "class": "030200", "types": "T4"}


def addresses(root):
    return [str(gpu.address) for gpu in scan(root).gpus]


@pytest.mark.parametrize("name", recorded.host_names())
def test_gpus_of_every_recorded_host(host, name):
    assert addresses(host(name)) == GPUS[name]


def test_virtual_function_is_not_a_gpu(host):
    root = host("a40-mdev")
    virtual = root / "sys/bus/pci/devices/0000:41:00.4"
    card = root / "sys/bus/pci/devices/0000:41:00.0"
    for name in ("vendor", "device", "class"):
        assert (virtual / name).read_text() == (card / name).read_text()
    assert addresses(root) == ["0000:41:00.0"]


@pytest.mark.parametrize(
    ("pci_class", "is_gpu"),
    [
        ("030000", True),
        ("030200", True),
        ("030001", True),
        ("068000", False),
        ("040300", False),
        ("0c0330", False),
        ("038000", False),
        ("120000", False),
    ],
    ids=[
        "VGA",
        "3D",
        "VGA, another programming interface",
        "NVSwitch",
        "audio",
        "USB",
        "other display",
        "accelerator",
    ],
)
def test_class_distinguishes_a_gpu_from_other_functions(host, pci_class, is_gpu):
    root = host("t4-pair", functions=[{**T4, "class": pci_class}])
    assert addresses(root) == (["0000:84:00.0"] if is_gpu else [])


def test_gpu_of_another_vendor_is_ignored(host):
    assert scan(host("no-gpu")) == ((), ())


def test_all_attributes_of_a_gpu_are_read(host):
    gpu = scan(host("t4-pair")).gpus[1]
    assert gpu == Gpu(
        address=PciAddress(0, 0xD8, 0, 0),
        id=PciId(0x10DE, 0x1EB8),
        subsystem=PciId(0x10DE, 0x12A2),
        driver="nvidia",
        numa_node=1,
        total_vfs=0,
        virtual_functions=(),
    )


def test_numa_node_of_minus_one_is_none(host):
    assert {gpu.numa_node for gpu in scan(host("m10-board")).gpus} == {None}


def test_driver_of_an_unbound_card_is_none(host):
    root = host("t4-pair", functions=[{**T4, "driver": None}])
    assert scan(root).gpus[0].driver is None


@pytest.mark.parametrize("name", ["subsystem_vendor", "subsystem_device", "numa_node"])
def test_optional_attribute_may_be_absent(host, name):
    root = host("t4-pair")
    (root / "sys/bus/pci/devices/0000:84:00.0" / name).unlink()
    gpu = scan(root).gpus[0]
    assert (gpu.subsystem if name.startswith("subsystem") else gpu.numa_node) is None


def test_possible_virtual_functions_are_counted(host):
    gpu = scan(host("a100-sriov-off")).gpus[0]
    assert (gpu.total_vfs, gpu.virtual_functions) == (16, ())


def test_virtual_functions_are_sorted_by_number(host):
    functions = [str(address) for address in scan(host("a40-mdev")).gpus[0].virtual_functions]
    assert len(functions) == 32
    # virtfn10 comes after virtfn9, not after virtfn1
    assert functions[:5] == [
        "0000:41:00.4",
        "0000:41:00.5",
        "0000:41:00.6",
        "0000:41:00.7",
        "0000:41:01.0",
    ]
    assert functions[-1] == "0000:41:04.3"


@pytest.mark.parametrize("name", ["vendor", "class", "device"])
def test_unreadable_device_does_not_hide_others(host, caplog, name):
    root = host("t4-pair")
    (root / "sys/bus/pci/devices/0000:84:00.0" / name).unlink()
    assert addresses(root) == ["0000:d8:00.0"]
    assert "0000:84:00.0 cannot be read, skipped" in caplog.text


def test_invalid_attribute_does_not_hide_other_cards(host, caplog):
    root = host("t4-pair")
    (root / "sys/bus/pci/devices/0000:84:00.0/class").write_text("\u0663\n", encoding="utf-8")
    assert addresses(root) == ["0000:d8:00.0"]
    assert "0000:84:00.0 cannot be read, skipped" in caplog.text


def test_entry_without_a_pci_address_is_skipped(host, caplog):
    root = host("t4-pair")
    (root / "sys/bus/pci/devices/junk").mkdir()
    assert addresses(root) == ["0000:84:00.0", "0000:d8:00.0"]
    assert "devices/junk: not a PCI address, skipped" in caplog.text


def test_host_without_a_pci_bus_has_no_gpu(tmp_path):
    assert scan(tmp_path) == ((), ())
