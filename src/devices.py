# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the devices of a plan exist: virtual functions, and vGPU types on them.

What was made is gone after each boot, so this runs at each boot, before Nova, and whenever the
plan changes. It does nothing where all is as it should be, and nothing to a card in use.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Callable

import facts as host
import sriov
from commands import CommandError, Runner
from mappings import VgpuRequest
from plan import make_plan
from problem import HostError, Problem

__all__ = ["ensure"]

_PATIENCE = 20  # seconds that the driver gets to tell the types of new virtual functions

logger = logging.getLogger(__name__)


def ensure(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Problem, ...]:
    """Make true what the requests mean on this host; return what could not be done.

    Cards are dealt with one after the other, since sriov-manage does not bear company, and one
    that fails stops no other.
    """
    found = host.gather(root)
    plan = make_plan(requests, found.cards)
    problems: list[Problem] = []
    if not plan.enable:
        return ()
    for card in found.cards:
        if card.gpu.address in plan.enable and not card.in_use:
            try:
                sriov.enable_virtual_functions(root, run, card.gpu, sleep)
            except HostError as error:
                problems.append(error.problem)
    _await_types(root, run, requests, sleep)
    return tuple(problems)


def _await_types(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    sleep: Callable[[float], None],
) -> None:
    """Wait until the driver tells what the new virtual functions offer.

    nvidia-vgpud registers the types of what is there when it runs, which was before.
    """
    for second in range(_PATIENCE):
        found = host.gather(root)
        silent = [
            card for card in found.cards if card.gpu.virtual_functions and card.framework is None
        ]
        if not silent:
            return
        if second == 1:
            logger.info("%s tells no types yet, running nvidia-vgpud again", silent[0].gpu.address)
            try:
                run("systemctl", "restart", "nvidia-vgpud", timeout=60)
            except CommandError as error:
                logger.warning("%s", error)
        sleep(1)
