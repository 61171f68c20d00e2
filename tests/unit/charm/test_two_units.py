# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Two units of the charm on one host: one manages it, the other says so and does nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ops import testing

from charm import NovaComputeNvidiaVgpuCharm
from unit import Unit, ready

MAPPING, OTHER_MAPPING = "{L40S-8Q: ['10de:26b9']}", "{L40S-24Q: ['10de:26b9']}"
NOT_OWNER = testing.BlockedStatus(
    "Unit nova-compute-nvidia-vgpu/0 already manages this host; remove one application or relation"
)


def agent_of(name):
    return Path("/var/lib/juju/agents") / f"unit-{name.replace('/', '-')}" / "charm"


@pytest.fixture
def units(deploy, monkeypatch):
    """Two units on a host with an L40S, of which the first is related and manages the host."""
    first = deploy("l40s-vendor-vfio")
    monkeypatch.setattr(
        NovaComputeNvidiaVgpuCharm, "charm_dir", property(lambda self: agent_of(self.unit.name))
    )
    context = testing.Context(NovaComputeNvidiaVgpuCharm, app_name="other")
    second = Unit(first.machine, context, first.clock)
    for name in ("nova-compute-nvidia-vgpu/0", "other/0"):
        path = first.machine.root / str(agent_of(name)).lstrip("/") / "src/charm.py"
        path.parent.mkdir(parents=True)
        path.touch()
    first.configure(MAPPING)
    return first, second


def test_second_unit_changes_nothing(units):
    first, second = units
    before, assigned = first.databag, first.assigned_types()
    first.machine.commands.clear()
    for hook in ("install", "start", "update_status"):
        second.hook(hook)
    second.configure(OTHER_MAPPING)
    second.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert second.status == NOT_OWNER
    assert (second.databag, first.machine.commands) == ({}, [])
    first.hook("update_status")
    assert (first.databag, first.assigned_types()) == (before, assigned)
    assert first.status == ready("1 NVIDIA GPU, 1 vGPU type")


@pytest.mark.parametrize("action", ["pause", "resume", "reboot-install", "show-plan"])
def test_actions_of_the_second_unit_name_the_first(units, action):
    _, second = units
    with pytest.raises(testing.ActionFailed, match="already manages this host"):
        second.action(action)


def test_removal_of_the_second_unit_takes_nothing_of_the_first(units):
    first, second = units
    second.hook("start")
    before = sorted(first.machine.root.rglob("*nova-compute-nvidia-vgpu*"))
    for hook in ("stop", "remove"):
        second.hook(hook)
    assert sorted(first.machine.root.rglob("*nova-compute-nvidia-vgpu*")) == before
    assert first.machine.did("systemctl disable") == []


@pytest.mark.parametrize("forced", [False, True], ids=["removed", "removed with --force"])
def test_removed_unit_hands_the_host_over(units, forced):
    first, second = units
    second.configure(OTHER_MAPPING)
    agent = first.machine.root / str(agent_of("nova-compute-nvidia-vgpu/0")).lstrip("/")
    if not forced:
        for hook in ("stop", "remove"):
            first.hook(hook)
    shutil.rmtree(agent)
    second.hook("update_status")
    assert second.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert set(second.assigned_types().values()) == {"nvidia-1155"}
    assert len(second.device_specs()) == 2
    unit_file = "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service"
    assert str(agent_of("other/0")) in (first.machine.root / unit_file).read_text()


def test_unit_with_the_relation_manages_the_host(units):
    """Another relation, such as juju-info, makes a unit that cannot publish anything."""
    first, second = units
    first.relation_hook("broken")
    first.change(relations=set())
    first.hook("update_status")
    assert first.status.message.startswith("No relation to nova-compute")
    second.configure(OTHER_MAPPING)
    assert len(second.device_specs()) == 2
    first.hook("update_status")
    assert first.status == testing.BlockedStatus(
        "Unit other/0 already manages this host; remove one application or relation"
    )


def test_upgraded_second_unit_withdraws_what_it_had_published(units):
    _, second = units
    data = {"services": '["nvidia-vgpu-mgr"]'}
    relation = testing.SubordinateRelation("nova-vgpu", local_unit_data=data)
    second.relation = relation
    second.change(relations={relation})
    second.hook("upgrade_charm")
    assert second.databag["services"] == "[]"
    assert second.sections == {}


def test_publication_without_a_relation_is_not_taken_for_success(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure(MAPPING)
    unit.change(relations=set())  # without an event, as after a restored state
    unit.change(config={"vgpu-device-mappings": OTHER_MAPPING})
    unit.hook("config_changed")
    unit.hook("update_status")
    assert unit.status.message.startswith("No relation to nova-compute")
    unit.change(relations={unit.relation})
    unit.relation_hook("joined")
    unit.hook("update_status")
    assert len(unit.device_specs()) == 2


def test_unit_that_has_lost_the_host_withdraws_what_it_published(units):
    first, second = units
    for path in (first.machine.root / "var/lib/nova-compute-nvidia-vgpu").glob("state*.json"):
        path.write_text("{")
    second.configure(OTHER_MAPPING)
    assert len(second.device_specs()) == 2
    first.hook("update_status")
    assert first.sections == {}
    assert first.status.message.startswith("Unit other/0 already manages this host")
