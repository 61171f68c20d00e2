# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What failed is tried again when it can succeed, and not at every event."""

from __future__ import annotations

import time

import pytest
from ops import testing

from recorded import UUIDS

A100 = "0000:41:00.0"
MIG_QUERY = "nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending"


def test_destroyed_gpu_instances_are_created_again(deploy):
    unit = deploy("a100-sriov-off")
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    unit.machine.driver.nvidia_smi("mig", "-i", A100, "-dgi")
    unit.hook("update_status")
    assert unit.machine.driver.card(A100)["mig"]["instances"] == [19] * 7
    assert unit.status.name == "active"


def test_recovered_driver_is_queried_again(deploy):
    unit = deploy("a100-sriov-off")
    unit.machine.driver.nvidia_smi("-i", A100, "-mig", "1")
    unit.machine.driver.sriov_manage("-e", A100)
    unit.machine.fail("nvidia-smi", returncode=9)
    unit.configure("{A100-20C: ['10de:20f1']}")
    assert unit.status.name != "active"
    unit.machine.repair("nvidia-smi")
    unit.hook("update_status")
    assert unit.status.name == "active"


@pytest.mark.parametrize("event", ["update_status", "start"])
def test_driver_is_queried_again_after_one_failure(deploy, event):
    unit = deploy("a100-80-pair")
    unit.machine.fail("nvidia-smi vgpu", returncode=9, times=1)
    unit.configure("{nvidia-699: ['31:00.0', 'b1:00.0']}")
    unit.hook(event)
    assert len(unit.device_addresses("nvidia-699")) == 14


def test_card_that_reported_no_mig_is_queried_again_on_request(deploy):
    unit = deploy("a100-80-pair")
    unit.machine.fail(MIG_QUERY, stdout="[N/A], [N/A]\n", returncode=0)
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    assert unit.status.message.startswith("A100D-1-10C needs MIG, which 0000:31:00.0 lacks")
    unit.machine.repair(MIG_QUERY)
    unit.action("reboot-install")
    assert len(unit.device_addresses("nvidia-699")) == 7


def test_mode_refused_by_another_card_is_not_retried_at_every_event(deploy, monkeypatch):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['10de:20b5']}")
    before = unit.databag
    unit.machine.fail(
        "nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use by another client\n", returncode=19
    )
    unit.configure("{A100D-1-10C: ['10de:20b5']}")
    assert unit.status == testing.BlockedStatus(
        "MIG setup failed on 0000:b1:00.0: In use by another client; fix this, "
        "then run reboot-install"
    )
    unit.assert_converged()
    assert unit.databag == before
    now = time.time()
    monkeypatch.setattr("charm.time.time", lambda: now + 3601)
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert unit.machine.did("nvidia-smi -i 0000:b1:00.0 -mig 1")
    assert unit.databag == before
    unit.assert_converged()
    unit.machine.repair("nvidia-smi -i 0000:b1:00.0 -mig 1")
    unit.action("reboot-install")
    assert len(unit.device_addresses("nvidia-699")) == 14


def test_mode_refused_at_first_is_not_retried_at_every_event(deploy):
    unit = deploy("a100-80-pair")
    unit.machine.fail("nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use\n", returncode=19)
    unit.configure("{A100D-1-10C: ['10de:20b5']}")
    assert unit.status.name == "blocked"
    unit.assert_converged()


def test_guests_of_another_card_do_not_cause_a_retry(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['10de:20b5']}")
    unit.machine.fail("nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use\n", returncode=19)
    unit.configure("{A100D-20C: ['31:00.0'], A100D-1-10C: ['b1:00.0']}")
    unit.machine.commands.clear()
    unit.start_guest("0000:31:00.4", "nvidia-696", UUIDS[1])
    assert not unit.machine.did("-d")
    unit.assert_converged()
