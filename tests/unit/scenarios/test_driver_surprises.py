# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Answers and changes of the driver that the charm does not expect."""

from __future__ import annotations

import pytest
from ops import testing

A100, A100D = "0000:41:00.0", "0000:31:00.0"
MIG_QUERY = "nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending"


def test_functions_enabled_again_invalidate_the_cached_mode(deploy):
    """Binding the driver again removes GPU instances and ends mixed-size mode."""
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    driver = unit.machine.driver
    driver.sriov_manage("-d", A100D)
    unit.hook("update_status")
    assert driver.card(A100D)["mig"]["instances"] == [19] * 7
    assert len(unit.device_addresses("nvidia-699")) == 7


def test_mixed_size_mode_is_set_again_for_functions_enabled_again(deploy):
    unit = deploy("a40-mdev")
    unit.configure("{A40-2Q: ['41:00.4'], A40-8Q: ['41:00.6']}")
    driver = unit.machine.driver
    driver.sriov_manage("-d", "0000:41:00.0")
    assert driver.card("0000:41:00.0")["mixed"] is False
    unit.hook("update_status")
    assert driver.card("0000:41:00.0")["mixed"] is True


@pytest.mark.parametrize(
    "answer", ["", "[Unknown Error], [Unknown Error]\n", "[GPU requires reset], Enabled\n", "ERR!"]
)
def test_invalid_answer_does_not_mean_that_the_card_lacks_mig(deploy, answer):
    unit = deploy("a100-sriov-off")
    unit.machine.fail(MIG_QUERY, stdout=answer, returncode=0)
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    assert "the card has no MIG" not in unit.status.message
    assert unit.status.name == "blocked"


def test_failed_list_of_gpu_instances_creates_no_more(deploy):
    unit = deploy("a100-sriov-off")
    unit.configure("{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}")
    unit.machine.fail("nvidia-smi mig -lgi", stdout="Unknown Error\n", returncode=255)
    unit.configure("{A100-1-5C: ['10de:20f1']}")
    assert unit.machine.driver.card(A100)["mig"]["instances"] == [19] * 3
    assert unit.status.message.startswith(f"MIG setup failed on {A100}: Unknown Error")


def test_type_name_on_a_card_filled_earlier_is_queried(deploy):
    unit = deploy("l40s-vendor-vfio")
    functions = unit.machine.facts.cards[0].gpu.virtual_functions[:6]
    for function in functions:
        path = unit.machine.root / f"sys/bus/pci/devices/{function}/nvidia/current_vgpu_type"
        unit.machine.driver.write(path, "1152")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    assert unit.device_specs() == [str(function) for function in functions]
    unit.configure("{L40S-24Q: ['10de:26b9']}")
    assert unit.status == testing.WaitingStatus(
        "Guests on 0000:3d:00.0 use nvidia-1152 (L40S-8Q); delete or migrate them, "
        "or map the type to the card again"
    )
