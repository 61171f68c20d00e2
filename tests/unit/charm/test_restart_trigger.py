# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Restarts of NVIDIA's daemon that the principal charm requests."""

from __future__ import annotations

import pytest
from ops import testing

from recorded import UUIDS
from unit import T4_MAPPING, ready


def test_trigger_restarts_the_daemon_once(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    unit.relation_hook("changed")
    assert len(unit.machine.did("systemctl restart nvidia-vgpu-mgr")) == 1
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "b"})
    assert len(unit.machine.did("systemctl restart nvidia-vgpu-mgr")) == 2


def test_trigger_does_not_change_published_data(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    before = unit.databag
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert unit.databag == before


def test_restart_waits_until_no_vgpu_is_in_use(deploy):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.configure(T4_MAPPING)
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert unit.machine.did("systemctl restart nvidia-vgpu-mgr") == []
    assert unit.status == ready(
        "2 NVIDIA GPUs, 1 vGPU type; restart of nvidia-vgpu-mgr waits until no vGPU is in use"
    )
    unit.machine.remove_mdev(UUIDS[0])
    unit.hook("update_status")
    assert len(unit.machine.did("systemctl restart nvidia-vgpu-mgr")) == 1
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")


def test_boot_completes_a_pending_restart(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    unit.hook("start")
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")


@pytest.mark.parametrize("host", ["no-gpu", "t4-fresh"])
def test_trigger_without_the_daemon_is_ignored(deploy, host):
    unit = deploy(host)
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert unit.machine.did("systemctl restart") == []


def test_failed_restart_is_shown(deploy):
    unit = deploy("t4-pair")
    unit.machine.fail("systemctl restart", output="Job failed.\n")
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert unit.status == testing.BlockedStatus(
        "nvidia-vgpu-mgr is down; see journalctl -u nvidia-vgpu-mgr; "
        "fix this, then run reboot-install (next try 12:04 UTC)"
    )
