# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cards as they will be once the work on them is done, as far as that can be told; pure.

Where a card will have virtual functions that are not there yet cannot be computed.
"""

from __future__ import annotations

from typing import Callable

from gpu.card import Card, Framework, Mode, VgpuType
from host.gpus import PciAddress
from planning.preparation import ModeStep, TypeStep, Work, profiles

__all__ = ["forecast"]


def forecast(
    cards: tuple[Card, ...], planned: Callable[[tuple[Card, ...]], Work]
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
        modes = {step.card: step for step in work.modes}
        types = {step.card: step for step in work.types}
        found[number] = _forecast(card, modes.get(card.gpu.address), types)
    return tuple(found)


def _forecast(card: Card, mode: ModeStep | None, types: dict[PciAddress, TypeStep]) -> Card:
    if not card.parents:
        return card
    if mode is not None and not card.in_use:
        card = _parted(card, mode)
    step = types.get(card.gpu.address)
    return card if step is None else _carrying(card, step)


def _parted(card: Card, step: ModeStep) -> Card:
    wanted = profiles(step, card)
    if wanted is None or (step.mixed_size and (card.mode or Mode()).mixed_size is None):
        return card
    if wanted:
        shown = [known for known in card.told if known.profile in wanted]
    elif card.is_parted:
        shown = [known for known in card.told if not known.is_mig_backed]
    else:
        shown = list(card.shown)
    if wanted or card.is_parted:
        shown = [known._replace(available=known.maximum) for known in shown]
    parted = card._replace(mode=Mode(wanted, step.mixed_size, is_asked=True))
    if card.framework is Framework.VENDOR_VFIO:
        carried = () if wanted or card.is_parted else card.carried
        return parted._replace(creatable=frozenset(_ids(shown)), carried=carried)
    return parted._replace(types=tuple(shown))


def _ids(types: list[VgpuType]) -> list[str]:
    return [known.id for known in types]


def _carrying(card: Card, step: TypeStep) -> Card:
    """Set the type on as many functions as hold it, those first that have it."""
    carried = dict(card.carried)
    room = len(step.functions) if step.limit is None else step.limit
    known = card.find_type(step.type_id)
    if known is not None and known.maximum is not None:
        room = min(room, known.maximum)
    if known is not None and known.profile is not None and card.mode is not None:
        room = min(room, card.mode.instances.count(known.profile) * known.per_instance)
    occupied = card.occupied

    def rank(function: PciAddress) -> tuple[bool, bool]:
        return function not in occupied, carried.get(function) != step.type_id

    chosen = sorted(sorted(step.functions, key=rank)[:room])
    others = [pair for pair in card.carried if pair[0] in occupied and pair[0] not in chosen]
    mine = [(function, step.type_id) for function in chosen]
    return card._replace(carried=tuple(sorted(mine + others)))
