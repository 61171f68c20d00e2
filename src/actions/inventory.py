# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many vGPUs of which type Nova is offered, card by card; pure."""

from __future__ import annotations

from typing import Iterator, NamedTuple

from gpu.card import Card, Framework, VgpuType
from nova_compute.release import NovaVersion
from planning.plan import Assignment, Plan

__all__ = ["CardInventory", "card_inventories"]


class CardInventory(NamedTuple):
    """A type on a card.

    Attributes:
        card: the card.
        assignment: the type.
        total: how many vGPUs Nova may make of it; None if nobody can tell.
        free: how many of them are left; None if that was not asked for.
    """

    card: Card
    assignment: Assignment
    total: int | None
    free: int | None


def card_inventories(
    plan: Plan, cards: tuple[Card, ...], nova: NovaVersion
) -> tuple[CardInventory, ...]:
    """Return what a plan offers; nothing if what was published before stays."""
    if plan.keeps_published:
        return ()
    mdev = [found for found in plan.assignments if found.framework is Framework.MDEV]
    if not nova.supports_several_types:
        mdev = mdev[:1]
    takes_all = len(mdev) == 1 and not nova.restricts_single_type
    found: list[CardInventory] = []
    for assignment in plan.assignments:
        if assignment.framework is Framework.VENDOR_VFIO:
            found += _on_functions(assignment, cards)
        elif assignment in mdev:
            found += _of_mdevs(assignment, cards, takes_all=takes_all)
    return tuple(sorted(found, key=lambda offer: offer.card.gpu.address))


def _on_functions(assignment: Assignment, cards: tuple[Card, ...]) -> Iterator[CardInventory]:
    for card in cards:
        if card.gpu.address in assignment.cards:
            mine = [function for function in assignment.addresses if function in card.parents]
            free = sum(function not in card.guest_parents for function in mine)
            yield CardInventory(card, assignment, len(mine), free)


def _of_mdevs(
    assignment: Assignment, cards: tuple[Card, ...], *, takes_all: bool
) -> Iterator[CardInventory]:
    room = assignment.max_instances
    for card in cards:
        known = card.find_type(assignment.type_id)
        is_named = card.gpu.address in assignment.cards
        if not is_named and not (takes_all and known is not None and card.visible_types):
            continue
        parents = card.parents if takes_all else assignment.addresses
        number = _number(card, known, [each for each in card.parents if each in parents])
        if room is not None and number is not None and card.parents == (card.gpu.address,):
            number = number if number <= room else 0  # Nova counts cards whole
            room -= number
        yield CardInventory(card, assignment, number, _free(card, known, number))


def _number(card: Card, known: VgpuType | None, parents: list[object]) -> int | None:
    maximum = known.max_instances if known is not None else None
    if card.parents == (card.gpu.address,):
        return maximum
    if not parents:
        return None
    return len(parents) if maximum is None else min(len(parents), maximum)


def _free(card: Card, known: VgpuType | None, number: int | None) -> int | None:
    if known is None or known.available_instances is None:
        return None
    used = sum(type_id == known.id for _, type_id in card.guest_vgpus)
    return (
        known.available_instances
        if number is None
        else min(known.available_instances, max(number - used, 0))
    )
