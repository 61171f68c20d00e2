# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova makes of a plan, and what it does not support; pure.

`release` lists what a release supports; this module applies it to the cards of a host.
"""

from __future__ import annotations

from typing import Iterator

from gpu.card import Card, Framework
from gpu.pci import PciAddress, PciId
from gpu.problems import NOTES, Problem, ProblemKind
from nova_compute.nova_conf import DEFAULT_OPTIONS, PciOptions
from nova_compute.release import (
    MAX_INSTANCES_SINCE,
    MDEV_CLASS_SINCE,
    SINGLE_TYPE_SINCE,
    NovaVersion,
)
from planning.mappings import VgpuRequest
from planning.plan import Assignment, Plan, make_plan
from planning.preparation import TypeAssignment

__all__ = ["apply_release", "plan_for_nova"]


def plan_for_nova(
    requests: tuple[VgpuRequest, ...],
    cards: tuple[Card, ...],
    nova: NovaVersion | None,
    options: PciOptions = DEFAULT_OPTIONS,
    *,
    has_other_cards: bool = False,
) -> Plan:
    """Return the vGPUs that a host offers to its Nova.

    Until Nova is installed, cards are prepared, but no types are assigned to virtual functions.

    Args:
        requests: the requests for vGPUs.
        cards: the cards for vGPUs.
        nova: the installed Nova.
        options: the operator's options.
        has_other_cards: whether the host has cards that are given away whole.
    """
    plan = make_plan(requests, cards, has_other_cards=has_other_cards)
    if nova is None:
        return plan._replace(preparation=plan.preparation._replace(type_assignments=()))
    return apply_release(plan, cards, nova, options)


def apply_release(
    plan: Plan,
    cards: tuple[Card, ...],
    nova: NovaVersion,
    options: PciOptions = DEFAULT_OPTIONS,
) -> Plan:
    """Adapt a plan to the installed Nova, and add problems for what it does not support.

    On a host whose cards no request selects there is nothing to adapt.
    """
    type_assignments = plan.preparation.type_assignments
    if not cards or not (plan.assignments or type_assignments):
        return plan
    conflicts = tuple(_variant_driver_conflicts(type_assignments, cards, nova, options))
    assignments = _local_types_first(plan.assignments, nova)
    problems = tuple(dict.fromkeys([*conflicts, *_unsupported(assignments, cards, nova)]))
    if conflicts:  # no function gets a type that cannot be published
        plan = _without_variant_driver(plan, cards)
        assignments = tuple(_of_framework(assignments, Framework.MDEV))
    note_kinds = NOTES
    if not nova.supports_variant_driver and _uses_other_cards(plan, assignments):
        note_kinds = NOTES | {ProblemKind.VARIANT_DRIVER_UNSUPPORTED}
    notes = tuple(problem for problem in problems if problem.kind in note_kinds)
    blocking = tuple(problem for problem in problems if problem not in notes)
    return plan._replace(
        assignments=assignments,
        problems=(*blocking, *plan.problems),
        notes=(*notes, *plan.notes),
        keeps_published=plan.keeps_published or bool(blocking),
    )


def _of_framework(
    assignments: tuple[Assignment, ...], framework: Framework
) -> Iterator[Assignment]:
    return (assignment for assignment in assignments if assignment.framework is framework)


def _uses_other_cards(plan: Plan, assignments: tuple[Assignment, ...]) -> bool:
    """Whether a plan without the kernel variant driver still offers or prepares a card."""
    preparation = plan.preparation
    is_offered = any(assignment.cards for assignment in assignments)
    return is_offered or bool(preparation.enable or preparation.partitionings)


def _without_variant_driver(plan: Plan, cards: tuple[Card, ...]) -> Plan:
    """Leave cards under the kernel variant driver as they are, and keep only the reason."""
    preparation = plan.preparation
    excluded = {card.address for card in cards if card.framework is Framework.VENDOR_VFIO}

    def is_relevant(problem: Problem) -> bool:
        return problem.kind is not ProblemKind.TYPE_NOT_SET

    problems = tuple(filter(is_relevant, plan.problems))
    return plan._replace(
        preparation=preparation._replace(
            partitionings=tuple(
                step for step in preparation.partitionings if step.card not in excluded
            ),
            type_assignments=(),
            pending=tuple(card for card in preparation.pending if card not in excluded),
        ),
        problems=problems,
        notes=tuple(filter(is_relevant, plan.notes)),
        keeps_published=plan.keeps_published and bool(problems),
    )


def _local_types_first(
    assignments: tuple[Assignment, ...], nova: NovaVersion
) -> tuple[Assignment, ...]:
    """Put the types of this host's cards first where Nova uses only the first type."""
    if nova.supports_several_types:
        return assignments
    return tuple(sorted(assignments, key=lambda assignment: not assignment.cards))


def _unsupported(
    assignments: tuple[Assignment, ...], cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    """Find what the installed Nova does not support for mediated devices."""
    if not nova.supports_vgpus:
        yield Problem(ProblemKind.NOVA_TOO_OLD, nova=str(nova))
        return
    assignments = tuple(_of_framework(assignments, Framework.MDEV))
    if not assignments:
        return
    first, is_single = assignments[0], len(assignments) == 1
    for assignment in assignments:
        yield from _unsupported_options(assignment, cards, nova, is_single)
    if not is_single and not nova.supports_several_types:
        yield Problem(ProblemKind.FIRST_TYPE_ONLY, nova=str(nova), vgpu_type=first.type_id)
    takes_all_cards = is_single and not nova.restricts_single_type
    if takes_all_cards and any(_takes_unmapped_parents(card, first) for card in cards):
        yield Problem(ProblemKind.TAKES_ALL_CARDS, nova=str(nova), vgpu_type=first.type_id)


def _takes_unmapped_parents(card: Card, assignment: Assignment) -> bool:
    """Whether Nova offers a type on parents of a card on which it was not mapped.

    Nova drops what exceeds the room of the card once the card is full.
    """
    vgpu_type = card.find_type(assignment.type_id)
    if vgpu_type is None:
        return False
    mapped = len(set(card.parents).intersection(assignment.addresses))
    is_full = mapped > 0 and mapped == vgpu_type.max_instances
    return mapped < len(card.parents) and not is_full


def _variant_driver_conflicts(
    steps: tuple[TypeAssignment, ...],
    cards: tuple[Card, ...],
    nova: NovaVersion,
    options: PciOptions,
) -> Iterator[Problem]:
    """Find what Nova does not support for functions under the kernel variant driver.

    All functions of a card need the same resource class, or nova-compute refuses to start
    (PlacementPciMixedResourceClassException). Without placement, an alias matches the IDs of
    functions, which all types of a model share.
    """
    in_placement = options.report_in_placement
    function_ids = {card.address: card.function_id for card in cards}
    first_on_card: dict[PciAddress, TypeAssignment] = {}
    first_of_model: dict[PciId | None, TypeAssignment] = {}
    for step in steps:
        if not nova.supports_variant_driver:
            yield Problem(ProblemKind.VARIANT_DRIVER_UNSUPPORTED, step.card, nova=str(nova))
        if function_ids[step.card] is None:
            # An alias without IDs would match any function, or keep nova-compute from starting.
            yield Problem(ProblemKind.CARD_UNREADABLE, step.card)
        if step.resource_class is not None and not in_placement:
            yield Problem(ProblemKind.NEEDS_PLACEMENT, name=step.requested_type)
        first = first_on_card.setdefault(step.card, step)
        if first is not step:
            yield Problem(
                ProblemKind.TWO_TYPES_ON_CARD,
                step.card,
                first=first.requested_type,
                second=step.requested_type,
            )
            continue
        first = first_of_model.setdefault(function_ids[step.card], step)
        if first.type_id != step.type_id and not in_placement:
            yield Problem(
                ProblemKind.ALIAS_AMBIGUOUS,
                first=first.requested_type,
                second=step.requested_type,
            )


def _unsupported_options(
    assignment: Assignment, cards: tuple[Card, ...], nova: NovaVersion, is_single: bool
) -> Iterator[Problem]:
    """Find the options of one type that the installed Nova does not support."""
    installed = str(nova)
    if assignment.numa_policy is not None:
        vgpu_type = assignment.name or assignment.type_id
        yield Problem(ProblemKind.NUMA_UNSUPPORTED, vgpu_type=vgpu_type)
    if assignment.resource_class is not None:
        option = "resource-class"
        if not nova.supports_mdev_class:
            yield _unsupported_option(option, MDEV_CLASS_SINCE, installed)
        elif is_single and not nova.restricts_single_type:
            kind = ProblemKind.OPTION_IGNORED
            required = str(SINGLE_TYPE_SINCE)
            yield Problem(kind, option=option, required=required, nova=installed)
    if assignment.max_instances is None:
        return
    if nova.supports_max_instances:
        yield from _dropped_cards(assignment, assignment.max_instances, cards)
        return
    on_functions = not any(
        card.is_own_parent for card in cards if card.address in assignment.cards
    )
    if not on_functions or is_single or not nova.supports_several_types:
        # Otherwise that many virtual functions are published, each of which Nova counts as one.
        yield _unsupported_option("max-instances", MAX_INSTANCES_SINCE, installed)


def _unsupported_option(option: str, since: int, installed: str) -> Problem:
    kind = ProblemKind.OPTION_UNSUPPORTED
    return Problem(kind, option=option, required=str(since), nova=installed)


def _dropped_cards(
    assignment: Assignment, limit: int, cards: tuple[Card, ...]
) -> Iterator[Problem]:
    """Find a limit that drops a card: Nova counts cards one after the other, each as a whole.

    Virtual functions count one by one, so any limit works for them.
    """
    remaining = limit
    dropped: list[tuple[Card, int]] = []
    for card in cards:
        vgpu_type = card.find_type(assignment.type_id)
        is_counted = card.address in assignment.cards and card.is_own_parent
        if is_counted and vgpu_type and vgpu_type.max_instances is not None:
            if vgpu_type.max_instances > remaining:
                dropped.append((card, vgpu_type.max_instances))
            else:
                remaining -= vgpu_type.max_instances
    if dropped and remaining:
        card, room = dropped[0]
        yield Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD, card.address, limit=str(limit), room=str(room)
        )
