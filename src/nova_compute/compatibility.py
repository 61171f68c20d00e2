# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova makes of a plan, and what of it it cannot honour; pure.

What a release can do stands in `releases`; here is what follows for the cards of a host.
"""

from __future__ import annotations

from typing import Iterator

from gpu.card import Card, Framework
from gpu.problems import Problem, ProblemKind
from host.gpus import PciAddress, PciId
from nova_compute.release import NovaVersion
from planning.plan import DEFAULTS, Assignment, Plan, VariantDriverOptions
from planning.preparation import TypeAssignment

__all__ = ["apply_release"]

# These do not speak against the wish, only of what the installed Nova makes of it.
_REMARKS = frozenset({ProblemKind.FIRST_TYPE_ONLY, ProblemKind.TAKES_ALL_CARDS})


def apply_release(
    plan: Plan,
    cards: tuple[Card, ...],
    nova: NovaVersion,
    options: VariantDriverOptions = DEFAULTS,
) -> Plan:
    """Add to a plan what the operator should know of this Nova; hold it if it cannot be honoured.

    On a host whose cards no request names there is nothing to honour.
    """
    if not cards or not (plan.assignments or plan.preparation.type_assignments):
        return plan
    refused = tuple(
        _find_variant_conflicts(plan.preparation.type_assignments, cards, nova, options)
    )
    assignments = _local_types_first(plan.assignments, nova)
    problems = tuple(dict.fromkeys([*refused, *_find_unsupported(assignments, cards, nova)]))
    if refused:  # no function is to carry what Nova could not be told of
        plan = _without_variant_driver(plan, cards)
        assignments = tuple(found for found in assignments if found.framework is Framework.MDEV)
    others = {card for found in assignments for card in found.cards}
    others.update(plan.preparation.enable, (step.card for step in plan.preparation.partitionings))
    is_partly = bool(others) and not nova.supports_variant_driver
    passing = _REMARKS | {ProblemKind.VARIANT_DRIVER_UNSUPPORTED} if is_partly else _REMARKS
    grave = tuple(problem for problem in problems if problem.kind not in passing)
    return plan._replace(
        assignments=assignments,
        problems=(*grave, *plan.problems),
        notes=(*(found for found in problems if found not in grave), *plan.notes),
        keeps_published=plan.keeps_published or bool(grave),
    )


def _without_variant_driver(plan: Plan, cards: tuple[Card, ...]) -> Plan:
    """Leave cards under the kernel variant driver as they are, and say of them but why."""
    work = plan.preparation
    left = {card.gpu.address for card in cards if card.framework is Framework.VENDOR_VFIO}

    def is_left(problem: Problem) -> bool:
        return problem.kind is not ProblemKind.TYPE_NOT_SET

    problems = tuple(filter(is_left, plan.problems))
    is_moot = plan.keeps_published and not problems  # it was these alone that held it
    return plan._replace(
        preparation=work._replace(
            partitionings=tuple(step for step in work.partitionings if step.card not in left),
            type_assignments=(),
            pending=tuple(card for card in work.pending if card not in left),
        ),
        problems=problems,
        notes=tuple(filter(is_left, plan.notes)),
        keeps_published=plan.keeps_published and not is_moot,
    )


def _local_types_first(
    assignments: tuple[Assignment, ...], nova: NovaVersion
) -> tuple[Assignment, ...]:
    """Put a type for this host first where Nova goes by the first one only."""
    if nova.supports_several_types:
        return assignments
    return tuple(sorted(assignments, key=lambda assignment: not assignment.cards))


def _find_unsupported(
    assignments: tuple[Assignment, ...], cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    """Find what the installed Nova cannot honour."""
    release = f"Nova {nova}"
    if not nova.supports_vgpus:
        yield Problem(ProblemKind.NOVA_TOO_OLD, release)
        return
    assignments = tuple(found for found in assignments if found.framework is Framework.MDEV)
    if not assignments:
        return
    for assignment in assignments:
        yield from _find_unsupported_options(assignment, len(assignments) == 1, cards, nova)
    first = assignments[0].type_id
    if len(assignments) > 1 and not nova.supports_several_types:
        yield Problem(ProblemKind.FIRST_TYPE_ONLY, release, first)
        return
    is_alone = len(assignments) == 1 and not nova.restricts_single_type
    if is_alone and any(_takes_unmapped_parents(card, assignments[0]) for card in cards):
        yield Problem(ProblemKind.TAKES_ALL_CARDS, release, first)


def _takes_unmapped_parents(card: Card, assignment: Assignment) -> bool:
    """Whether Nova offers a type on parents of a card that it was not to be offered on.

    What it counts beyond what the card holds goes once the card is full.
    """
    known = card.find_type(assignment.type_id)
    named = len(set(card.parents).intersection(assignment.addresses))
    is_full = named > 0 and known is not None and named == known.max_instances
    return known is not None and named < len(card.parents) and not is_full


def _find_variant_conflicts(
    steps: tuple[TypeAssignment, ...],
    cards: tuple[Card, ...],
    nova: NovaVersion,
    options: VariantDriverOptions,
) -> Iterator[Problem]:
    """Find what Nova cannot do with functions under the kernel variant driver.

    One class for all functions of a card, or nova-compute refuses to start
    (PlacementPciMixedResourceClassException); and without placement an alias goes by ids, which
    all types of a model share.
    """
    ids = {card.gpu.address: card.function_id for card in cards}
    first_on: dict[PciAddress, TypeAssignment] = {}
    first_of: dict[PciId | None, TypeAssignment] = {}
    for step in steps:
        if not nova.supports_variant_driver:
            yield Problem(ProblemKind.VARIANT_DRIVER_UNSUPPORTED, str(step.card), str(nova))
        if ids[step.card] is None and not options.report_in_placement:
            yield Problem(
                ProblemKind.CARD_UNREADABLE, str(step.card)
            )  # its alias would fit any function
        if step.resource_class is not None and not options.report_in_placement:
            yield Problem(ProblemKind.NEEDS_PLACEMENT, step.requested_type)
        other = first_on.setdefault(step.card, step)
        if other is not step:
            yield Problem(
                ProblemKind.TWO_TYPES_ON_CARD,
                str(step.card),
                other.requested_type,
                step.requested_type,
            )
            continue
        other = first_of.setdefault(ids[step.card], step)
        if other.type_id != step.type_id and not options.report_in_placement:
            yield Problem(ProblemKind.ALIAS_AMBIGUOUS, other.requested_type, step.requested_type)


def _find_unsupported_options(
    assignment: Assignment, is_alone: bool, cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    if assignment.resource_class is not None:
        if not nova.supports_mdev_class:
            yield Problem(ProblemKind.OPTION_UNSUPPORTED, "resource-class", "24", str(nova))
        elif is_alone and not nova.restricts_single_type:
            yield Problem(ProblemKind.OPTION_IGNORED, "resource-class", "29", str(nova))
    if assignment.max_instances is None:
        return
    on_functions = all(
        card.parents != (card.gpu.address,)
        for card in cards
        if card.gpu.address in assignment.cards
    )
    if nova.supports_max_instances:
        yield from _dropped_cards(assignment, assignment.max_instances, cards)
    elif not on_functions or is_alone or not nova.supports_several_types:
        # Else so many virtual functions are published, each of which Nova counts as one.
        yield Problem(ProblemKind.OPTION_UNSUPPORTED, "max-instances", "29", str(nova))


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
        if on_card and known and known.max_instances is not None:
            if known.max_instances > room:
                dropped.append((card, known.max_instances))
            else:
                room -= known.max_instances
    if dropped and room:
        card, maximum = dropped[0]
        address = str(card.gpu.address)
        yield Problem(ProblemKind.MAX_INSTANCES_DROPS_CARD, address, str(limit), str(maximum))
