# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Removal of the unit, and a new unit on the same host."""

from __future__ import annotations

import errno

import pytest

from unit import T4_MAPPING, ready


def test_removal_leaves_the_driver_and_no_file_of_the_charm(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.hook("remove")
    names = "*nova-compute-nvidia-vgpu*"
    assert [path for path in unit.machine.root.rglob(names) if not path.is_dir()] == []
    assert "nvidia-vgpu-ubuntu-535" in unit.machine.packages()


def test_full_disk_does_not_prevent_removal(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("state.folders.shutil.move", full)
    unit.hook("remove")
    assert not (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu").exists()


def test_repeated_removal_keeps_assigned_types(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.hook("remove")
    unit.hook("remove")
    unit.change(config={"vgpu-device-mappings": "{L40S-24Q: ['10de:26b9']}"})
    for event in ("install", "start"):
        unit.hook(event)
    assert len(unit.device_specs()) == 2


def test_new_unit_does_not_inherit_the_state_of_an_old_one(deploy):
    unit = deploy("t4-pair")
    unit.hook("start")
    unit.action("pause")
    unit.machine("systemctl", "unmask", "nvidia-vgpu-mgr")
    unit.change(workload_version="")
    unit.hook("install")
    assert unit.state.workload_version == "535.161.05"
    assert unit.status == ready("2 NVIDIA GPUs, vgpu-device-mappings is not set")


@pytest.mark.parametrize("mapping", ["{L40S-8Q: ['10de:26b9']}", "{L40S-24Q: ['10de:26b9']}"])
def test_new_unit_knows_the_assigned_types(deploy, mapping):
    """The functions keep their types, and a full card lists no types."""
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    for event in ("stop", "remove"):
        unit.hook(event)
    unit.change(config={"vgpu-device-mappings": mapping})
    for event in ("install", "start", "config_changed"):
        unit.hook(event)
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert len(unit.device_specs()) == len(unit.assigned_types()) == (6 if "8Q" in mapping else 2)
