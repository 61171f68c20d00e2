# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What failed is tried again when it can succeed, and not at every event."""

from __future__ import annotations

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import ready

A100 = "0000:41:00.0"
MIG_QUERY = "nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending"


def eight_cards(name):
    """Return eight cards of a host that has one, without virtual functions."""
    (card,) = recorded.without_functions(name)["functions"]
    return [{**card, "address": f"0000:{16 * number:02x}:00.0"} for number in range(1, 9)]


def test_cards_that_cannot_be_enabled_are_tried_once_in_a_hook_and_then_less_often(deploy):
    unit = deploy("a40-mdev", functions=eight_cards("a40-mdev"))
    unit.hook("start")  # the boot service has run since the last boot
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert len(unit.machine.did("/usr/lib/nvidia/sriov-manage")) == 8
    attempts = []
    for _ in range(24):  # two hours of update-status
        unit.machine.commands.clear()
        unit.update_status_after(minutes=5)
        attempts.append(len(unit.machine.did("/usr/lib/nvidia/sriov-manage")))
    assert sum(attempts) == 4 * 8
    assert unit.status.message.endswith("fix this, then run reboot-install (next try 14:14 UTC)")
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert unit.machine.commands == []
    unit.machine.repair("/usr/lib/nvidia/sriov-manage")
    unit.action("reboot-install")
    assert unit.status == ready("8 NVIDIA GPUs, 1 vGPU type")


def test_boot_service_tries_a_card_again_at_once(deploy, monkeypatch):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.configure("{A40-8Q: ['10de:2235']}")
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n", times=3)
    unit.machine.reboot()
    assert pauses == [1, 2, 4]
    assert len(unit.machine.facts.cards[0].gpu.virtual_functions) == 32


def test_failed_installation_costs_nothing_until_it_is_tried_again(deploy, tmp_path):
    unit = deploy("t4-fresh")
    unit.machine.fail("apt-get install", output="E: You have held broken packages.\n")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert unit.machine.commands == []
    unit.machine.repair("apt-get install")
    unit.action("reboot-install")
    assert "nvidia-vgpu-ubuntu-570" in unit.machine.packages()


def test_boot_service_that_systemd_refuses_is_not_run_at_every_event(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.machine.fail("systemctl restart", output="Job failed.\n")
    unit.configure("{A40-8Q: ['10de:2235']}")
    message = "Boot service failed: systemctl restart failed; fix this, then run reboot-install"
    assert unit.status == testing.BlockedStatus(message)
    unit.hook("update_status")  # it may have been killed, and is run once more
    assert unit.status == testing.BlockedStatus(f"{message} (next try 12:08 UTC)")
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert unit.status == testing.BlockedStatus(f"{message} (next try 12:08 UTC)")
    assert unit.machine.commands == []
    unit.machine.repair("systemctl restart")
    unit.update_status_after(minutes=8)
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_boot_service_that_was_killed_once_is_not_reported_after_it_has_run(deploy):
    unit = deploy("a40-mdev")
    unit.machine.fail("systemctl restart", output="Job failed.\n", times=1)
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert unit.status.message.startswith("Boot service failed: ")
    unit.hook("update_status")
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")


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
    unit.update_status_after(minutes=4)
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


def test_mode_refused_by_another_card_is_not_retried_at_every_event(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['10de:20b5']}")
    before = unit.databag
    unit.machine.fail(
        "nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use by another client\n", returncode=19
    )
    unit.configure("{A100D-1-10C: ['10de:20b5']}")
    assert unit.status == testing.BlockedStatus(
        "MIG setup failed on 0000:b1:00.0: In use by another client; fix this, "
        "then run reboot-install (next try 13:00 UTC)"
    )
    unit.assert_converged()
    assert unit.databag == before
    unit.machine.commands.clear()
    unit.update_status_after(minutes=60)
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
