# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Assigns vGPU types to virtual functions, and removes them again (vendor-specific VFIO).

A function that a guest has, or whose type the charm did not assign, is never written to.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Callable, Container, Iterator

from gpu.card import Card, VgpuType
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from host import guest_vgpus, libvirt_guests
from host.facts import HostFacts, HostReader
from host.vendor_vfio import creatable_types, type_folder
from planning.plan import Plan
from planning.preparation import TypeAssignment
from state import assigned_types, driver_cache
from system import sysfs

__all__ = ["PlanMaker", "assign_types", "unassign_all"]

PlanMaker = Callable[[HostFacts], Plan]  # what a mapping means on a host as it is now

logger = logging.getLogger(__name__)


def assign_types(
    host: HostReader, make_plan: PlanMaker, not_ready: Container[PciAddress]
) -> list[Problem]:
    """Assign the types of each ready card; return what could not be done.

    The plan is made again after each assignment, since cards share the limit of a request.

    Args:
        host: the host, which is read again where it changes.
        make_plan: returns the plan for a host.
        not_ready: the cards to leave out.
    """
    problems = _as_problems(lambda: _save_types(host.root, host.facts))
    problems += _as_problems(lambda: _renew_damaged_records(host))
    _restore_types(host)
    for planned in make_plan(host.facts).preparation.type_assignments:
        if planned.card not in not_ready:
            problems += _assign_planned(host, make_plan, planned)
    return problems + _as_problems(lambda: _forget_stale_records(host))


def unassign_all(root: Path, card: Card) -> None:
    """Remove the types of all functions of a card that is not in use."""
    for function, _ in card.assigned_types:
        _write_type(root, function, "0")


def _as_problems(write: Callable[[], None]) -> list[Problem]:
    """Write a record; a full disk is a problem, but does not stop the cards."""
    try:
        write()
    except HostError as error:
        return [error.problem]
    return []


def _save_types(root: Path, facts: HostFacts) -> None:
    for card in facts.cards:
        if card.creatable:  # before the lists shrink
            driver_cache.save_types(root, card.gpu, card.types)


def _restore_types(host: HostReader) -> None:
    """Assign the types that functions of defined guests lost at boot, regardless of limits."""
    lost = dict(host.facts.types_to_restore)
    for function, type_id in lost.items():
        if _is_creatable(host.root, function, type_id):
            _write_type(host.root, function, VgpuType(type_id, type_id).number)
    for card in host.facts.cards:
        if not lost.keys().isdisjoint(card.gpu.virtual_functions):
            host.read_card(card.address)


def _renew_damaged_records(host: HostReader) -> None:
    """Record all assigned types, except those of guests, if the earlier records are lost."""
    if not assigned_types.is_damaged(host.root):
        return
    for card in host.facts.cards:
        for function, type_id in card.assigned_types:
            if function not in card.guest_parents:
                assigned_types.record(host.root, [function], type_id)


def _forget_stale_records(host: HostReader) -> None:
    """Forget types that are not assigned any more and that no defined guest has lost.

    A record is kept while its function cannot be read.
    """
    readable = {function for card in host.facts.cards for function in card.parents}
    assigned = {pair for card in host.facts.cards for pair in card.assigned_types}
    lost = {function for function, _ in host.facts.lost_types}
    assigned_types.forget(
        host.root,
        lambda function, type_id: (
            function in readable and (function, type_id) not in assigned and function not in lost
        ),
    )


def _assign_planned(
    host: HostReader, make_plan: PlanMaker, planned: TypeAssignment
) -> list[Problem]:
    card = host.read_card(planned.card)  # a guest may have started meanwhile
    for step in make_plan(host.facts).preparation.type_assignments:
        if card is not None and _is_same(step, planned):
            problems = list(_assign(host.root, step, card))
            host.read_card(card.address)
            return problems
    return []  # the card fell off the bus meanwhile


def _is_same(step: TypeAssignment, other: TypeAssignment) -> bool:
    return (step.card, step.type_id, step.functions) == (
        other.card,
        other.type_id,
        other.functions,
    )


def _assign(root: Path, step: TypeAssignment, card: Card) -> Iterator[Problem]:
    """Assign a type to functions of a card.

    The lists of creatable types shrink with each assignment, so each list is read again before
    its function is written, and each result is read back.
    """
    assigned = _unassign(root, step, card)
    count = sum(type_id == step.type_id for type_id in assigned.values())
    defined = libvirt_guests.defined_functions(root)
    free = [function for function in step.functions if function not in assigned]
    try:  # a type without its record would count as a guest's
        assigned_types.record(root, free, step.type_id)
    except HostError as error:
        yield error.problem
        return
    for function in sorted(free, key=lambda function: (function not in defined, function)):
        if step.limit is not None and count >= step.limit:
            break
        if not _is_creatable(root, function, step.type_id):
            continue  # the card is full, or has vGPUs of another size
        if not _write_type(root, function, VgpuType(step.type_id, step.type_id).number):
            yield _refused(function, step.type_id, "the driver rejects it")
            return
        count += 1
    logger.info("%s: %s is assigned to %d functions", step.card, step.type_id, count)
    if not count and step.limit != 0:
        yield _refused(step.card, step.type_id, "no room on the card")


def _refused(address: PciAddress, type_id: str, reason: str) -> Problem:
    return Problem(ProblemKind.TYPE_REFUSED, address, vgpu_type=type_id, reason=reason)


def _unassign(root: Path, step: TypeAssignment, card: Card) -> dict[PciAddress, str]:
    """Remove other types, and those above the limit, from functions that no guest has.

    Returns:
        The types of the step's functions afterwards.
    """
    functions = {*step.functions, *step.leftover_functions}
    assigned = dict(pair for pair in card.assigned_types if pair[0] in functions)
    in_use = assigned.keys() & (card.guest_parents | guest_vgpus.guest_functions(root, assigned))
    with_type = [function for function in step.functions if assigned.get(function) == step.type_id]
    with_type.sort(key=lambda function: function not in in_use)
    surplus = [] if step.limit is None else with_type[step.limit :]
    with_other_type = {
        function
        for function in step.functions
        if assigned.get(function) not in (None, step.type_id)
    }
    if in_use & with_other_type:
        # The new type could not be assigned, and the old one would be lost.
        with_other_type = set()
        logger.info("%s keeps its types: guests use %d of its functions", step.card, len(in_use))
    for function in sorted({*step.leftover_functions, *surplus, *with_other_type} - in_use):
        if _write_type(root, function, "0"):
            logger.info("%s: removed type %s", function, assigned.pop(function))
    return assigned


def _is_creatable(root: Path, function: PciAddress, type_id: str) -> bool:
    types = creatable_types(type_folder(root, function))
    return any(vgpu_type.id == type_id for vgpu_type in types)


def _write_type(root: Path, function: PciAddress, number: str) -> bool:
    """Write the number of a type, 0 for none; return whether the driver has taken it."""
    path = os.path.join(type_folder(root, function), "current_vgpu_type")
    try:
        sysfs.write(path, number)
        return sysfs.read(path) == number
    except OSError as error:
        logger.warning("%s refuses %s: %s", path, number, error)
        return False
