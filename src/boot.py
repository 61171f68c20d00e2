# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The program of the boot service: prepares the cards at each boot, before Nova.

It runs without any hook and needs nothing but the host and the charm's folder. It applies the
requested mapping (the last valid value of the option), so that a type given by name is resolved
when the driver reports its types.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

from cards.guest_mdevs import record_guest_mdevs
from cards.prepare import prepare_cards, restore_guests
from cards.whole_cards import prepare_whole_cards
from gpu.problems import NEEDS_REBOOT, RETRIABLE, HostError, Problem
from host.facts import HostReader, gather
from state import boot_result, charm_state
from state.charm_state import CharmState
from system import commands
from system.commands import Runner

_BUDGET = 400.0  # seconds, after which the preparation of no further card starts
_NEW_BUDGET = 200.0  # the same for a new mapping, which may have to be undone

logger = logging.getLogger(__name__)


def main(root: Path, run: Runner) -> int:
    """Prepare the cards; return the exit code."""
    is_boot = not boot_result.has_run(root)
    boot_result.clear(root)
    state = charm_state.load(root)
    # Also while paused: that concerns NVIDIA's daemon, and the guests of these cards need them
    # after a boot.
    devices, problems = prepare_whole_cards(
        root,
        run,
        state.requested_passthrough,
        state.mapping.requested,
        may_release=not state.paused,
    )
    if state.paused:
        logger.info("nothing else to do: paused")
        return 0
    host = HostReader(root, devices)
    try:
        problems += _prepare(host, run, state, is_boot=is_boot)
    except HostError as error:
        problems = (*problems, error.problem)
    try:
        boot_result.save(root, problems)
    except HostError as error:
        problems = (*problems, error.problem)
    for problem in problems:
        logger.error("%s", problem)
    obstacles = [card.obstacle for card in host.facts.cards if card.obstacle is not None]
    for obstacle in obstacles:
        logger.warning("left alone: %s", obstacle)
    if not (problems or obstacles):
        logger.info("all cards are prepared")
    return 1 if problems else 0


def _prepare(
    host: HostReader, run: Runner, state: CharmState, *, is_boot: bool
) -> tuple[Problem, ...]:
    """Apply the requested mapping, or the published one if that fails; then restore guests."""
    mapping, start = state.mapping, time.monotonic()
    apply = partial(
        prepare_cards,
        host,
        run,
        report_in_placement=mapping.requested_report_in_placement or state.reported_in_placement,
        is_boot=is_boot,
    )
    # At a boot, what was offered must return; with nothing offered, nothing can be lost.
    is_replaced = state.has_published and bool(mapping.published)
    is_new = mapping.is_new and (is_replaced or not is_boot)
    problems = _attempt(
        apply,
        mapping.requested,
        is_new_mapping=is_new,
        replaces_published=is_new and state.has_published,
        budget=_NEW_BUDGET if is_new else _BUDGET,
    )
    # Later, another run may resolve what a boot must not wait for.
    resolved_later = NEEDS_REBOOT if is_boot else RETRIABLE | NEEDS_REBOOT
    is_failed = any(problem.kind not in resolved_later for problem in problems)
    if is_failed and mapping.is_new and is_replaced:
        logger.info("the new mapping cannot be applied; returning to the published one")
        remaining = max(_BUDGET - (time.monotonic() - start), 0.0)
        problems += _attempt(apply, mapping.published, budget=remaining)
    problems += restore_guests(host)
    return tuple(dict.fromkeys(problems))


def _attempt(
    apply: Callable[..., tuple[Problem, ...]], mapping: str, **options: Any
) -> tuple[Problem, ...]:
    """Apply a mapping; one that is not valid, as in a damaged file, is a problem of its own."""
    try:
        return apply(mapping, **options)
    except HostError as error:
        return (error.problem,)


def record(root: Path) -> int:
    """Record the guests' devices before the host goes down; return the exit code."""
    try:
        record_guest_mdevs(root, gather(root).cards)
    except HostError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if sys.argv[1:] == ["record"]:
        sys.exit(record(Path("/")))
    sys.exit(main(Path("/"), commands.run))
