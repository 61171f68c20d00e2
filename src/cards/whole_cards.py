# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Prepares whole cards for guests, and takes back those that nobody requests any more.

A boot undoes all of this. `early_boot` binds the recorded functions again before another driver
can take them; this module does so later, before Nova, and whenever the option changes.

Only a hook decides that a function may be bound, and records it (`approve`). At a boot, and from
within the sandbox of the boot service, it cannot be seen whether the host uses the function: its
network and its disks may not be set up yet.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Mapping

from cards import vfio_binding, virtual_functions
from gpu.pci import NO_WHOLE_DEVICES, VFIO_PCI, PciAddress, PciFunction, PciId, WholeDevices
from gpu.problems import STILL_DIVIDED, USED_BY_HOST, HostError, Problem, ProblemKind
from gpu.whole_card import WholeCard
from host import own_use, pci_functions
from host.facts import HostFacts, gather
from planning import mappings, passthrough
from planning.mappings import VgpuRequest
from planning.whole_card_plan import WholeCardPlan
from planning.whole_cards import plan_whole_cards
from state import bound_functions
from system.commands import Runner

__all__ = ["approve", "prepare_whole_cards", "revoke"]

logger = logging.getLogger(__name__)


def approve(root: Path, facts: HostFacts, plan: WholeCardPlan) -> None:
    """Record which functions may be bound, now and at each boot.

    Raises:
        HostError: DISK_WRITE_FAILED.
    """
    recorded = bound_functions.load(root)
    cards = (card for card in facts.whole_cards if card.address in plan.to_bind)
    approved = [item for card in cards for item in card.functions if not item.has_vfio]
    if any(recorded.get(function.address) != function.id for function in approved):
        bound_functions.record(root, approved)


def revoke(root: Path, plan: WholeCardPlan) -> None:
    """Forget functions that the host or vGPUs use again; otherwise the next boot would take them.

    Raises:
        HostError: DISK_WRITE_FAILED.
    """
    functions = (pci_functions.read(root, address) for address in bound_functions.load(root))
    unbound = [
        function
        for function in functions
        if function is not None and function.driver not in (None, VFIO_PCI)
    ]
    divided = {note.address for note in plan.notes if note.kind in STILL_DIVIDED}
    needed = [
        function
        for function in unbound
        if function.address in divided or _is_used_by_host(root, function)
    ]
    forgotten = [
        function.address
        for function in unbound
        if any(function == other or _is_companion(function, other) for other in needed)
    ]
    if forgotten:
        logger.info("not to be bound any more: %s", ", ".join(map(str, forgotten)))
        bound_functions.forget(root, forgotten)


def _is_companion(function: PciFunction, other: PciFunction) -> bool:
    """Whether no guest can have a function without the other, such as the audio of a card."""
    is_on_board = function.address.is_on_board_of(other.address)
    return is_on_board and function.iommu_group == other.iommu_group


def _is_used_by_host(root: Path, function: PciFunction) -> bool:
    """Whether the host uses a function, and not just a program that watches NVIDIA's cards."""
    is_nvidia = str(function.driver).startswith("nvidia")
    if function.enabled_vfs and not is_nvidia:
        return True
    use = own_use.find(root, function)
    kinds = USED_BY_HOST if is_nvidia else {*USED_BY_HOST, ProblemKind.USED_BY_PROGRAM}
    return use is not None and use.kind in kinds


def prepare_whole_cards(
    root: Path, run: Runner, passthrough_devices: str, mapping: str, *, may_release: bool = True
) -> tuple[WholeDevices, tuple[Problem, ...]]:
    """Bind vfio-pci to the approved cards, and release the others.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        passthrough_devices: the value of that option.
        mapping: the mapping of vGPUs that is applied; its cards stay divided.
        may_release: whether cards that are no longer requested go back to their drivers.

    Returns:
        The devices that are given away now, and what failed. A card that no hook has approved is
        not one of them: the published mapping may still divide it.
    """
    try:
        requests = passthrough.requests(passthrough.OPTION.read(passthrough_devices))
    except HostError as error:
        return NO_WHOLE_DEVICES, (error.problem,)
    devices = passthrough.whole_devices(requests)
    facts = gather(root, devices)
    in_force = _vgpu_requests(mapping)
    plan = plan_whole_cards(
        requests, facts.whole_cards, (), facts.functions_to_return, in_force=in_force
    )
    problems = [*plan.problems]
    recorded = bound_functions.load(root)
    for address in plan.to_return if may_release else ():
        problems += _release(root, run, address, recorded.get(address))
    for card in facts.whole_cards:
        if card.obstacle is not None:
            logger.warning("left alone: %s", card.obstacle)
        if card.address not in plan.to_bind:
            continue
        if not _is_approved(card, recorded):
            logger.info("%s waits for the next hook", card.address)
            continue
        problems += _bind(root, run, card)
    divided = {note.address for note in plan.notes if note.kind is ProblemKind.CARD_STILL_MAPPED}
    given_away = tuple(
        item.address
        for item in facts.whole_cards
        if not item.is_nic and item.address not in divided
        if item.is_bound or item.guests or _is_approved(item, recorded)
    )
    return devices._replace(cards=given_away), tuple(problems)


def _is_approved(card: WholeCard, recorded: Mapping[PciAddress, PciId]) -> bool:
    return all(
        recorded.get(item.address) == item.id for item in card.functions if not item.has_vfio
    )


def _vgpu_requests(mapping: str) -> tuple[VgpuRequest, ...]:
    try:
        return mappings.requests(mappings.OPTION.read(mapping))
    except HostError as error:
        logger.warning("%s", error)
        return ()


def _bind(root: Path, run: Runner, card: WholeCard) -> list[Problem]:
    try:
        vfio_binding.ensure_module_loaded(root, run, card.address)
        if card.card is not None and card.card.gpu.virtual_functions:
            virtual_functions.disable_virtual_functions(root, run, card.card.gpu)
        for function in card.functions:
            if not function.has_vfio:
                vfio_binding.bind(root, run, function)
    except HostError as error:
        return [error.problem]
    return []


def _release(
    root: Path, run: Runner, address: PciAddress, recorded: PciId | None
) -> list[Problem]:
    """Release a function, unless it is gone, or another device is in its slot now."""
    function = pci_functions.read(root, address)
    try:
        if function is not None and function.id == recorded:
            vfio_binding.release(root, run, function)
        bound_functions.forget(root, [address])
    except HostError as error:
        return [error.problem]
    return []
