# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova makes of a plan, and what of it it cannot honour; pure.

What a release can do stands in `releases`; here is what follows for the cards of a host.
"""

from __future__ import annotations

from typing import Iterator

from gpu.card import Card, Framework
from gpu.problems import Kind, Problem
from host.gpus import PciAddress, PciId
from nova_compute.release import NovaVersion
from planning.plan import DEFAULTS, Assignment, PciOptions, Plan
from planning.preparation import TypeStep

__all__ = ["honour"]

# These do not speak against the wish, only of what the installed Nova makes of it.
_REMARKS = frozenset({Kind.FIRST_TYPE_ONLY, Kind.TAKES_ALL_CARDS})


def honour(
    plan: Plan, cards: tuple[Card, ...], nova: NovaVersion, options: PciOptions = DEFAULTS
) -> Plan:
    """Add to a plan what the operator should know of this Nova; hold it if it cannot be honoured.

    On a host whose cards no request names there is nothing to honour.
    """
    if not cards or not (plan.assignments or plan.work.types):
        return plan
    refused = tuple(_variant_limits(plan.work.types, cards, nova, options))
    assignments = _first_for_this_host(plan.assignments, nova)
    problems = tuple(dict.fromkeys([*refused, *_limits(assignments, cards, nova)]))
    if refused:  # no function is to carry what Nova could not be told of
        plan = _without_variant(plan, cards)
        assignments = tuple(found for found in assignments if found.framework is Framework.MDEV)
    others = {card for found in assignments for card in found.cards}
    others.update(plan.work.enable, (step.card for step in plan.work.modes))
    is_partly = bool(others) and not nova.has_variant_driver
    passing = _REMARKS | {Kind.VENDOR_VFIO} if is_partly else _REMARKS
    grave = tuple(problem for problem in problems if problem.kind not in passing)
    return plan._replace(
        assignments=assignments,
        problems=(*grave, *plan.problems),
        remarks=(*(found for found in problems if found not in grave), *plan.remarks),
        held=plan.held or bool(grave),
    )


def _without_variant(plan: Plan, cards: tuple[Card, ...]) -> Plan:
    """Leave cards under the kernel variant driver as they are, and say of them but why."""
    work = plan.work
    left = {card.gpu.address for card in cards if card.framework is Framework.VENDOR_VFIO}

    def is_left(problem: Problem) -> bool:
        return problem.kind is not Kind.TYPE_NOT_SET

    problems = tuple(filter(is_left, plan.problems))
    is_moot = plan.held and not problems  # it was these alone that held it
    return plan._replace(
        work=work._replace(
            modes=tuple(step for step in work.modes if step.card not in left),
            types=(),
            due=tuple(card for card in work.due if card not in left),
        ),
        problems=problems,
        remarks=tuple(filter(is_left, plan.remarks)),
        held=plan.held and not is_moot,
    )


def _first_for_this_host(
    assignments: tuple[Assignment, ...], nova: NovaVersion
) -> tuple[Assignment, ...]:
    """Put a type for this host first where Nova goes by the first one only."""
    if nova.honours_several_types:
        return assignments
    return tuple(sorted(assignments, key=lambda assignment: not assignment.cards))


def _limits(
    assignments: tuple[Assignment, ...], cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    """Find what the installed Nova cannot honour."""
    release = f"Nova {nova}"
    if not nova.offers_vgpus:
        yield Problem(Kind.NOVA_TOO_OLD, release)
        return
    assignments = tuple(found for found in assignments if found.framework is Framework.MDEV)
    if not assignments:
        return
    for assignment in assignments:
        yield from _option_limits(assignment, len(assignments) == 1, cards, nova)
    first = assignments[0].type_id
    if len(assignments) > 1 and not nova.honours_several_types:
        yield Problem(Kind.FIRST_TYPE_ONLY, release, first)
        return
    is_alone = len(assignments) == 1 and not nova.honours_one_type_alone
    if is_alone and any(_is_taken(card, assignments[0]) for card in cards):
        yield Problem(Kind.TAKES_ALL_CARDS, release, first)


def _is_taken(card: Card, assignment: Assignment) -> bool:
    """Whether Nova offers a type on parents of a card that it was not to be offered on.

    What it counts beyond what the card holds goes once the card is full.
    """
    known = card.find_type(assignment.type_id)
    named = len(set(card.parents).intersection(assignment.addresses))
    is_full = named > 0 and known is not None and named == known.maximum
    return known is not None and named < len(card.parents) and not is_full


def _variant_limits(
    steps: tuple[TypeStep, ...],
    cards: tuple[Card, ...],
    nova: NovaVersion,
    options: PciOptions,
) -> Iterator[Problem]:
    """Find what Nova cannot do with functions under the kernel variant driver.

    One class for all functions of a card, or nova-compute refuses to start
    (PlacementPciMixedResourceClassException); and without placement an alias goes by ids, which
    all types of a model share.
    """
    ids = {card.gpu.address: card.function_id for card in cards}
    first_on: dict[PciAddress, TypeStep] = {}
    first_of: dict[PciId | None, TypeStep] = {}
    for step in steps:
        if not nova.has_variant_driver:
            yield Problem(Kind.VENDOR_VFIO, str(step.card), str(nova))
        if ids[step.card] is None and not options.report_in_placement:
            yield Problem(Kind.CARD_UNREADABLE, str(step.card))  # its alias would fit any function
        if step.resource_class is not None and not options.report_in_placement:
            yield Problem(Kind.NEEDS_PLACEMENT, step.word)
        other = first_on.setdefault(step.card, step)
        if other is not step:
            yield Problem(Kind.TWO_TYPES_ON_CARD, str(step.card), other.word, step.word)
            continue
        other = first_of.setdefault(ids[step.card], step)
        if other.type_id != step.type_id and not options.report_in_placement:
            yield Problem(Kind.ALIAS_AMBIGUOUS, other.word, step.word)


def _option_limits(
    assignment: Assignment, is_alone: bool, cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    if assignment.resource_class is not None:
        if not nova.has_mdev_class:
            yield Problem(Kind.OPTION_UNSUPPORTED, "resource-class", "24", str(nova))
        elif is_alone and not nova.honours_one_type_alone:
            yield Problem(Kind.OPTION_IGNORED, "resource-class", "29", str(nova))
    if assignment.max_instances is None:
        return
    on_functions = all(
        card.parents != (card.gpu.address,)
        for card in cards
        if card.gpu.address in assignment.cards
    )
    if nova.has_max_instances:
        yield from _dropped_cards(assignment, assignment.max_instances, cards)
    elif not on_functions or is_alone or not nova.honours_several_types:
        # Else so many virtual functions are published, each of which Nova counts as one.
        yield Problem(Kind.OPTION_UNSUPPORTED, "max-instances", "29", str(nova))


def _dropped_cards(
    assignment: Assignment, limit: int, cards: tuple[Card, ...]
) -> Iterator[Problem]:
    """Find a limit that Nova cannot meet: it counts the cards one after the other, each whole.

    Virtual functions count one by one, so any number of them can be met.
    """
    room = limit
    dropped: list[tuple[Card, int]] = []
    for card in cards:
        known = card.find_type(assignment.type_id)
        on_card = card.gpu.address in assignment.cards and card.parents == (card.gpu.address,)
        if on_card and known and known.maximum is not None:
            if known.maximum > room:
                dropped.append((card, known.maximum))
            else:
                room -= known.maximum
    if dropped and room:
        card, maximum = dropped[0]
        address = str(card.gpu.address)
        yield Problem(Kind.MAX_INSTANCES_DROPS_CARD, address, str(limit), str(maximum))
