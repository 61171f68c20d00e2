# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The action reboot-install."""

from __future__ import annotations

from typing import Any

import pytest
from ops import testing

from charm import NovaComputeNvidiaVgpuCharm
from recorded import UUIDS


def test_reboot_requires_confirmation(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    results = unit.action("reboot-install")
    assert results == {
        "reboot": "needed; run again with i-really-mean-it=true",
        "output": (
            "Reboot needed: nouveau is bound to 0000:84:00.0; run reboot-install "
            "i-really-mean-it=true"
        ),
    }
    results = unit.action("reboot-install", i_really_mean_it=True)
    assert results == {
        "reboot": "in 30 seconds",
        "output": "Reboot needed: nouveau is bound to 0000:84:00.0",
    }
    assert unit.machine.did("systemd-run") == [
        ("systemd-run", "--on-active=30", "systemctl", "reboot"),
    ]


def test_failed_reboot_request_is_reported(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    unit.machine.fail("systemd-run")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message == "systemd cannot schedule a reboot; reboot the host yourself"


def test_working_host_is_left_unchanged(deploy):
    unit = deploy("t4-pair")
    results = unit.action("reboot-install", i_really_mean_it=True)
    assert results["reboot"] == "not needed"
    assert unit.machine.did("apt-get") == unit.machine.did("systemd-run") == []


def test_failure_gives_the_reason(deploy):
    unit = deploy("t4-fresh")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install")
    assert failure.value.message.startswith("No host software; run juju attach-resource")


@pytest.mark.parametrize("force", [False, True])
def test_vgpus_in_use_require_force(deploy, tmp_path, force):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    if force:
        assert unit.action("reboot-install", force=True)["reboot"].startswith("needed")
    else:
        with pytest.raises(testing.ActionFailed) as failure:
            unit.action("reboot-install")
        assert failure.value.message == (
            f"vGPU {UUIDS[0]} is in use; delete or migrate its guest, remove the device, "
            "or use force=true"
        )
    assert ("nvidia-vgpu-ubuntu-570" in unit.machine.packages()) is force


@pytest.mark.parametrize("force", [False, True])
def test_guest_started_during_installation_prevents_the_reboot(
    deploy, tmp_path, monkeypatch, force
):
    unit = deploy("t4-pair")
    machine = unit.machine

    def run_and_start_a_guest(*argv: str, **options: Any) -> Any:
        result = machine(*argv, **options)
        if argv[0] == "apt-get" and argv[-1].endswith(".deb"):
            machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
        return result

    monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(run_and_start_a_guest))
    unit.set_resource(machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    if force:
        unit.action("reboot-install", i_really_mean_it=True, force=True)
    else:
        with pytest.raises(testing.ActionFailed) as failure:
            unit.action("reboot-install", i_really_mean_it=True)
        assert failure.value.message.startswith(
            f"vGPU {UUIDS[0]} is in use; delete or migrate its guest"
        )
    assert bool(machine.did("systemd-run")) is force


@pytest.mark.parametrize("force", [False, True])
def test_running_guests_without_a_vgpu_prevent_the_reboot(deploy, tmp_path, force):
    unit = deploy("t4-pair")
    running = unit.machine.root / "run/libvirt/qemu"
    running.mkdir(parents=True)
    for name in ("instance-00000007", "instance-00000002"):
        (running / f"{name}.xml").touch()
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    if force:
        unit.action("reboot-install", i_really_mean_it=True, force=True)
    else:
        with pytest.raises(testing.ActionFailed) as failure:
            unit.action("reboot-install", i_really_mean_it=True)
        assert failure.value.message == (
            "No reboot: guests instance-00000002, instance-00000007 are running; "
            "stop or migrate them, or use force=true"
        )
    assert bool(unit.machine.did("systemd-run")) is force


def test_host_is_not_rebooted_while_nouveau_would_load(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    unit.machine.fail("update-initramfs")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install", i_really_mean_it=True)
    assert "update-initramfs failed" in failure.value.message
    assert unit.machine.did("systemd-run") == []
