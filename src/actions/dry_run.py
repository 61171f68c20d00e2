# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cards as they will be once the work on them is done, as far as that can be told; pure.

Where a card will have virtual functions that are not there yet cannot be computed.
"""

from __future__ import annotations

from typing import Callable

from gpu.card import Card, CardMode, Framework, VgpuType
from host.gpus import PciAddress
from planning.preparation import Partitioning, Preparation, TypeAssignment, gpu_instance_profiles

__all__ = ["cards_after"]


def cards_after(
    cards: tuple[Card, ...], planned: Callable[[tuple[Card, ...]], Preparation]
) -> tuple[Card, ...]:
    """Return the cards after the work.

    Args:
        cards: the cards as they are.
        planned: says what is to be done; it is asked again for each card, since cards share what
            is asked for.
    """
    found = list(cards)
    for number, card in enumerate(cards):
        work = planned(tuple(found))
        modes = {step.card: step for step in work.partitionings}
        types = {step.card: step for step in work.type_assignments}
        found[number] = _forecast(card, modes.get(card.gpu.address), types)
    return tuple(found)


def _forecast(
    card: Card, mode: Partitioning | None, types: dict[PciAddress, TypeAssignment]
) -> Card:
    if not card.parents:
        return card
    if mode is not None and not card.in_use:
        card = _parted(card, mode)
    step = types.get(card.gpu.address)
    return card if step is None else _carrying(card, step)


def _parted(card: Card, step: Partitioning) -> Card:
    wanted = gpu_instance_profiles(step, card)
    if wanted is None or (step.mixed_size and (card.mode or CardMode()).mixed_size is None):
        return card
    if wanted:
        shown = [known for known in card.known_types if known.gpu_instance_profile in wanted]
    elif card.is_mig_partitioned:
        shown = [known for known in card.known_types if not known.is_mig_backed]
    else:
        shown = list(card.visible_types)
    if wanted or card.is_mig_partitioned:
        shown = [known._replace(available_instances=known.max_instances) for known in shown]
    parted = card._replace(mode=CardMode(wanted, step.mixed_size, types_queried=True))
    if card.framework is Framework.VENDOR_VFIO:
        carried = () if wanted or card.is_mig_partitioned else card.assigned_types
        return parted._replace(creatable=frozenset(_ids(shown)), assigned_types=carried)
    return parted._replace(types=tuple(shown))


def _ids(types: list[VgpuType]) -> list[str]:
    return [known.id for known in types]


def _carrying(card: Card, step: TypeAssignment) -> Card:
    """Set the type on as many functions as hold it, those first that have it."""
    carried = dict(card.assigned_types)
    room = len(step.functions) if step.limit is None else step.limit
    known = card.find_type(step.type_id)
    if known is not None and known.max_instances is not None:
        room = min(room, known.max_instances)
    if known is not None and known.gpu_instance_profile is not None and card.mode is not None:
        room = min(
            room,
            card.mode.gpu_instances.count(known.gpu_instance_profile)
            * known.vgpus_per_gpu_instance,
        )
    occupied = card.guest_parents

    def rank(function: PciAddress) -> tuple[bool, bool]:
        return function not in occupied, carried.get(function) != step.type_id

    chosen = sorted(sorted(step.functions, key=rank)[:room])
    others = [
        pair for pair in card.assigned_types if pair[0] in occupied and pair[0] not in chosen
    ]
    mine = [(function, step.type_id) for function in chosen]
    return card._replace(assigned_types=tuple(sorted(mine + others)))
