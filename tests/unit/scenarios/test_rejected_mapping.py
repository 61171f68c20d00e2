# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A mapping that cannot be applied leaves cards and published data unchanged."""

from __future__ import annotations

import pytest
from ops import testing

import recorded
from recorded import UUIDS


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("l40s-vendor-vfio", "{L40S-7Q: ['10de:26b9']}"),
        ("l40s-vendor-vfio", "{L40S-1-6C: ['10de:26b9']}"),
        ("a40-mdev", "{A40-7Q: ['10de:2235']}"),
        ("a40-mdev", "{A40-1-6C: ['10de:2235']}"),
        ("h200", "{H200X-1-99C: ['10de:2335']}"),
        ("a100-80-pair", "{A100D-1-99C: ['10de:20b5']}"),
        ("a100-sriov-off", "{A100-11C: ['10de:20f1']}"),
        ("a100-sriov-off", "{A100-1-99C: ['10de:20f1']}"),
    ],
)
def test_type_unknown_to_the_driver_is_refused_once(deploy, host, text):
    unit = deploy(host)
    unit.configure(text)
    assert unit.status.name == "blocked"
    assert unit.status.message.endswith("run list-vgpu-types and choose another")
    assert not unit.machine.did("nvidia-smi -mig")
    unit.assert_converged()


@pytest.mark.parametrize("host", ["a100-sriov-off", "h200"])
def test_type_unknown_to_the_driver_keeps_mig_mode(deploy, host):
    unit = deploy(host)
    mapping, wrong = {
        "a100-sriov-off": ("{A100-1-5C: ['10de:20f1']}", "{A100-11C: ['10de:20f1']}"),
        "h200": ("{H200X-1-18C: ['10de:2335']}", "{H200X-11C: ['10de:2335']}"),
    }[host]
    unit.change(config={"vgpu-device-mappings": mapping})
    unit.hook("config_changed")
    before = unit.databag
    unit.machine.commands.clear()
    unit.configure(wrong)
    assert unit.status.message.endswith("run list-vgpu-types and choose another")
    assert unit.databag == before
    assert not unit.machine.did("nvidia-smi -mig")
    unit.assert_converged()
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before


def test_card_with_guests_does_not_leave_mig_mode(deploy):
    unit = deploy("a100-sriov-off", nova="3:29.2.0-0ubuntu1")
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    before = unit.databag
    unit.machine.create_mdev("0000:41:00.4", "nvidia-474", UUIDS[1])
    unit.configure("{A100-10C: ['10de:20f1']}")
    assert unit.status == testing.WaitingStatus(
        "Guests on 0000:41:00.0 use nvidia-474 (A100-1-5C); delete or migrate them, "
        "or map the type to the card again"
    )
    assert unit.databag == before
    unit.machine.remove_mdev(UUIDS[1])
    unit.hook("update_status")
    assert len(unit.device_addresses("nvidia-471")) == 4


def test_mode_that_the_card_lacks_leaves_the_card_unchanged(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    before = unit.databag
    unit.configure("{L40S-1-6C: ['10de:26b9']}")
    assert unit.status == testing.BlockedStatus(
        "L40S-1-6C needs MIG, which 0000:3d:00.0 lacks; run list-vgpu-types and choose another"
    )
    for _ in range(2):
        assert len(unit.assigned_types()) == 6
        assert unit.databag == before
        unit.machine.reboot()
        unit.hook("start")


@pytest.mark.parametrize("fault", ["refused", "pending"])
def test_functions_are_restored_if_the_mode_does_not_change(deploy, fault):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['31:00.0']}")
    before = unit.databag
    if fault == "refused":
        busy = "In use by another client\n"
        unit.machine.fail("nvidia-smi -mig", stdout=busy, returncode=19)
    else:
        unit.machine.driver.needs_reset = unit.machine.driver.is_busy = True
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    assert len(unit.machine.facts.cards[0].gpu.virtual_functions) == 20
    assert unit.databag == before
    assert unit.status.name == "blocked"


def test_misspelt_type_id_keeps_assigned_types_and_published_data(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{nvidia-1152: ['3d:00.0']}")
    before = unit.databag
    unit.configure("{nvidia-9999: ['3d:00.0']}")
    assert unit.status.name == "blocked"
    assert unit.databag == before
    unit.machine.reboot()
    unit.hook("start")
    assert len(unit.assigned_types()) == 6
    assert unit.databag == before


def test_published_addresses_do_not_exceed_gpu_instances(deploy):
    unit = deploy("a100-sriov-off")
    create = unit.machine.driver.nvidia_smi
    left = iter(range(3))

    def with_room_for_three(*arguments):
        if "-cgi" in arguments and next(left, None) is None:
            return 19, "Failed to create GPU instances: Insufficient Resources\n"
        return create(*arguments)

    unit.machine.driver.nvidia_smi = with_room_for_three
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    assert len(unit.device_addresses("nvidia-474")) == 3
    assert "Insufficient Resources" in unit.status.message


def test_functions_beyond_the_capacity_of_the_card_are_not_published(deploy):
    unit = deploy("a40-mdev")
    unit.configure("{A40-24Q: ['41:00.4', '41:00.5', '41:00.6', '41:00.7']}")
    assert unit.device_addresses("nvidia-565") == ["0000:41:00.4", "0000:41:00.5"]
    unit.configure("{A40-24Q: ['41:00.4', '41:00.5'], A40-8Q: ['41:00.6']}")
    assert unit.status == testing.BlockedStatus(
        "0000:41:00.0 has no room for all of A40-24Q and A40-8Q; map fewer virtual functions"
    )


def test_plan_does_not_wait_for_what_a_rejected_mapping_requests(deploy):
    unit = deploy(recorded.without_functions("mixed"))
    unit.configure("{T4-99Q: ['10de:1eb8'], A40-8Q: ['10de:2235']}")
    plan = unit.action("show-plan")["output"]
    assert "does not offer T4-99Q; run list-vgpu-types and choose another" in plan
    assert "Waiting for" not in plan
    assert "Pending changes" not in plan
