# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cards as they will be after their preparation, as far as that can be predicted; pure.

The addresses of virtual functions that are not enabled yet cannot be computed.
"""

from __future__ import annotations

from typing import Callable

from gpu.card import Card, CardMode, Framework, VgpuType
from gpu.pci import VFIO_PCI, PciAddress
from gpu.whole_card import WholeCard
from host.facts import HostFacts
from planning.preparation import Partitioning, Preparation, TypeAssignment, gpu_instance_profiles
from status.assessment import Assessment

__all__ = ["cards_after", "predict"]


def predict(assessment: Assessment, assess_facts: Callable[[HostFacts], Assessment]) -> Assessment:
    """Return the assessment as it will be after the preparation of the cards.

    Args:
        assessment: the assessment of the host as it is.
        assess_facts: returns the assessment of a host in another state.
    """
    if not assessment.needs_preparation:
        return assessment
    facts = assessment.facts

    def plan_preparation(cards: tuple[Card, ...]) -> Preparation:
        return assess_facts(facts._replace(cards=cards)).plan.preparation

    facts = facts._replace(cards=cards_after(facts.cards, plan_preparation))
    # Cards of the present mapping are bound only once the other cards are prepared.
    to_bind = {*assessment.whole_cards.to_bind, *assess_facts(facts).whole_cards.to_bind}
    whole_cards = tuple(
        _bound(card) if card.address in to_bind else card for card in facts.whole_cards
    )
    return assess_facts(facts._replace(whole_cards=whole_cards))


def _bound(card: WholeCard) -> WholeCard:
    function, *companions = (member._replace(driver=VFIO_PCI) for member in card.functions)
    return card._replace(function=function, companions=tuple(companions))


def cards_after(
    cards: tuple[Card, ...], plan_preparation: Callable[[tuple[Card, ...]], Preparation]
) -> tuple[Card, ...]:
    """Return the cards as they will be after their preparation.

    Args:
        cards: the cards as they are.
        plan_preparation: returns what to prepare; it is called again for each card, since cards
            share the limit of a request.
    """
    predicted = list(cards)
    for number, card in enumerate(cards):
        preparation = plan_preparation(tuple(predicted))
        partitionings = {step.card: step for step in preparation.partitionings}
        assignments = {step.card: step for step in preparation.type_assignments}
        predicted[number] = _card_after(
            card, partitionings.get(card.address), assignments.get(card.address)
        )
    return tuple(predicted)


def _card_after(
    card: Card, partitioning: Partitioning | None, assignment: TypeAssignment | None
) -> Card:
    if not card.parents:
        return card
    if partitioning is not None and not card.in_use:
        card = _partitioned(card, partitioning)
    return card if assignment is None else _with_type(card, assignment)


def _partitioned(card: Card, partitioning: Partitioning) -> Card:
    wanted = gpu_instance_profiles(partitioning, card)
    mode = card.mode or CardMode()
    if wanted is None or (partitioning.mixed_size and mode.mixed_size is None):
        return card
    leaves_mig = not wanted and card.is_mig_partitioned
    visible = _visible_types(card, wanted)
    if wanted or leaves_mig:
        visible = [known._replace(available_instances=known.max_instances) for known in visible]
    mode = CardMode(wanted, partitioning.mixed_size, types_queried=True)
    if card.framework is not Framework.VENDOR_VFIO:
        return card._replace(mode=mode, types=tuple(visible))
    return card._replace(
        mode=mode,
        creatable=frozenset(vgpu_type.id for vgpu_type in visible),
        assigned_types=() if wanted or leaves_mig else card.assigned_types,
    )


def _visible_types(card: Card, profiles: tuple[int, ...]) -> list[VgpuType]:
    """Return the types that a card shows with GPU instances of some profiles, or with none."""
    if profiles:
        return [known for known in card.known_types if known.gpu_instance_profile in profiles]
    if card.is_mig_partitioned:
        return [known for known in card.known_types if not known.is_mig_backed]
    return list(card.visible_types)


def _with_type(card: Card, assignment: TypeAssignment) -> Card:
    """Assign the type to as many functions as possible, first to those that have it already."""
    assigned, guest_parents = dict(card.assigned_types), card.guest_parents
    vgpu_type = card.find_type(assignment.type_id)
    limits = [len(assignment.functions) if assignment.limit is None else assignment.limit]
    if vgpu_type is not None:
        known_limits = (vgpu_type.max_instances, card.gpu_instance_capacity(vgpu_type))
        limits += [limit for limit in known_limits if limit is not None]

    def rank(function: PciAddress) -> tuple[bool, bool]:
        has_type = assigned.get(function) == assignment.type_id
        return function not in guest_parents, not has_type

    chosen = sorted(sorted(assignment.functions, key=rank)[: min(limits)])
    others = [
        (function, type_id)
        for function, type_id in card.assigned_types
        if function in guest_parents and function not in chosen
    ]
    with_type = [(function, assignment.type_id) for function in chosen]
    return card._replace(assigned_types=tuple(sorted(with_type + others)))
