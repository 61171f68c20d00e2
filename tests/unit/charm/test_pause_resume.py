# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The actions pause and resume, and the principal charm's own pause."""

from __future__ import annotations

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import PAUSED, PAUSED_BY_PRINCIPAL, T4_MAPPING, ready


def test_pause_and_resume(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.action("pause")
    assert unit.status == PAUSED
    assert unit.databag["services"] == "[]"
    unit.action("resume")
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")
    assert unit.databag["services"] == '["nvidia-vgpu-mgr"]'


@pytest.mark.parametrize("hook", ["config_changed", "start", "update_status", "upgrade_charm"])
def test_nothing_is_started_while_paused(deploy, hook):
    unit = deploy("t4-pair")
    unit.action("pause")
    before = len(unit.machine.commands)
    unit.hook(hook)
    started = unit.machine.commands[before:]
    assert [
        command for command in started if command[0] not in ("lspci", "dpkg-deb", "dpkg")
    ] == []
    assert unit.status == PAUSED


def test_trigger_is_ignored_while_paused(deploy):
    unit = deploy("t4-pair")
    unit.action("pause")
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert unit.machine.did("systemctl restart") == []


def test_cards_are_not_changed_while_paused(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.action("pause")
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert unit.machine.did("/usr/lib/nvidia/sriov-manage") == []
    unit.action("resume")
    assert len(unit.machine.did("/usr/lib/nvidia/sriov-manage")) == 1


def test_pause_fails_if_the_daemon_does_not_stop(deploy):
    unit = deploy("t4-pair")
    unit.machine.unstoppable.add("nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("pause")
    assert failure.value.message == (
        "nvidia-vgpu-mgr does not stop; see journalctl -u nvidia-vgpu-mgr, then run pause again"
    )


def test_pause_fails_while_a_vgpu_is_in_use(deploy):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("pause")
    assert failure.value.message == (
        f"vGPU {UUIDS[0]} is in use; delete or migrate its guest; if it has none, remove the "
        "device"
    )
    assert unit.machine.did("systemctl stop") == []


def test_assigned_types_without_guests_do_not_prevent_a_pause(l40s):
    l40s.configure("{L40S-48Q: ['10de:26b9']}")
    l40s.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")
    l40s.action("pause")
    assert l40s.status == PAUSED


def test_host_without_a_driver_can_be_paused_and_resumed(deploy):
    unit = deploy("no-gpu")
    unit.action("pause")
    assert unit.status == PAUSED
    unit.action("resume")
    assert unit.status == ready("no supported NVIDIA GPU found")


def test_resume_fails_if_systemd_fails(deploy):
    unit = deploy("t4-pair")
    unit.action("pause")
    unit.machine.fail("systemctl unmask")
    with pytest.raises(testing.ActionFailed):
        unit.action("resume")


def test_resume_fails_if_the_daemon_does_not_start(deploy):
    unit = deploy("t4-pair")
    unit.action("pause")
    unit.machine.failing.add("nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("resume")
    assert failure.value.message.startswith("nvidia-vgpu-mgr is down")


def test_interrupted_pause_can_be_resumed(deploy):
    unit = deploy("t4-pair")
    unit.machine.fail("systemctl disable", returncode=None)
    with pytest.raises(testing.ActionFailed):
        unit.action("pause")
    unit.machine.repair("systemctl disable")
    unit.action("resume")
    assert unit.status == ready("2 NVIDIA GPUs, vgpu-device-mappings is not set")


def test_unrecorded_mask_is_removed_if_nova_compute_is_not_masked(deploy):
    unit = deploy("t4-pair")
    unit.machine.provide("lib/systemd/system/nova-compute.service")
    unit.machine("systemctl", "mask", "nvidia-vgpu-mgr")
    unit.action("resume")
    assert unit.status == ready("2 NVIDIA GPUs, vgpu-device-mappings is not set")


@pytest.mark.parametrize("action", ["resume", "reboot-install"])
def test_pause_by_the_principal_can_only_be_ended_there(deploy, action):
    unit = deploy("t4-pair")
    unit.machine("systemctl", "mask", "nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action(action)
    assert failure.value.message == PAUSED_BY_PRINCIPAL.message
    unit.hook("update_status")
    assert unit.status == PAUSED_BY_PRINCIPAL
    assert unit.databag["services"] == '["nvidia-vgpu-mgr"]'


def test_resume_fails_while_the_principal_is_paused(deploy):
    unit = deploy("t4-pair")
    unit.action("pause")
    unit.machine("systemctl", "mask", "nova-compute")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("resume")
    assert failure.value.message == PAUSED_BY_PRINCIPAL.message


def test_nothing_is_installed_while_the_principal_is_paused(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.machine("systemctl", "mask", "nova-compute")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.machine.did("apt-get install") == []
    assert unit.status == PAUSED_BY_PRINCIPAL
