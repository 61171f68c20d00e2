# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the devices of a plan exist: virtual functions, how cards are parted, vGPU types.

What was made is gone after each boot, so this runs at each boot, before Nova, and whenever the
plan changes. It does nothing where all is as it should be, and nothing to a card in use.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from pathlib import Path
from typing import AbstractSet, Callable

from cards import guest_mdevs, partitioning, type_assignment, virtual_functions
from cards.type_assignment import Planner
from gpu.card import Card
from gpu.problems import HostError, Problem, ProblemKind
from host import facts as host
from host.facts import HostFacts
from host.gpus import PciAddress
from nova_compute.compatibility import apply_release
from planning.mappings import VgpuRequest
from planning.plan import DEFAULTS, Plan, VariantDriverOptions, make_plan
from planning.preparation import (
    Partitioning,
    Preparation,
    gpu_instance_profiles,
    only_adds_instances,
)
from state import driver_cache
from system import sysfs
from system.commands import CommandError, Runner

__all__ = ["prepare_cards"]

# What the driver still owes when all was done.
_LATE = frozenset(
    {ProblemKind.TYPES_UNKNOWN, ProblemKind.INSTANCES_MISSING, ProblemKind.WAITING_TO_LEAVE_MIG}
)
# What the work on the cards is to end, or what is nobody's fault.
_PASSING = _LATE | {
    ProblemKind.VFS_DISABLED,
    ProblemKind.TYPE_NOT_SET,
    ProblemKind.MIXED_SIZE_PENDING,
    ProblemKind.MIXED_SIZE_GUESTS,
    ProblemKind.GUESTS_USE_OTHER_TYPE,
}
_MAX_PASSES = 4  # new functions tell types, and types the sizes that a card is to mix
_TYPES_TIMEOUT = 20  # seconds that the driver gets to tell the types of a card

logger = logging.getLogger(__name__)


def prepare_cards(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    options: VariantDriverOptions = DEFAULTS,
    sleep: Callable[[float], None] | None = None,
    write: Callable[[Path, str], None] | None = None,
    *,
    is_new_mapping: bool = False,
    budget: float = math.inf,
) -> tuple[Problem, ...]:
    """Make true what the requests mean on this host; return what could not be done.

    Cards are dealt with one after the other, since sriov-manage does not bear company, and one
    that fails stops no other.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        requests: what is asked for.
        options: how Nova is to be told of it.
        sleep: waits so many seconds.
        write: writes an attribute, as `sysfs.write` does.
        is_new_mapping: whether another mapping was applied before. Then cards that offer vGPUs
            are left alone until the others have shown that the mapping can be applied.
        budget: seconds, after which no further card is begun with.
    """
    sleep, write = sleep or time.sleep, write or sysfs.write
    planned = functools.partial(_plan, requests, options)
    problems: list[Problem] = []
    done: set[tuple[PciAddress, Partitioning | None]] = set()
    silent: set[str] = set()
    deadline = time.monotonic() + budget
    for _ in range(_MAX_PASSES):
        plan = planned(host.gather(root))
        steps = {
            address: step
            for address, step in _pending_steps(plan.preparation).items()
            if (address, step) not in done
        }
        fresh = {
            address: step for address, step in steps.items() if address in plan.preparation.enable
        }
        if is_new_mapping and fresh:
            steps = fresh
        elif is_new_mapping and any(problem.kind not in _PASSING for problem in plan.problems):
            break
        else:
            problems += type_assignment.assign_types(
                root, planned, write, steps
            )  # others may take minutes
        done.update(steps.items())
        for address in sorted(steps):
            if time.monotonic() > deadline:
                problems.append(
                    Problem(ProblemKind.VFS_FAILED, str(address), "no time left in this run")
                )
            else:
                problems += _prepare_card(root, run, address, planned, sleep, write)
        failed = {problem.subject for problem in problems}
        has_news, silent = _wait_for_types(root, run, planned, failed | silent, sleep)
        if not steps and not has_news:
            break
    found = host.gather(root)
    problems += guest_mdevs.restore_guest_mdevs(root, found.mdevs_to_restore, write)
    problems += [
        Problem(ProblemKind.TYPE_REFUSED, str(function), type_id, "its guest cannot start")
        for function, type_id in found.types_to_restore
    ]
    told = {problem.subject for problem in problems}
    problems += [
        problem
        for problem in planned(found).problems
        if problem.kind in _LATE or (is_new_mapping and problem.kind not in _PASSING)
        if problem.subject not in told
    ]
    return tuple(dict.fromkeys(problems))


def _plan(
    requests: tuple[VgpuRequest, ...], options: VariantDriverOptions, found: HostFacts
) -> Plan:
    """Return the plan, without types where there is no Nova yet to be told of them."""
    plan = make_plan(requests, found.cards)
    if found.nova is None:
        return plan._replace(preparation=plan.preparation._replace(type_assignments=()))
    return apply_release(plan, found.cards, found.nova, options)


def _pending_steps(work: Preparation) -> dict[PciAddress, Partitioning | None]:
    """Return the cards that are not ready to carry types, each with how it is to be parted."""
    steps: dict[PciAddress, Partitioning | None] = dict.fromkeys(work.enable)
    steps.update((step.card, step) for step in work.partitionings)
    return steps


def _prepare_card(
    root: Path,
    run: Runner,
    address: PciAddress,
    planned: Planner,
    sleep: Callable[[float], None],
    write: Callable[[Path, str], None],
) -> list[Problem]:
    """Give a card its mode and its virtual functions.

    All is looked at again first: the cards before it may have met what is asked for, or taken
    minutes, in which a guest may have started.
    """
    found = host.gather(root)
    card = next((card for card in found.cards if card.gpu.address == address), None)
    work = planned(found).preparation
    steps = _pending_steps(work)
    if card is None or address not in steps:
        return []
    step, keeps_mode = steps[address], address in work.keep_mode
    problems: list[Problem] = []
    try:
        if step is not None:
            partitioning.query_types(root, run, card, step)
    except HostError as error:
        problems, step, keeps_mode = [error.problem], None, True
    if card.in_use:
        return problems + (_add_instances(root, run, card, step) if step is not None else [])
    if step is not None and gpu_instance_profiles(step, card) != (
        card.mode.gpu_instances if card.mode else ()
    ):
        type_assignment.unassign_all(root, card, write)  # no guest has one, and they hold the mode
    try:
        _set_mode_and_enable_functions(root, run, card, step, sleep, keeps_mode=keeps_mode)
        problems += partitioning.partition(root, run, card, step) if step is not None else []
    except HostError as error:
        is_without = error.problem.kind is ProblemKind.VFS_FAILED
        if not (is_without and partitioning.note_if_functions_unused(root, run, address)):
            problems.append(error.problem)
    return problems


def _add_instances(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Make the GPU instances that a card in use lacks, if that is all it lacks."""
    if not only_adds_instances(step, card):
        return []
    try:
        return partitioning.partition(root, run, card, step._replace(keeps_other_instances=True))
    except HostError as error:
        return [error.problem]


def _set_mode_and_enable_functions(
    root: Path,
    run: Runner,
    card: Card,
    step: Partitioning | None,
    sleep: Callable[[float], None],
    *,
    keeps_mode: bool,
) -> None:
    """Switch MIG mode, then enable the functions; a mode that cannot be had costs none of them.

    Raises:
        HostError: VFS_FAILED, MIG_FAILED or MIG_PENDING; DISK.
    """
    address = card.gpu.address

    def is_free() -> bool:
        now = host.gather(root).cards
        return all(known.gpu.address != address or not known.in_use for known in now)

    try:
        if not keeps_mode:
            partitioning.ensure_mig_mode(root, run, card, step, is_free, sleep)
    finally:
        if virtual_functions.enable_virtual_functions(root, run, card.gpu, sleep):
            driver_cache.save_mode(root, address, None)


def _wait_for_types(
    root: Path,
    run: Runner,
    planned: Planner,
    given_up: AbstractSet[str],
    sleep: Callable[[float], None],
) -> tuple[bool, set[str]]:
    """Wait until the driver tells the types of cards, of new functions and of GPU instances.

    nvidia-vgpud registers the types of what is there when it runs, which was before.

    Returns:
        Whether a card tells more than before, and the cards that are given up.
    """
    first = silent = _cards_without_types(root, planned) - given_up
    for second in range(_TYPES_TIMEOUT):
        if not silent:
            break
        if second == 1:
            logger.info("%s tells no types yet, running nvidia-vgpud again", min(silent))
            try:
                run("systemctl", "restart", "nvidia-vgpud", timeout=60)
            except CommandError as error:
                logger.warning("%s", error)
        sleep(1)
        silent = _cards_without_types(root, planned) - given_up
    return silent != first, {*given_up, *silent}


def _cards_without_types(root: Path, planned: Planner) -> set[str]:
    """Return the cards from which something is still to be heard."""
    found = host.gather(root)
    if found.driver.loaded is None:
        return set()
    late = {problem.subject for problem in planned(found).problems if problem.kind in _LATE}
    late |= {
        str(card.gpu.address) for card in found.cards if card.lost_types and not card.visible_types
    }
    return late & {str(card.gpu.address) for card in found.cards if not card.in_use}
