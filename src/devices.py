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
from typing import AbstractSet, Callable, Container, Iterator

import facts as host
import guest_mdevs
import guests
import modes
import seen
import sriov
import sysfs
import vendor_vfio
from commands import CommandError, Runner
from facts import Facts
from limits import honour
from mappings import VgpuRequest
from pci import PciAddress
from plan import PciOptions, Plan, make_plan
from problem import HostError, Kind, Problem
from vgpu import Card
from work import ModeStep, TypeStep, Work, profiles

__all__ = ["ensure"]

# What the driver still owes when all was done.
_LATE = frozenset({Kind.TYPES_UNKNOWN, Kind.INSTANCES_MISSING})
_ROUNDS = 3  # new functions tell types, and types the sizes that a card is to mix
_BUDGET = 360  # seconds, after which no further card is begun with; systemd allows 600
_PATIENCE = 20  # seconds that the driver gets to tell the types of new virtual functions

logger = logging.getLogger(__name__)


def ensure(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    sleep: Callable[[float], None] | None = None,
    write: Callable[[Path, str], None] | None = None,
) -> tuple[Problem, ...]:
    """Make true what the requests mean on this host; return what could not be done.

    Cards are dealt with one after the other, since sriov-manage does not bear company, and one
    that fails stops no other.
    """
    sleep, write = sleep or time.sleep, write or sysfs.write
    problems: list[Problem] = []
    done: set[object] = set()
    deadline = time.monotonic() + _BUDGET
    for _ in range(_ROUNDS):
        found = host.gather(root)
        steps = {
            address: step
            for address, step in _steps(_plan(found, requests).work).items()
            if (address, step) not in done
        }
        problems += _carry_all(root, requests, write, steps)  # the others may take minutes
        if not steps:
            break
        done.update(steps.items())
        for address in sorted(steps):
            if time.monotonic() > deadline:
                problems.append(Problem(Kind.VFS_FAILED, str(address), "no time left in this run"))
            else:
                problems += _part(root, run, address, requests, sleep, write)
        _await_types(root, run, requests, {problem.subject for problem in problems}, sleep)
    found = host.gather(root)
    problems += guest_mdevs.restore(root, found.missing_mdevs, write)
    problems += [
        Problem(Kind.TYPE_REFUSED, str(function), type_id, "its guest cannot start")
        for function, type_id in found.missing_types
    ]
    subjects = [problem.subject for problem in problems]
    problems += [
        problem
        for problem in _plan(found, requests).problems
        if problem.kind in _LATE and problem.subject not in subjects
    ]
    return tuple(dict.fromkeys(problems))


def _steps(work: Work) -> dict[PciAddress, ModeStep | None]:
    """Return the cards that are not ready to carry types, each with how it is to be parted."""
    steps: dict[PciAddress, ModeStep | None] = dict.fromkeys(work.enable)
    steps.update((step.card, step) for step in work.modes)
    return steps


def _part(
    root: Path,
    run: Runner,
    address: PciAddress,
    requests: tuple[VgpuRequest, ...],
    sleep: Callable[[float], None],
    write: Callable[[Path, str], None],
) -> list[Problem]:
    """Give a card its mode and its virtual functions, in the order that works.

    All is looked at again first: the cards before it may have met what is asked for, or taken
    minutes, in which a guest may have started. A mode that cannot be had costs no function.
    """
    found = host.gather(root)
    card = next((card for card in found.cards if card.gpu.address == address), None)
    work = _plan(found, requests).work
    steps = _steps(work)
    if card is None or card.in_use or address not in steps:
        return []
    step = steps[address]
    parts = card.mode.instances if card.mode is not None else ()
    if step is not None and profiles(step, card) != parts:
        for function, _ in card.carried:  # no guest has one, and they would hold the mode
            _write_type(root / "sys/bus/pci/devices" / str(function) / "nvidia", "0", write)

    def is_free() -> bool:
        now = host.gather(root).cards
        return all(known.gpu.address != address or not known.in_use for known in now)

    try:
        try:
            if address not in work.as_is:
                modes.ensure_mig_mode(root, run, card, step, is_free, sleep)
        finally:
            if sriov.enable_virtual_functions(root, run, card.gpu, sleep):
                seen.remember_mode(root, address, None)
        return modes.part(root, run, card, step) if step is not None else []
    except HostError as error:
        return [error.problem]


def _carry_all(
    root: Path,
    requests: tuple[VgpuRequest, ...],
    write: Callable[[Path, str], None],
    waiting: Container[PciAddress] = (),
) -> list[Problem]:
    """Set the types of each ready card; planned anew after each, as they share what is asked."""
    found = host.gather(root)
    problems = _noted(lambda: _remember_types(root, found))
    _restore_types(root, found, write)
    for wanted in _plan(found, requests).work.types:
        if wanted.card not in waiting:
            problems += _carry_next(root, requests, wanted, write)
    return problems + _noted(lambda: vendor_vfio.prune(root, host.gather(root).cards))


def _noted(keep: Callable[[], None]) -> list[Problem]:
    """Keep a record; a disk that takes none is told, and holds up no card."""
    try:
        keep()
    except HostError as error:
        return [error.problem]
    return []


def _remember_types(root: Path, found: Facts) -> None:
    for card in found.cards:
        if card.creatable:  # before the lists shrink
            seen.remember_types(root, card.gpu.id, card.types)


def _restore_types(root: Path, found: Facts, write: Callable[[Path, str], None]) -> None:
    """Give functions of defined guests the types back that a boot took; no limit counts them."""
    for function, type_id in found.missing_types:
        folder = root / "sys/bus/pci/devices" / str(function) / "nvidia"
        if type_id in [known.id for known in vendor_vfio.creatable_types(folder)]:
            _write_type(folder, type_id.rsplit("-", 1)[1], write)


def _carry_next(
    root: Path,
    requests: tuple[VgpuRequest, ...],
    wanted: TypeStep,
    write: Callable[[Path, str], None],
) -> list[Problem]:
    found = host.gather(root)
    cards = {card.gpu.address: card for card in found.cards}
    for step in _plan(found, requests).work.types:
        if (step.card, step.type_id, step.functions) == (
            wanted.card,
            wanted.type_id,
            wanted.functions,
        ):
            return list(_carry(root, step, cards[step.card], write))
    return []  # it fell off the bus meanwhile


def _plan(found: Facts, requests: tuple[VgpuRequest, ...]) -> Plan:
    """Return the plan, without types where there is no Nova yet to be told of them."""
    plan = make_plan(requests, found.cards)
    if found.nova is None:
        return plan._replace(work=plan.work._replace(types=()))
    # Which class the functions get is the charm's matter; it holds back what Nova cannot take.
    return honour(plan, found.cards, found.nova, PciOptions(report_in_placement=True))


def _carry(
    root: Path, step: TypeStep, card: Card, write: Callable[[Path, str], None]
) -> Iterator[Problem]:
    """Set a type on functions of a card.

    The lists of what can still be set shrink with each one, so each is read again before its
    function is written, and each is read back.
    """
    devices = root / "sys/bus/pci/devices"
    carried = _release(root, step, card, write)
    number = sum(found == step.type_id for found in carried.values())
    defined = guests.defined_functions(root)
    free = [function for function in step.functions if function not in carried]
    yield from _noted(lambda: vendor_vfio.claim(root, free, step.type_id))
    for function in sorted(free, key=lambda each: (each not in defined, each)):
        folder = devices / str(function) / "nvidia"
        if step.limit is not None and number >= step.limit:
            break
        if step.type_id not in [known.id for known in vendor_vfio.creatable_types(folder)]:
            continue  # the card is full, or holds another size
        if not _write_type(folder, step.type_id.rsplit("-", 1)[1], write):
            yield Problem(Kind.TYPE_REFUSED, str(function), step.type_id, "the driver says no")
            return
        number += 1
    logger.info("%s carries %s on %d functions", step.card, step.type_id, number)
    if not number and step.limit != 0:
        yield Problem(Kind.TYPE_REFUSED, str(step.card), step.type_id, "no room on the card")


def _release(
    root: Path, step: TypeStep, card: Card, write: Callable[[Path, str], None]
) -> dict[PciAddress, str]:
    """Take other types, and more than the limit, off functions that no guest has.

    Returns:
        What the step's functions then carry.
    """
    carried = {function: found for function, found in card.carried if function in step.functions}
    kept = [function for function in step.functions if carried.get(function) == step.type_id]
    surplus = [] if step.limit is None else kept[step.limit :]
    others = [function for function in carried if carried[function] != step.type_id]
    held = carried.keys() & (
        card.occupied | guests.defined_functions(root) | guests.open_functions(root, carried)
    )
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


def _await_types(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    failed: AbstractSet[str],
    sleep: Callable[[float], None],
) -> None:
    """Wait until the driver tells what new virtual functions and GPU instances offer.

    nvidia-vgpud registers the types of what is there when it runs, which was before.
    """
    for second in range(_PATIENCE):
        found = host.gather(root)
        silent = {
            problem.subject for problem in _plan(found, requests).problems if problem.kind in _LATE
        }
        silent |= {str(card.gpu.address) for card in found.cards if card.owed and card.is_silent}
        silent &= {
            str(card.gpu.address)
            for card in found.cards
            if card.gpu.virtual_functions and not card.in_use
        }
        if not silent - failed:
            return
        if second == 1:
            logger.info("%s tells no types yet, running nvidia-vgpud again", min(silent - failed))
            try:
                run("systemctl", "restart", "nvidia-vgpud", timeout=60)
            except CommandError as error:
                logger.warning("%s", error)
        sleep(1)
