# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many vGPUs of which type Nova is offered on each card; pure."""

from __future__ import annotations

from typing import Iterator, NamedTuple

from gpu.card import Card, Framework, VgpuType
from nova_compute.release import NovaVersion
from planning.plan import Assignment, Plan

__all__ = ["CardInventory", "card_inventories"]


class CardInventory(NamedTuple):
    """The vGPUs of one type on one card, as placement counts them.

    Attributes:
        card: the card.
        assignment: the type.
        total: how many vGPUs Nova may create; None if that is unknown.
        free: how many of them are left; None if that was not read.
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
    mdev = [item for item in plan.assignments if item.framework is Framework.MDEV]
    if not nova.supports_several_types:
        mdev = mdev[:1]
    takes_all_cards = len(mdev) == 1 and not nova.restricts_single_type
    inventories: list[CardInventory] = []
    for assignment in plan.assignments:
        if assignment.framework is Framework.VENDOR_VFIO:
            inventories += _of_functions(assignment, cards)
        elif assignment in mdev:
            inventories += _of_mdevs(assignment, cards, takes_all_cards)
    return tuple(sorted(inventories, key=lambda inventory: inventory.card.address))


def _of_functions(assignment: Assignment, cards: tuple[Card, ...]) -> Iterator[CardInventory]:
    for card in cards:
        if card.address in assignment.cards:
            offered = [function for function in assignment.addresses if function in card.parents]
            free = sum(function not in card.guest_parents for function in offered)
            yield CardInventory(card, assignment, len(offered), free)


def _of_mdevs(
    assignment: Assignment, cards: tuple[Card, ...], takes_all_cards: bool
) -> Iterator[CardInventory]:
    remaining = assignment.max_instances
    for card in cards:
        vgpu_type = card.find_type(assignment.type_id)
        is_mapped = card.address in assignment.cards
        is_taken = takes_all_cards and vgpu_type is not None and bool(card.visible_types)
        if not is_mapped and not is_taken:
            continue
        offered = card.parents if takes_all_cards else assignment.addresses
        parents = sum(parent in offered for parent in card.parents)
        total = _total(card, vgpu_type, parents)
        if remaining is not None and total is not None and card.is_own_parent:
            total = total if total <= remaining else 0  # Nova counts whole cards
            remaining -= total
        yield CardInventory(card, assignment, total, _free(card, vgpu_type, total))


def _total(card: Card, vgpu_type: VgpuType | None, parents: int) -> int | None:
    limit = vgpu_type.max_instances if vgpu_type is not None else None
    if card.is_own_parent:
        return limit
    if not parents:
        return None
    return parents if limit is None else min(parents, limit)


def _free(card: Card, vgpu_type: VgpuType | None, total: int | None) -> int | None:
    if vgpu_type is None or vgpu_type.available_instances is None:
        return None
    if total is None:
        return vgpu_type.available_instances
    used = sum(type_id == vgpu_type.id for _, type_id in card.guest_vgpus)
    return min(vgpu_type.available_instances, max(total - used, 0))
