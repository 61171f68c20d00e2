# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Hooks install NVIDIA's host software from the resource."""

from __future__ import annotations

from typing import Any

from ops import testing

import recorded
from charm import NovaComputeNvidiaVgpuCharm
from recorded import UUIDS
from unit import ready


def test_missing_resource_is_requested(deploy):
    unit = deploy("t4-fresh")
    unit.hook("install")
    assert unit.status == testing.BlockedStatus(
        "No host software; run juju attach-resource nova-compute-nvidia-vgpu "
        "nvidia-vgpu-software=FILE.deb"
    )


def test_software_is_installed_and_works_after_a_reboot(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.machine.packages()["nvidia-vgpu-ubuntu-570"] == ("570.172.07", "installed")
    assert unit.status == testing.BlockedStatus(
        "Reboot needed: nouveau is bound to 0000:84:00.0; run reboot-install i-really-mean-it=true"
    )
    history = [status.message for status in unit.context.unit_status_history]
    assert "Installing NVIDIA's host software; this takes a few minutes" in history

    unit.machine.reboot()
    unit.hook("start")
    assert unit.status == ready("2 NVIDIA GPUs, vgpu-device-mappings is not set")


def test_hooks_never_reboot_the_host(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    for hook in ("config_changed", "start", "update_status"):
        unit.hook(hook)
    assert unit.machine.did("systemd-run") == []


def test_nothing_is_installed_without_a_card(deploy, tmp_path):
    unit = deploy("no-gpu")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.machine.did("apt-get install") == []


def test_failed_installation_is_shown_until_it_succeeds(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.machine.fail("apt-get install", output="E: You have held broken packages.\n")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    message = (
        "Host software not installed: E: You have held broken packages.; fix this, "
        "then run reboot-install (next try 12:04 UTC)"
    )
    assert unit.status == testing.BlockedStatus(message)
    unit.relation_hook("changed")
    assert unit.status == testing.BlockedStatus(message)
    unit.machine.repair("apt-get install")
    unit.update_status_after(minutes=4)
    assert "nvidia-vgpu-ubuntu-570" in unit.machine.packages()


def test_resource_is_inspected_once(deploy, tmp_path):
    unit = deploy("t4-pair")
    deb = tmp_path / "nvidia-vgpu.deb"
    unit.attach(unit.machine.make_deb(deb, name="nvidia-vgpu-ubuntu-535", version="535.161.05"))
    before = len(unit.machine.did("dpkg-deb"))
    for hook in ("update_status", "config_changed", "start"):
        unit.hook(hook)
    assert len(unit.machine.did("dpkg-deb")) == before


def test_driver_without_a_package_is_supported(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"), driver={"loaded": "550.163.02"})
    unit.machine.provide(recorded.SRIOV_MANAGE)
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert len(unit.device_addresses("nvidia-562")) == 6


def test_guest_started_during_headers_installation_keeps_its_driver(deploy, tmp_path, monkeypatch):
    unit = deploy("t4-pair")
    machine = unit.machine

    def run_and_start_a_guest(*argv: str, **options: Any) -> Any:
        if "dkms" in argv and "install" in argv:
            machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
        return machine(*argv, **options)

    monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(run_and_start_a_guest))
    unit.attach(machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert machine.packages()["nvidia-vgpu-ubuntu-535"] == ("535.161.05", "installed")
    assert unit.status == ready(
        "2 NVIDIA GPUs, vgpu-device-mappings is not set; host software 570.172.07 "
        "waits until no vGPU is in use"
    )
