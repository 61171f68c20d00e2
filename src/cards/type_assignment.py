# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Sets vGPU types on virtual functions, and takes them off again (vendor-specific VFIO).

What a guest has is never written to, nor what somebody else set.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Callable, Container, Iterator

from gpu.card import Card
from gpu.problems import HostError, Problem, ProblemKind
from host import facts as host
from host import libvirt_guests, vendor_vfio
from host.facts import HostFacts
from host.gpus import PciAddress
from planning.plan import Plan
from planning.preparation import TypeAssignment
from state import driver_cache
from system import sysfs

__all__ = ["Planner", "assign_types", "unassign_all"]

Planner = Callable[[HostFacts], Plan]  # what the option means on a host as it is at the moment

logger = logging.getLogger(__name__)


def assign_types(
    root: Path,
    planned: Planner,
    write: Callable[[Path, str], None],
    waiting: Container[PciAddress] = (),
) -> list[Problem]:
    """Set the types of each ready card; return what could not be done.

    It is planned anew after each, as they share what is asked for.

    Args:
        root: the root of the host's file system.
        planned: makes the plan.
        write: writes an attribute, as `sysfs.write` does.
        waiting: the cards that are not ready.
    """
    found = host.gather(root)
    problems = _problems_of(lambda: _save_types(root, found))
    _restore_types(root, found, write)
    for wanted in planned(found).preparation.type_assignments:
        if wanted.card not in waiting:
            problems += _assign_next(root, planned, wanted, write)
    return problems + _problems_of(lambda: vendor_vfio.forget_stale(root, host.gather(root).cards))


def unassign_all(root: Path, card: Card, write: Callable[[Path, str], None]) -> None:
    """Take the types off all functions of a card that is not in use."""
    for function, _ in card.assigned_types:
        _write_type(root / "sys/bus/pci/devices" / str(function) / "nvidia", "0", write)


def _problems_of(keep: Callable[[], None]) -> list[Problem]:
    """Keep a record; a disk that takes none is told, and holds up no card."""
    try:
        keep()
    except HostError as error:
        return [error.problem]
    return []


def _save_types(root: Path, found: HostFacts) -> None:
    for card in found.cards:
        if card.creatable:  # before the lists shrink
            driver_cache.save_types(root, card.gpu, card.types)


def _restore_types(root: Path, found: HostFacts, write: Callable[[Path, str], None]) -> None:
    """Give functions of defined guests the types back that a boot took; no limit counts them."""
    for function, type_id in found.types_to_restore:
        folder = root / "sys/bus/pci/devices" / str(function) / "nvidia"
        if type_id in [known.id for known in vendor_vfio.creatable_types(folder)]:
            _write_type(folder, type_id.rsplit("-", 1)[1], write)


def _assign_next(
    root: Path,
    planned: Planner,
    wanted: TypeAssignment,
    write: Callable[[Path, str], None],
) -> list[Problem]:
    found = host.gather(root)
    cards = {card.gpu.address: card for card in found.cards}
    for step in planned(found).preparation.type_assignments:
        if (step.card, step.type_id, step.functions) == (
            wanted.card,
            wanted.type_id,
            wanted.functions,
        ):
            return list(_assign(root, step, cards[step.card], write))
    return []  # it fell off the bus meanwhile


def _assign(
    root: Path, step: TypeAssignment, card: Card, write: Callable[[Path, str], None]
) -> Iterator[Problem]:
    """Set a type on functions of a card.

    The lists of what can still be set shrink with each one, so each is read again before its
    function is written, and each is read back.
    """
    devices = root / "sys/bus/pci/devices"
    carried = _unassign(root, step, card, write)
    number = sum(found == step.type_id for found in carried.values())
    defined = libvirt_guests.defined_functions(root)
    free = [function for function in step.functions if function not in carried]
    yield from _problems_of(lambda: vendor_vfio.record(root, free, step.type_id))
    for function in sorted(free, key=lambda each: (each not in defined, each)):
        folder = devices / str(function) / "nvidia"
        if step.limit is not None and number >= step.limit:
            break
        if step.type_id not in [known.id for known in vendor_vfio.creatable_types(folder)]:
            continue  # the card is full, or holds another size
        if not _write_type(folder, step.type_id.rsplit("-", 1)[1], write):
            yield Problem(
                ProblemKind.TYPE_REFUSED, str(function), step.type_id, "the driver says no"
            )
            return
        number += 1
    logger.info("%s carries %s on %d functions", step.card, step.type_id, number)
    if not number and step.limit != 0:
        yield Problem(
            ProblemKind.TYPE_REFUSED, str(step.card), step.type_id, "no room on the card"
        )


def _unassign(
    root: Path, step: TypeAssignment, card: Card, write: Callable[[Path, str], None]
) -> dict[PciAddress, str]:
    """Take other types, and more than the limit, off functions that no guest has.

    Returns:
        What the step's functions then carry.
    """
    mine = {*step.functions, *step.leftover_functions}
    carried = {function: found for function, found in card.assigned_types if function in mine}
    held = carried.keys() & (
        card.guest_parents
        | libvirt_guests.defined_functions(root)
        | libvirt_guests.open_functions(root, carried)
    )
    kept = [function for function in step.functions if carried.get(function) == step.type_id]
    kept.sort(key=lambda function: function not in held)
    surplus = [*step.leftover_functions, *([] if step.limit is None else kept[step.limit :])]
    others = [
        function
        for function in step.functions
        if carried.get(function, step.type_id) != step.type_id
    ]
    if held & set(others):  # the new type could not come, and the old one would be lost
        others = []
        logger.info("%s keeps its types: guests have %d functions", step.card, len(held))
    for function in sorted(set(surplus + others) - held):
        folder = root / "sys/bus/pci/devices" / str(function) / "nvidia"
        if _write_type(folder, "0", write):
            logger.info("%s no longer carries %s", function, carried.pop(function))
    return carried


def _write_type(folder: Path, number: str, write: Callable[[Path, str], None]) -> bool:
    path = folder / "current_vgpu_type"
    try:
        write(path, number)
        return sysfs.read(path) == number
    except OSError as error:
        logger.warning("%s refuses %s: %s", path, number, error)
        return False
