# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Preparation of cards: virtual functions, GPU instances and mixed-size mode."""

from __future__ import annotations

import pytest
from plans import a100, offered, planned, with_mode

import recorded
from gpu.card import Card, CardMode
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from planning.plan import make_plan
from planning.preparation import InstanceRequest, Partitioning, Preparation


def test_functions_lost_at_boot_belong_to_this_host(cards):
    without_functions = recorded.without_functions("a40-mdev")["functions"]
    plan = planned(
        "{nvidia-558: ['0000:41:00.4', '0000:41:00.5']}",
        cards("a40-mdev", functions=without_functions),
    )
    assert plan.keeps_published
    assert [str(address) for address in plan.preparation.enable] == ["0000:41:00.0"]


def test_functions_are_not_enabled_for_devices_on_the_card_itself(cards):
    (card, _) = cards("t4-pair")
    booted = Card(
        card.gpu._replace(total_vfs=16),
        None,
        lost_types=card.types[:1],
        guest_vgpus=((card.gpu.address, card.types[0].id),),
    )
    assert make_plan((), (booted,)).preparation == Preparation()
    on_a_function = booted._replace(
        guest_vgpus=((card.gpu.address._replace(function=4), card.types[0].id),)
    )
    assert make_plan((), (on_a_function,)).preparation.enable == (card.gpu.address,)


def test_functions_on_another_bus_belong_to_another_host(cards):
    without_functions = recorded.without_functions("a40-mdev")["functions"]
    plan = planned(
        "{nvidia-558: ['0000:42:00.4']}", cards("a40-mdev", functions=without_functions)
    )
    assert (plan.keeps_published, plan.preparation.enable, plan.assignments) == (False, (), ())


def test_mixed_size_mode_is_switched_off_for_one_size(cards):
    mixed = with_mode(cards("a40-mdev"), CardMode(mixed_size=True))
    plan = planned("{A40-2Q: ['10de:2235']}", mixed)
    step = Partitioning(mixed[0].gpu.address, requested_types=("A40-2Q",))
    assert (plan.preparation.partitionings, plan.preparation.is_pending) == ((step,), True)


@pytest.mark.parametrize("requested", ["A100-1-5C", "GRID A100-1-5C", "nvidia-474"])
def test_mig_backed_type_requests_gpu_instances(cards, requested):
    plan = planned(f"{{{requested}: {{devices: ['10de:20f1']}}}}", a100(cards, []))
    (step,) = plan.preparation.partitionings
    assert step.instance_requests == (InstanceRequest(requested),)
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, True)
    assert plan.problems == (
        Problem(
            ProblemKind.INSTANCES_MISSING, PciAddress.parse("0000:41:00.0"), vgpu_type=requested
        ),
    )


def test_mig_backed_type_is_recognised_before_types_are_known(cards):
    (card,) = cards("a100-sriov-off")
    plan = planned("{A100-1-5C: ['10de:20f1']}", (card,))
    request, types = InstanceRequest("A100-1-5C"), ("A100-1-5C",)
    assert plan.preparation.partitionings == (
        Partitioning(card.gpu.address, (request,), requested_types=types),
    )
    assert plan.preparation.enable == (card.gpu.address,)


def test_missing_gpu_instances_are_pending(cards):
    assert planned("{A100-1-5C: ['10de:20f1']}", a100(cards, [19] * 3)).preparation.is_pending
    text = "{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}"
    plan = planned(text, a100(cards, [19] * 3))
    assert not plan.preparation.is_pending
    assert len(offered(plan)[0][1]) == 3


def test_card_in_use_keeps_its_gpu_instances(cards):
    (card,) = a100(cards, [19] * 7)
    card_in_use = card._replace(
        in_use=("a-uuid",), guest_vgpus=((card.gpu.virtual_functions[0], "nvidia-474"),)
    )
    plan = planned("{A100-20C: ['10de:20f1']}", (card_in_use,))
    assert not plan.preparation.is_pending
    assert (
        Problem(
            ProblemKind.GUESTS_USE_OTHER_TYPE,
            PciAddress.parse("0000:41:00.0"),
            vgpu_type="nvidia-474 (A100-1-5C)",
        )
        in plan.problems
    )


def test_time_sliced_type_removes_the_gpu_instances(cards):
    plan = planned("{A100-20C: ['10de:20f1']}", a100(cards, [19] * 7))
    assert (plan.preparation.partitionings[0].instance_requests, plan.preparation.is_pending) == (
        (),
        True,
    )
