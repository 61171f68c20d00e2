# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed release of Nova supports of a plan."""

from __future__ import annotations

import pytest
from plans import CARACAL, YOGA, offered, planned, problems_of, requests

import recorded
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from nova_compute.compatibility import apply_release
from nova_compute.nova_conf import PciOptions
from nova_compute.release import NovaVersion
from planning.plan import make_plan

TWO_TYPES = "{nvidia-35: ['0000:99:00.0'], nvidia-233: ['0000:84:00.0']}"


def with_option(option, device="10de:1eb8"):
    return f"{{T4-8Q: {{devices: ['{device}'], {option}}}}}"


def test_single_type_is_offered_on_the_other_functions_of_a_card(cards):
    plan = planned("{nvidia-558: ['0000:41:00.4']}", cards("a40-mdev"), "25.2.1")
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-558"),
    )


def test_vendor_specific_vfio_needs_nova_31(cards):
    plan = planned("{L40S-2Q: ['0000:3d:00.0']}", cards("l40s-vendor-vfio"), "30.1.0")
    assert plan.problems[0] == Problem(
        ProblemKind.VARIANT_DRIVER_UNSUPPORTED, PciAddress.parse("0000:3d:00.0"), nova="30.1.0"
    )
    assert (
        plan.keeps_published,
        plan.preparation.type_assignments,
        plan.preparation.is_pending,
    ) == (True, (), False)


def test_two_types_on_one_vendor_vfio_card_are_rejected(cards):
    text = "{L40S-2Q: ['3d:00.4'], L40S-2A: ['3d:00.5']}"
    plan = planned(text, cards("l40s-vendor-vfio"), "31.0.0")
    assert (
        Problem(
            ProblemKind.TWO_TYPES_ON_CARD,
            PciAddress.parse("0000:3d:00.0"),
            first="L40S-2Q",
            second="L40S-2A",
        )
        in plan.problems
    )
    assert (plan.keeps_published, plan.preparation.type_assignments) == (True, ())


@pytest.mark.parametrize(("is_reported", "problems"), [(False, 1), (True, 0)])
def test_two_types_of_one_model_need_placement(cards, is_reported, problems):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    pair = cards("l40s-vendor-vfio", functions=[card, {**card, "address": "0000:c1:00.0"}])
    plan = make_plan(requests("{L40S-24Q: ['3d:00.0'], L40S-48Q: ['c1:00.0']}"), pair)
    nova = NovaVersion(31)
    applied = apply_release(plan, pair, nova, PciOptions(report_in_placement=is_reported))
    ambiguous = Problem(ProblemKind.ALIAS_AMBIGUOUS, first="L40S-24Q", second="L40S-48Q")
    assert applied.problems == (ambiguous,) * problems
    assert bool(applied.preparation.type_assignments) is is_reported


@pytest.mark.parametrize("nova", ["17.0.13", "20.6.1", "21.2.4", "22.0.0", "22.2.0"])
def test_local_type_is_first_before_nova_22_2_1(cards, nova):
    plan = planned(TWO_TYPES, cards("t4-pair"), nova)
    assert [type_id for type_id, _ in offered(plan)] == ["nvidia-233", "nvidia-35"]
    assert plan.notes == (
        Problem(ProblemKind.FIRST_TYPE_ONLY, nova=f"{nova}", vgpu_type="nvidia-233"),
    )
    assert not plan.keeps_published


@pytest.mark.parametrize("nova", ["22.2.1", "23.0.0", "28.0.0", "34.0.0"])
def test_order_of_types_is_kept_from_nova_22_2_1(cards, nova):
    plan = planned(TWO_TYPES, cards("t4-pair"), nova)
    assert [type_id for type_id, _ in offered(plan)] == ["nvidia-35", "nvidia-233"]
    assert plan.problems == ()


@pytest.mark.parametrize("nova", ["17.0.13", "21.2.4", "22.2.1", "28.3.0"])
def test_single_type_is_offered_on_every_card_before_nova_29(cards, nova):
    plan = planned("{nvidia-233: ['0000:84:00.0']}", cards("t4-pair"), nova)
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova=f"{nova}", vgpu_type="nvidia-233"),
    )
    assert not plan.keeps_published


@pytest.mark.parametrize(
    ("name", "text", "nova"),
    [
        ("t4-pair", "{nvidia-233: ['0000:84:00.0']}", CARACAL),
        ("t4-pair", "{nvidia-233: ['0000:84:00.0', '0000:d8:00.0']}", YOGA),
        ("mixed", "{nvidia-233: ['0000:3b:00.0']}", YOGA),
    ],
    ids=["Nova 29", "all cards are mapped", "the other cards lack the type"],
)
def test_single_type_without_effect_on_other_cards_is_not_noted(cards, name, text, nova):
    assert planned(text, cards(name), nova).problems == ()


def test_single_local_type_is_offered_on_every_card_before_nova_29(cards):
    text = "{A40-2Q: ['10de:2235'], T4-8Q: ['0000:84:00.0']}"
    plan = planned(text, cards("t4-pair"), YOGA)
    assert plan.notes == (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-233"),
    )


@pytest.mark.parametrize(
    ("option", "nova", "problem"),
    [
        (
            "resource-class: CUSTOM_A",
            "23.2.2",
            Problem(
                ProblemKind.OPTION_UNSUPPORTED,
                option="resource-class",
                required="24",
                nova="23.2.2",
            ),
        ),
        (
            "resource-class: CUSTOM_A",
            "24.0.0",
            Problem(
                ProblemKind.OPTION_IGNORED, option="resource-class", required="29", nova="24.0.0"
            ),
        ),
        (
            "resource-class: CUSTOM_A",
            "28.3.0",
            Problem(
                ProblemKind.OPTION_IGNORED, option="resource-class", required="29", nova="28.3.0"
            ),
        ),
        (
            "max-instances: 4",
            "28.3.0",
            Problem(
                ProblemKind.OPTION_UNSUPPORTED,
                option="max-instances",
                required="29",
                nova="28.3.0",
            ),
        ),
    ],
)
def test_option_that_nova_does_not_support_is_a_problem(cards, option, nova, problem):
    assert problems_of(with_option(option), cards("t4-pair"), nova) == (problem,)


@pytest.mark.parametrize(
    ("option", "nova"), [("resource-class: CUSTOM_A", "29.0.0"), ("max-instances: 4", "29.0.0")]
)
def test_option_is_supported_from_nova_29(cards, option, nova):
    assert planned(with_option(option), cards("t4-pair"), nova).problems == ()


def test_resource_class_of_several_types_is_supported_from_nova_24(cards):
    text = "{T4-8Q: {devices: ['84:00.0'], resource-class: CUSTOM_A}, T4-4Q: ['d8:00.0']}"
    assert planned(text, cards("t4-pair"), "24.0.0").problems == ()


def test_limit_below_one_card_drops_the_card(cards):
    assert problems_of(with_option("max-instances: 1", "84:00.0"), cards("t4-pair")) == (
        Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD,
            PciAddress.parse("0000:84:00.0"),
            limit="1",
            room="2",
        ),
    )


def test_limit_below_one_card_is_valid_for_virtual_functions(cards):
    text = "{A40-2Q: {devices: ['10de:2235'], max-instances: 5}}"
    assert planned(text, cards("a40-mdev")).problems == ()


def test_limit_between_multiples_drops_a_card(cards):
    assert problems_of(with_option("max-instances: 3"), cards("t4-pair")) == (
        Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD,
            PciAddress.parse("0000:d8:00.0"),
            limit="3",
            room="2",
        ),
    )


@pytest.mark.parametrize("limit", [2, 4, 5])
def test_limit_for_complete_cards_is_valid(cards, limit):
    assert planned(with_option(f"max-instances: {limit}"), cards("t4-pair")).problems == ()


def test_nova_before_queens_does_not_support_vgpus(cards):
    assert problems_of("{nvidia-233: ['0000:84:00.0']}", cards("t4-pair"), "16.1.8") == (
        Problem(ProblemKind.NOVA_TOO_OLD, nova="16.1.8"),
    )


def test_future_nova_is_treated_like_the_newest(cards):
    text, pair = with_option("max-instances: 4, resource-class: CUSTOM_A"), cards("t4-pair")
    assert planned(text, pair, "41.0.0") == planned(text, pair, "34.0.0")
