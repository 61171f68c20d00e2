# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Prepares whole cards for guests, and takes back those that nobody requests any more.

A boot undoes all of this. `early_boot` binds the recorded functions again before another driver
can take them; this module does so later, before Nova, and whenever the option changes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Sequence

from cards import vfio_binding, virtual_functions
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem
from gpu.whole_card import WholeCard
from host import pci_functions
from host.facts import gather
from planning import mappings, passthrough
from planning.mappings import VgpuRequest
from planning.passthrough import PassthroughRequest, whole_devices
from planning.whole_cards import plan_whole_cards
from state import bound_functions
from system.commands import Runner

__all__ = ["PassthroughRequest", "parse_passthrough", "prepare_whole_cards", "whole_devices"]

logger = logging.getLogger(__name__)


def prepare_whole_cards(
    root: Path, run: Runner, requests: Sequence[PassthroughRequest], mapping: str
) -> tuple[Problem, ...]:
    """Bind vfio-pci to the requested cards, and release the others; return what failed.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        requests: the requests for whole cards.
        mapping: the mapping of vGPUs that is in force; a card in both is left alone.
    """
    facts = gather(root, whole_devices(requests))
    plan = plan_whole_cards(
        tuple(requests), facts.whole_cards, _vgpu_requests(mapping), facts.functions_to_return
    )
    problems = [*plan.problems]
    for address in plan.to_return:
        problems += _release(root, run, address)
    for card in facts.whole_cards:
        if card.address in plan.to_bind:
            problems += _bind(root, run, card)
    return tuple(problems)


def parse_passthrough(text: str) -> tuple[PassthroughRequest, ...]:
    """Parse a value of the option passthrough-devices.

    Raises:
        HostError: OPTION_SYNTAX, OPTION_INVALID or DEVICE_MAPPED_TWICE.
    """
    data = passthrough.OPTION.parse(text)
    if data is not None:  # the charm has validated it, but its file may be damaged
        passthrough.OPTION.check(data)
    return passthrough.requests(data)


def _vgpu_requests(mapping: str) -> tuple[VgpuRequest, ...]:
    try:
        data = mappings.OPTION.parse(mapping)
        if data is not None:  # as in `parse_passthrough`
            mappings.OPTION.check(data)
        return mappings.requests(data)
    except HostError as error:
        logger.warning("%s", error)
        return ()


def _bind(root: Path, run: Runner, card: WholeCard) -> list[Problem]:
    try:
        vfio_binding.ensure_module_loaded(root, run, card.address)
        bound_functions.record(root, [item for item in card.functions if not item.has_vfio])
        if card.card is not None and card.card.gpu.virtual_functions:
            virtual_functions.disable_virtual_functions(root, run, card.card.gpu)
        for function in card.functions:
            if not function.has_vfio:
                vfio_binding.bind(root, run, function)
    except HostError as error:
        return [error.problem]
    return []


def _release(root: Path, run: Runner, address: PciAddress) -> list[Problem]:
    function = pci_functions.read(root, address)
    try:
        if function is not None:
            vfio_binding.release(root, run, function)
        bound_functions.forget(root, [address])
    except HostError as error:
        return [error.problem]
    return []
