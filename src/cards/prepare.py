# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Prepares the cards for a mapping: virtual functions, partitioning, types on functions.

A boot undoes all of this, so it runs at each boot, before Nova, and whenever the mapping changes.
It does nothing where everything is in place, and changes no card that is in use.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from pathlib import Path
from typing import AbstractSet, Callable, Dict, NamedTuple, Optional

from cards import guest_mdevs, partitioning, type_assignment, virtual_functions
from cards.type_assignment import PlanMaker
from gpu.card import Card
from gpu.pci import PciAddress
from gpu.problems import (
    DRIVER_PENDING,
    GUEST_PENDING,
    OBSTACLES,
    PREPARATION_PENDING,
    HostError,
    Problem,
    ProblemKind,
)
from host.driver_state import VGPUD
from host.facts import HostFacts, HostReader
from nova_compute.compatibility import plan_for_nova
from nova_compute.nova_conf import PciOptions
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import Plan
from planning.preparation import (
    Partitioning,
    Preparation,
    gpu_instance_profiles,
    only_adds_instances,
)
from state import driver_cache
from system import systemd
from system.commands import CommandError, Runner

__all__ = ["prepare_cards", "restore_guests"]

# Preparation or guests should resolve these; they do not show whether the mapping is right.
_PENDING = PREPARATION_PENDING | GUEST_PENDING
# New functions report types, and types report the sizes that a card is to mix.
_MAX_PASSES = 4
_TYPES_TIMEOUT = 20  # seconds for the driver to report the types of a card
# Seconds before further attempts of sriov-manage at boot, while programs that use the card start.
_BOOT_DELAYS = (1, 2, 4, 8, 16)

logger = logging.getLogger(__name__)

# Cards that are not ready for types yet, each with its partitioning if that changes.
_Steps = Dict[PciAddress, Optional[Partitioning]]
_CardFinder = Callable[[HostFacts, PlanMaker], AbstractSet[PciAddress]]


class _Run(NamedTuple):
    """One run of the preparation.

    Attributes:
        host: the host, which is read again where it changes.
        run: starts programs on the host.
        make_plan: returns the plan for a host.
        deadline: the time, as of `time.monotonic`, after which no further card is begun.
        delays: seconds before further attempts of sriov-manage.
    """

    host: HostReader
    run: Runner
    make_plan: PlanMaker
    deadline: float
    delays: tuple[float, ...]


def prepare_cards(
    host: HostReader,
    run: Runner,
    mapping: str,
    *,
    report_in_placement: bool = False,
    is_new_mapping: bool = False,
    replaces_published: bool = False,
    is_boot: bool = False,
    budget: float = math.inf,
) -> tuple[Problem, ...]:
    """Apply a mapping to the cards of this host; return what could not be done.

    Cards are prepared one after the other, since sriov-manage does not support concurrent runs,
    and a card that fails does not stop the others.

    Args:
        host: the host; afterwards it has been read again.
        run: starts programs on the host.
        mapping: the value of the option vgpu-device-mappings.
        report_in_placement: whether functions are reported to placement.
        is_new_mapping: whether another mapping was applied before. Then cards that offer vGPUs
            are left alone until the others have shown that the mapping can be applied.
        replaces_published: whether Nova is offered something else now. Then a card whose guests
            have vGPUs, and that cannot be prepared, keeps all cards from being changed.
        is_boot: whether a card that fails is tried again at once, for half a minute: Nova has
            not started yet. Otherwise a hook waits, and the charm tries again later.
        budget: seconds, after which the preparation of no further card starts.

    Raises:
        HostError: the mapping is not valid.
    """
    options = PciOptions(report_in_placement=report_in_placement)
    requests = mappings.requests(mappings.OPTION.read(mapping))
    make_plan = functools.partial(_make_plan, requests, options)
    delays = _BOOT_DELAYS if is_boot else ()
    this = _Run(host, run, make_plan, time.monotonic() + budget, delays)
    problems = _run_passes(this, is_new_mapping, replaces_published)
    host.read()  # guests may have started meanwhile
    if not any(problem.kind is ProblemKind.MAPPING_WITHHELD for problem in problems):
        problems += _remaining_problems(make_plan(host.facts), problems, is_new_mapping)
    return tuple(dict.fromkeys(problems))


def restore_guests(host: HostReader) -> tuple[Problem, ...]:
    """Recreate what defined guests lost at boot, once the cards are prepared.

    Args:
        host: the host as `prepare_cards` has left it.

    Returns:
        What could not be restored.
    """
    problems = _types_not_restored(host.facts)
    problems += guest_mdevs.restore_guest_mdevs(host.root, host.facts.mdevs_to_restore)
    return tuple(problems)


def _make_plan(requests: tuple[VgpuRequest, ...], options: PciOptions, facts: HostFacts) -> Plan:
    return plan_for_nova(requests, facts.cards, facts.nova, options)


def _run_passes(this: _Run, is_new_mapping: bool, replaces_published: bool) -> list[Problem]:
    """Prepare the cards until nothing changes any more."""
    problems: list[Problem] = []
    done: set[tuple[PciAddress, Partitioning | None]] = set()
    given_up: set[PciAddress] = set()
    if is_new_mapping:
        _wait_before_changes(this, given_up)
    for _ in range(_MAX_PASSES):
        plan = this.make_plan(this.host.facts)
        steps = {
            address: step
            for address, step in _pending_steps(plan.preparation).items()
            if (address, step) not in done
        }
        without_functions = {
            address: step
            for address, step in steps.items()
            if address in plan.preparation.enable and address not in given_up
        }
        in_the_way = _cards_in_the_way(plan, this.host.facts, given_up)
        if replaces_published and in_the_way:
            return [*problems, Problem(ProblemKind.MAPPING_WITHHELD, in_the_way[0])]
        if is_new_mapping and without_functions:
            steps = without_functions
            if replaces_published:  # functions may show vGPUs of guests, which prevent the rest
                steps = dict.fromkeys(steps)
        elif is_new_mapping and any(problem.kind not in _PENDING for problem in plan.problems):
            break
        else:  # types first: the preparation of the other cards may take minutes
            problems += type_assignment.assign_types(this.host, this.make_plan, steps)
        done.update(steps.items())
        functions_only = replaces_published and bool(without_functions)
        problems += _prepare_each(this, steps, functions_only)
        given_up.update(problem.address for problem in problems if problem.address is not None)
        has_news = _wait_for_types(this, given_up)
        if not steps and not has_news:
            break
    return problems


def _wait_before_changes(this: _Run, given_up: set[PciAddress]) -> None:
    """Wait for types before a card that offers vGPUs is changed for a new mapping."""
    if _pending_steps(this.make_plan(this.host.facts).preparation):
        _wait_for_types(this, given_up, _silent_cards_of_guests)
    else:
        _wait_for_types(this, given_up)


def _prepare_each(this: _Run, steps: _Steps, functions_only: bool) -> list[Problem]:
    """Prepare cards, one after the other, until no time is left; or only enable functions."""
    problems = []
    for address in sorted(steps):
        if time.monotonic() > this.deadline:
            reason = "no time left in this run"
            problems.append(Problem(ProblemKind.VFS_FAILED, address, reason=reason))
        else:
            problems += _prepare_card(this, address, functions_only)
    return problems


def _cards_in_the_way(plan: Plan, facts: HostFacts, given_up: set[PciAddress]) -> list[PciAddress]:
    """Return the mapped cards whose guests have vGPUs, and that cannot be prepared.

    What is published stays for their guests, so no other card may be changed either.
    """
    waiting = {problem.address for problem in plan.problems} & given_up
    waiting |= {
        problem.address
        for problem in plan.problems
        if problem.kind is ProblemKind.GUESTS_USE_OTHER_TYPE
    }
    mixing = {
        problem.address
        for problem in plan.problems
        if problem.kind is ProblemKind.MIXED_SIZE_GUESTS
    }
    left_out = {note.address for note in plan.notes if note.kind in OBSTACLES}
    unreadable = facts.unreadable if facts.vgpus_on_unreadable_cards else ()
    return [
        *unreadable,
        *(
            card.address
            for card in facts.cards
            if card.unreadable_functions
            or (card.guest_vgpus and card.address in waiting | left_out)
            or (card.in_use and card.address in mixing)  # after a boot the mode can be changed
        ),
    ]


def _types_not_restored(facts: HostFacts) -> list[Problem]:
    reason = "not restored after the boot"
    return [
        Problem(ProblemKind.TYPE_REFUSED, function, vgpu_type=type_id, reason=reason)
        for function, type_id in facts.types_to_restore
    ]


def _remaining_problems(
    plan: Plan, reported: list[Problem], is_new_mapping: bool
) -> list[Problem]:
    """Return the problems of a plan that its preparation should have resolved."""
    addresses = {problem.address for problem in reported if problem.address is not None}
    return [
        problem
        for problem in plan.problems
        if problem.kind in DRIVER_PENDING or (is_new_mapping and problem.kind not in _PENDING)
        if problem.address not in addresses
    ]


def _pending_steps(preparation: Preparation) -> _Steps:
    steps: _Steps = dict.fromkeys(preparation.enable)
    steps.update((step.card, step) for step in preparation.partitionings)
    return steps


def _prepare_card(this: _Run, address: PciAddress, functions_only: bool) -> list[Problem]:
    """Partition a card and enable its virtual functions.

    The card is read again first: earlier cards may have satisfied the request, or a guest may
    have started while they were prepared.
    """
    card = this.host.read_card(address)
    preparation = this.make_plan(this.host.facts).preparation
    steps = _pending_steps(preparation)
    if card is None or address not in steps:
        return []
    step = None if functions_only else steps[address]
    problems = _apply(this, card, step, functions_only or address in preparation.keep_mode)
    this.host.read_card(address)
    return problems


def _apply(this: _Run, card: Card, step: Partitioning | None, keeps_mode: bool) -> list[Problem]:
    root, run = this.host.root, this.run
    problems: list[Problem] = []
    if step is not None:
        try:
            partitioning.query_types(root, run, card, step)
        except HostError as error:
            problems, step, keeps_mode = [error.problem], None, True
    if card.in_use:
        return problems if step is None else problems + _add_instances(root, run, card, step)
    if step is not None and _changes_instances(step, card):
        type_assignment.unassign_all(root, card)  # not of a guest, but they block the change
    try:
        _set_mode_and_enable_functions(this, card, step, keeps_mode)
        if step is not None:
            problems += partitioning.partition(root, run, card, step)
    except HostError as error:
        is_unused = (
            error.problem.kind is ProblemKind.VFS_FAILED
            and partitioning.note_if_functions_unused(root, run, card.address)
        )
        problems += [] if is_unused else [error.problem]
    return problems


def _changes_instances(step: Partitioning, card: Card) -> bool:
    present = card.mode.gpu_instances if card.mode else ()
    return gpu_instance_profiles(step, card) != present


def _add_instances(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Create the missing GPU instances of a card in use, if nothing else is to be changed."""
    if not only_adds_instances(step, card):
        return []
    try:
        return partitioning.partition(root, run, card, step._replace(keeps_other_instances=True))
    except HostError as error:
        return [error.problem]


def _set_mode_and_enable_functions(
    this: _Run, card: Card, step: Partitioning | None, keeps_mode: bool
) -> None:
    """Set MIG mode, then enable the functions, even if the mode could not be set.

    Raises:
        HostError: VFS_FAILED, MIG_FAILED or MIG_PENDING; DISK_WRITE_FAILED.
    """
    root, run = this.host.root, this.run

    def is_free() -> bool:
        now = this.host.read_card(card.address)
        return now is not None and not now.in_use

    try:
        if not keeps_mode:
            wants_mig = step is not None and bool(step.instance_requests)
            partitioning.ensure_mig_mode(root, run, card, wants_mig, is_free, this.delays)
    finally:
        if virtual_functions.enable_virtual_functions(root, run, card.gpu, this.delays):
            driver_cache.save_mode(root, card.address, None)


def _wait_for_types(
    this: _Run, given_up: set[PciAddress], find: _CardFinder | None = None
) -> bool:
    """Wait until the driver reports the types of cards, of new functions and of GPU instances.

    nvidia-vgpud registers the types of what exists when it runs, so it may have run too early.

    Args:
        this: the run, which reads the cards again that are waited for.
        given_up: the cards that are not waited for; those that report nothing are added.
        find: returns the cards to wait for; without it, all that report no types.

    Returns:
        Whether a card reports more than before.
    """
    host, find = this.host, find or _cards_without_types
    first = waiting = find(host.facts, this.make_plan) - given_up
    for second in range(_TYPES_TIMEOUT):
        if not waiting:
            break
        if second == 1:
            host.read()  # minutes may have passed, in which a guest may have started
        if second == 1 and not host.facts.in_use:  # nothing is restarted while a vGPU exists
            logger.info("%s reports no types yet; restarting %s", min(waiting), VGPUD)
            try:
                systemd.systemctl(this.run, "restart", VGPUD, timeout=60)
            except CommandError as error:
                logger.warning("%s", error)
            host.read()  # it registers the types of all cards
        time.sleep(1)
        for address in waiting:
            host.read_card(address)
        waiting = find(host.facts, this.make_plan) - given_up
    given_up.update(waiting)
    return waiting != first


def _cards_without_types(facts: HostFacts, make_plan: PlanMaker) -> AbstractSet[PciAddress]:
    """Return the cards that are not in use and that the driver has yet to report on."""
    if facts.driver.loaded is None:
        return set()
    pending = {
        problem.address for problem in make_plan(facts).problems if problem.kind in DRIVER_PENDING
    }
    return {
        card.address
        for card in facts.cards
        if not card.in_use
        and (card.address in pending or (card.lost_types and not card.visible_types))
    }


def _silent_cards_of_guests(facts: HostFacts, make_plan: PlanMaker) -> AbstractSet[PciAddress]:
    """Return the cards of guests whose types are unknown, so that they may be in the way."""
    silent = {
        problem.address
        for problem in make_plan(facts).problems
        if problem.kind is ProblemKind.TYPES_UNKNOWN
    }
    return {
        card.address
        for card in facts.cards
        if card.address in silent and card.guest_vgpus and not card.in_use
    }
