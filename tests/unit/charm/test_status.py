# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The unit status in plain cases, and the workload version."""

from __future__ import annotations

import pytest
from ops import testing

from unit import T4_MAPPING, ready


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-gpu", "no supported NVIDIA GPU found"),
        ("t4-pair", "2 NVIDIA GPUs, vgpu-device-mappings is not set"),
        ("m10-board", "4 NVIDIA GPUs, vgpu-device-mappings is not set"),
        ("a40-mdev", "1 NVIDIA GPU, vgpu-device-mappings is not set"),
        ("l40s-vendor-vfio", "1 NVIDIA GPU, vgpu-device-mappings is not set"),
        ("mixed", "3 NVIDIA GPUs, vgpu-device-mappings is not set"),
    ],
)
def test_only_gpus_are_counted(deploy, host, message):
    unit = deploy(host)
    unit.hook("config_changed")
    assert unit.status == ready(message)


def test_only_types_for_this_host_are_counted(deploy):
    unit = deploy("mixed")
    unit.configure("{T4-8Q: ['10de:1eb8'], V100-8Q: ['c1:00.0'], T4-4Q: ['0000:99:00.0']}")
    assert unit.status == ready("3 NVIDIA GPUs, 2 vGPU types")


def test_host_without_a_mapped_card_offers_nothing(deploy):
    unit = deploy("t4-pair")
    unit.configure("{nvidia-35: ['0000:99:00.0']}")
    assert unit.status == ready("2 NVIDIA GPUs, none selected by vgpu-device-mappings")
    assert unit.sections == {}


def test_nothing_is_published_without_nova_common(deploy):
    unit = deploy("t4-pair", nova=None)
    unit.configure("{nvidia-233: ['0000:84:00.0']}")
    assert unit.status == testing.WaitingStatus("Waiting for nova-compute to install nova-common")
    assert unit.databag == {}


def test_missing_relation_is_requested(deploy):
    unit = deploy("t4-pair")
    unit.change(relations=set())
    unit.hook("update_status")
    assert unit.status == testing.BlockedStatus(
        "No relation to nova-compute; run juju integrate "
        "nova-compute-nvidia-vgpu:nova-vgpu nova-compute:nova-vgpu"
    )


def test_missing_relation_is_shown_at_every_event(deploy):
    unit = deploy("t4-pair")
    unit.change(relations=set())
    for hook in ("config_changed", "leader_elected", "update_status"):
        unit.hook(hook)
        assert unit.status.message.startswith("No relation to nova-compute"), hook
    unit.action("list-vgpu-types")
    assert unit.status.message.startswith("No relation to nova-compute")


def test_broken_relation_is_missing(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.relation_hook("departed")
    unit.relation_hook("broken")
    unit.change(relations=set())
    unit.hook("update_status")
    assert unit.status.message.startswith("No relation to nova-compute")


def test_workload_version_is_the_loaded_driver_version(deploy):
    unit = deploy("t4-pair")
    unit.hook("start")
    assert unit.state.workload_version == "535.161.05"
