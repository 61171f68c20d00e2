# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Valid mappings, and changes between them, converge."""

from __future__ import annotations

import pytest

import recorded
from unit import ready


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{L40S-24Q: ['3d:00.4']}", ["0000:3d:00.4"]),
        ("{L40S-8Q: ['3d:04.0', '3d:04.1']}", ["0000:3d:04.0", "0000:3d:04.1"]),
        ("{L40S-8Q: ['3d:00.4', '3d:02.0']}", ["0000:3d:00.4", "0000:3d:02.0"]),
    ],
)
def test_functions_no_longer_mapped_make_room_for_mapped_ones(deploy, text, expected):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['3d:00.0']}")
    unit.configure(text)
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert (unit.device_specs(), list(unit.assigned_types())) == (expected, expected)
    unit.assert_converged()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("{A40-2Q: {devices: ['41:00.4', 'c1:00.0'], max-instances: 10}}", [1, 9]),
        ("{A40-2Q: {devices: ['41:00.0', 'c1:00.0'], max-instances: 10}}", [10, 0]),
    ],
)
def test_single_function_counts_towards_the_limit_of_all_cards(deploy, text, numbers):
    unit = deploy("a40-mdev", functions=recorded.card_pair("a40-mdev"))
    unit.configure(text)
    buses = [address[:7] for address in unit.device_addresses("nvidia-558")]
    assert [buses.count("0000:41"), buses.count("0000:c1")] == numbers


def test_limit_reached_on_the_first_card_leaves_the_second_unchanged(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-1-10C: {devices: ['10de:20b5'], max-instances: 7}}")
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")
    assert len(unit.device_addresses("nvidia-699")) == 7
    assert "enabled" not in unit.machine.driver.card("0000:b1:00.0")["mig"]
    unit.assert_converged()


def test_fewer_gpu_instances_replace_idle_ones(deploy):
    unit = deploy("rtx-pro-6000")
    unit.configure("{DC-1-24Q: ['10de:2bb5']}")
    assert len(unit.device_specs()) == 4
    unit.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 2}}")
    assert unit.machine.driver.card("0001:c8:00.0")["mig"]["instances"] == [47, 47]
    assert len(unit.device_specs()) == 2
    unit.assert_converged()


def test_each_mapped_function_gets_one_gpu_instance(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-1-10C: ['31:00.4', '31:00.5'], A100D-3-40C: ['31:00.6']}")
    assert sorted(unit.machine.driver.card("0000:31:00.0")["mig"]["instances"]) == [9, 19, 19]
    assert unit.status == ready("2 NVIDIA GPUs, 2 vGPU types")
    unit.assert_converged()


def test_card_leaves_mig_mode_for_a_time_sliced_type_by_name(deploy):
    """In MIG mode, sysfs lists no time-sliced type for the card."""
    unit = deploy("a100-sriov-off", nova="3:29.2.0-0ubuntu1")
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    assert "mdev_nvidia-474" in unit.sections
    unit.configure("{A100-10C: ['10de:20f1']}")
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert len(unit.device_addresses("nvidia-471")) == 4
    unit.assert_converged()


@pytest.mark.parametrize(
    ("nova", "host", "text"),
    [
        ("28.3.0", "a100-80-pair", "{A100D-1-10C: ['31:00.0'], A100D-20C: ['b1:00.0']}"),
        ("21.2.4", "mixed", "{T4-8Q: ['10de:1eb8'], A40-8Q: ['10de:2235']}"),
        ("28.3.0", "a16-board", "{A16-4Q: ['ce:00.0']}"),
    ],
)
def test_limitations_of_nova_do_not_prevent_preparation(deploy, nova, host, text):
    unit = deploy({**recorded.without_functions(host), "nova": f"3:{nova}-0ubuntu1"})
    unit.configure(text)
    assert unit.status.name == "active"
    unit.assert_converged()


def test_listed_suffix_is_a_separate_type(deploy):
    unit = deploy("a100-sriov-off")
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    unit.configure("{A100-1-5CME: ['10de:20f1']}")
    assert unit.machine.driver.card("0000:41:00.0")["mig"]["instances"] == [20]
    assert unit.device_addresses("nvidia-706") == ["0000:41:00.4"]


def test_type_name_with_suffix_converges(deploy):
    unit = deploy("rtx-pro-6000")
    unit.configure("{DC-1-24QGFX: ['10de:2bb5']}")
    assert len(unit.device_specs()) == 4
    unit.assert_converged()


def test_mig_backed_type_can_be_requested_by_id(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{nvidia-699: ['31:00.0', 'b1:00.0']}")
    assert len(unit.device_addresses("nvidia-699")) == 14
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")
