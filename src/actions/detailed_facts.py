# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a host can report, for actions; no hook has the time for it."""

from __future__ import annotations

import logging
from pathlib import Path

from cards import nvidia_smi
from gpu.card import Card, Framework, VgpuType
from gpu.pci import NO_WHOLE_DEVICES, WholeDevices
from host.facts import HostFacts, gather
from system.commands import CommandError, Runner

__all__ = ["gather_detailed"]

logger = logging.getLogger(__name__)


def gather_detailed(
    root: Path, run: Runner, passthrough: WholeDevices = NO_WHOLE_DEVICES
) -> HostFacts:
    """Read a host as `gather` does, and add available instances and nvidia-smi's types.

    It reads hundreds of files and starts a program for each card.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        passthrough: the devices that guests are to get as a whole.
    """
    facts = gather(root, passthrough, count=True)
    if facts.driver.loaded is None:
        return facts
    return facts._replace(cards=tuple(_with_details(run, card) for card in facts.cards))


def _with_details(run: Runner, card: Card) -> Card:
    """Add what sysfs does not show: types of other partitionings, and counts (vendor VFIO)."""
    if not card.is_sriov:
        return card
    try:
        reported = nvidia_smi.supported_types(run, card.address)
    except CommandError as error:
        logger.warning("%s", error)
        return card
    card = card._replace(known_types=reported, known_types_complete=True)
    if card.framework is not Framework.VENDOR_VFIO:
        return card
    types = {vgpu_type.id: vgpu_type for vgpu_type in (*card.types, *reported)}
    return card._replace(types=tuple(_with_count(types[type_id], card) for type_id in types))


def _with_count(vgpu_type: VgpuType, card: Card) -> VgpuType:
    """Add how many more guests can have a type: free functions that have it, or can get it."""
    idle = sum(
        pair not in card.guest_vgpus and pair[1] == vgpu_type.id for pair in card.assigned_types
    )
    if vgpu_type.id not in card.creatable:
        return vgpu_type._replace(available_instances=idle)
    if vgpu_type.max_instances is None:
        return vgpu_type
    room = min(vgpu_type.max_instances, len(card.parents)) - len(card.assigned_types)
    return vgpu_type._replace(available_instances=idle + max(room, 0))
