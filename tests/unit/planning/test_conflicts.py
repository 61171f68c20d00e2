# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Requests for one card that conflict with each other or with its guests."""

from __future__ import annotations

from plans import a100, offered, planned, problems_of, with_mode

import recorded
from gpu.card import CardMode
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from planning.preparation import Partitioning

TWO_SIZES = "{A40-2Q: ['0000:41:00.4'], A40-4Q: ['0000:41:00.5']}"


def test_type_in_use_by_guests_is_not_replaced(cards):
    (first, second) = cards("t4-pair")
    card_in_use = first._replace(
        in_use=("a-uuid",), guest_vgpus=((first.gpu.address, "nvidia-233"),)
    )
    assert problems_of("{T4-4Q: ['10de:1eb8']}", (card_in_use, second)) == (
        Problem(
            ProblemKind.GUESTS_USE_OTHER_TYPE,
            PciAddress.parse("0000:84:00.0"),
            vgpu_type="nvidia-233 (T4-8Q)",
        ),
    )
    assert planned("{T4-8Q: ['10de:1eb8']}", (card_in_use, second)).problems == ()


def test_two_sizes_on_one_card_need_mixed_size_mode(cards):
    """The driver refuses the second size once a vGPU of the first exists."""
    plan = planned(TWO_SIZES, cards("a40-mdev"))
    assert plan.problems == (
        Problem(ProblemKind.MIXED_SIZE_PENDING, PciAddress.parse("0000:41:00.0")),
    )
    types = ("A40-2Q", "A40-4Q")
    address = cards("a40-mdev")[0].gpu.address
    assert plan.preparation.partitionings == (
        Partitioning(address, mixed_size=True, requested_types=types),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, True)

    mixed = planned(TWO_SIZES, with_mode(cards("a40-mdev"), CardMode(mixed_size=True)))
    assert (mixed.problems, mixed.keeps_published, mixed.preparation.is_pending) == (
        (),
        False,
        False,
    )


def test_two_sizes_are_rejected_without_mixed_size_mode(cards):
    plan = planned(TWO_SIZES, with_mode(cards("a40-mdev"), CardMode(mixed_size=None)))
    assert plan.problems == (
        Problem(
            ProblemKind.MIXED_SIZES,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="A40-2Q and A40-4Q",
        ),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (True, False)


def test_plain_types_of_two_sizes_are_noted_and_published(cards):
    text = "{nvidia-558: ['0000:41:00.4'], nvidia-560: ['0000:41:00.5']}"
    plan = planned(text, cards("a40-mdev"))
    assert plan.notes == (
        Problem(
            ProblemKind.MIXED_SIZE_NEEDED,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="nvidia-558 and nvidia-560",
        ),
    )
    assert (plan.keeps_published, plan.preparation.is_pending) == (False, True)


def test_functions_of_one_card_may_mix_series_of_one_size(cards):
    plan = planned("{A40-2Q: ['0000:41:00.4'], A40-2A: ['0000:41:00.5']}", cards("a40-mdev"))
    assert offered(plan) == [("nvidia-558", ["0000:41:00.4"]), ("nvidia-568", ["0000:41:00.5"])]
    assert plan.problems == ()


def test_two_cards_may_have_two_sizes(cards):
    plan = planned("{T4-8Q: ['0000:84:00.0'], T4-4Q: ['0000:d8:00.0']}", cards("t4-pair"))
    assert plan.problems == ()


def test_one_card_is_never_time_sliced_and_mig_backed(cards):
    functions = [str(function) for function in a100(cards, [])[0].gpu.virtual_functions]
    text = f"{{A100-20C: ['{functions[0]}'], A100-1-5C: ['{functions[1]}']}}"
    plan = planned(text, a100(cards, []))
    assert plan.problems[-1] == Problem(
        ProblemKind.MIG_AND_TIME_SLICED,
        PciAddress.parse("0000:41:00.0"),
        first="A100-20C",
        second="A100-1-5C",
    )
    assert (plan.keeps_published, plan.preparation.partitionings) == (True, ())


def test_too_few_virtual_functions_are_noted(cards):
    """sriov-manage may enable only some of them."""
    (card,) = recorded.host("a40-mdev")["functions"]
    few = {**card, "sriov": {**card["sriov"], "enabled": 3}}
    plan = planned("{A40-8Q: ['10de:2235']}", cards("a40-mdev", functions=[few]))
    assert plan.notes == (
        Problem(
            ProblemKind.TOO_FEW_FUNCTIONS,
            PciAddress.parse("0000:41:00.0"),
            count="3",
            vgpu_type="A40-8Q",
        ),
    )
    assert (len(offered(plan)[0][1]), plan.keeps_published) == (3, False)
