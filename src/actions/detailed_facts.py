# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""All that a host can tell, for people who ask; no hook has the time for it."""

from __future__ import annotations

import logging
from pathlib import Path

from cards import nvidia_smi
from gpu.card import Card, Framework, VgpuType
from host import facts as host
from host.facts import HostFacts
from system.commands import CommandError, Runner

__all__ = ["gather_detailed"]

logger = logging.getLogger(__name__)


def gather_detailed(root: Path, run: Runner) -> HostFacts:
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
    card = card._replace(known_types=told, known_types_complete=True)
    if card.framework is not Framework.VENDOR_VFIO:
        return card
    types = {known.id: known for known in (*card.types, *told)}
    return card._replace(types=tuple(_counted(types[type_id], card) for type_id in types))


def _counted(known: VgpuType, card: Card) -> VgpuType:
    """Add how many guests can still have a type: functions that carry it idly, or still could."""
    idle = sum(
        pair not in card.guest_vgpus and pair[1] == known.id for pair in card.assigned_types
    )
    if known.id not in card.creatable:
        return known._replace(available_instances=idle)
    if known.max_instances is None:
        return known
    room = min(known.max_instances, len(card.parents)) - len(card.assigned_types)
    return known._replace(available_instances=idle + max(room, 0))
