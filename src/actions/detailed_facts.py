# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""All that a host can tell, for people who ask; no hook has the time for it."""

from __future__ import annotations

import logging
from pathlib import Path

from cards import nvidia_smi
from gpu.card import Card, Framework, VgpuType
from host import facts as host
from host.facts import Facts
from system.commands import CommandError, Runner

__all__ = ["survey"]

logger = logging.getLogger(__name__)


def survey(root: Path, run: Runner) -> Facts:
    """Read a host as `gather` does, and add free instances and what only nvidia-smi tells.

    For people who ask: it reads hundreds of files and starts a program for each card.
    """
    found = host.gather(root, count=True)
    if found.driver.loaded is None:
        return found
    return found._replace(cards=tuple(_completed(run, card) for card in found.cards))


def _completed(run: Runner, card: Card) -> Card:
    """Add what sysfs hides: types that a card is not parted for, and all numbers (vendor VFIO)."""
    if not card.is_sriov:
        return card
    try:
        told = nvidia_smi.supported_types(run, card.gpu.address)
    except CommandError as error:
        logger.warning("%s", error)
        return card
    card = card._replace(told=told, is_told=True)
    if card.framework is not Framework.VENDOR_VFIO:
        return card
    types = {known.id: known for known in (*card.types, *told)}
    return card._replace(types=tuple(_counted(types[type_id], card) for type_id in types))


def _counted(known: VgpuType, card: Card) -> VgpuType:
    """Add how many guests can still have a type: functions that carry it idly, or still could."""
    idle = sum(pair not in card.held and pair[1] == known.id for pair in card.carried)
    if known.id not in card.creatable:
        return known._replace(available=idle)
    if known.maximum is None:
        return known
    room = min(known.maximum, len(card.parents)) - len(card.carried)
    return known._replace(available=idle + max(room, 0))
