# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The program before udev: it binds what the charm has bound before, and nothing else."""

from __future__ import annotations

import errno

import pytest

import early_boot
import recorded
from gpu.pci import PciAddress
from host import pci_functions
from state import bound_functions
from system import sysfs

T4 = "0000:3b:00.0"


@pytest.fixture
def host(machine):
    """A host whose devices have no driver yet, with a recorded T4."""
    functions = [
        {**function, "driver": None} for function in recorded.host("whole-cards")["functions"]
    ]
    started = machine("whole-cards", driver=None, functions=functions)
    t4 = pci_functions.read(started.root, PciAddress.parse(T4))
    bound_functions.record(started.root, [t4])
    return started


def drivers(host):
    return {item["address"]: item["driver"] for item in host.host["functions"] if item["driver"]}


def test_recorded_function_is_bound_and_no_other_one(host):
    assert early_boot.main(host.root, host) == 0
    assert drivers(host) == {T4: "vfio-pci"}


@pytest.mark.parametrize("has_vfio", [True, False])
def test_vfio_pci_is_loaded_where_it_is_a_module(host, has_vfio):
    host.driver.has_vfio = has_vfio
    assert early_boot.main(host.root, host) == (0 if has_vfio else 1)
    assert host.commands == [("modprobe", "vfio-pci")]


def test_built_in_vfio_pci_is_not_loaded(host):
    (host.root / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    assert early_boot.main(host.root, host) == 0
    assert host.commands == []


def test_function_that_has_a_driver_already_is_left_to_the_boot_service(host):
    host.driver.bind(T4, "nvidia")
    assert early_boot.main(host.root, host) == 0
    assert drivers(host) == {T4: "nvidia"}


@pytest.mark.parametrize("change", ["other device", "gone"])
def test_slot_with_another_device_is_left_alone(host, change):
    folder = host.root / "sys/bus/pci/devices" / T4
    if change == "gone":
        folder.unlink()
    else:
        (folder / "device").write_text("0x1db4\n")
    assert early_boot.main(host.root, host) == 0
    assert drivers(host) == {}


def test_host_without_a_record_needs_no_program(machine):
    host = machine("whole-cards")
    assert early_boot.main(host.root, host) == 0
    assert host.commands == []


def test_refused_write_is_an_error_and_hides_no_other_function(host, monkeypatch):
    h200 = pci_functions.read(host.root, PciAddress.parse("0000:af:00.0"))
    bound_functions.record(host.root, [h200])
    write = sysfs.write

    def refuse(path, text):
        if T4 in str(path):
            raise OSError(errno.EIO, "Input/output error")
        write(path, text)

    monkeypatch.setattr(sysfs, "write", refuse)
    assert early_boot.main(host.root, host) == 1
    assert drivers(host) == {"0000:af:00.0": "vfio-pci"}
