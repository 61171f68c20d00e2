# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the devices of a plan exist: virtual functions, and vGPU types on them.

What was made is gone after each boot, so this runs at each boot, before Nova, and whenever the
plan changes. It does nothing where all is as it should be, and nothing to a card in use.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Callable, Iterator

import facts as host
import guests
import mdevs
import sriov
import vgpu
from commands import CommandError, Runner
from facts import Facts
from limits import honour
from mappings import VgpuRequest
from pci import PciAddress
from plan import Plan, TypeStep, make_plan
from problem import HostError, Kind, Problem
from vgpu import Card

__all__ = ["ensure", "write_attribute"]

_PATIENCE = 20  # seconds that the driver gets to tell the types of new virtual functions

logger = logging.getLogger(__name__)


def ensure(
    root: Path,
    run: Runner,
    requests: tuple[VgpuRequest, ...],
    sleep: Callable[[float], None] = time.sleep,
    write: Callable[[Path, str], None] | None = None,
) -> tuple[Problem, ...]:
    """Make true what the requests mean on this host; return what could not be done.

    Cards are dealt with one after the other, since sriov-manage does not bear company, and one
    that fails stops no other.
    """
    write = write or write_attribute
    found = host.gather(root)
    problems = _carry_all(root, requests, write)  # ready cards first: others may take minutes
    enable = _plan(found, requests).enable
    for card in found.cards:
        if card.gpu.address in enable and not card.in_use:
            try:
                sriov.enable_virtual_functions(root, run, card.gpu, sleep)
            except HostError as error:
                problems.append(error.problem)
    if enable:
        _await_types(root, run, sleep)
        problems += _carry_all(root, requests, write)
    found = host.gather(root)
    problems += mdevs.restore(root, found, write)
    subjects = [problem.subject for problem in problems]
    problems += [
        problem
        for problem in _plan(found, requests).problems
        if problem.kind is Kind.TYPES_UNKNOWN and problem.subject not in subjects
    ]
    return tuple(dict.fromkeys(problems))


def _carry_all(
    root: Path, requests: tuple[VgpuRequest, ...], write: Callable[[Path, str], None]
) -> list[Problem]:
    """Set the types of each card, planning anew after each: what one holds the next need not."""
    problems: list[Problem] = []
    found = host.gather(root)
    try:
        vgpu.remember_types(root, found.cards)  # before the lists shrink
    except HostError as error:
        problems.append(error.problem)
    requested = {step.card for step in _plan(found, requests).steps}
    for number in range(len(_plan(found, requests).steps)):
        found = host.gather(root)
        step = _plan(found, requests).steps[number]
        card = next(card for card in found.cards if card.gpu.address == step.card)
        problems += _carry(root, step, card, write)
    try:
        vgpu.remember_carried(root, host.gather(root).cards, requested)
    except HostError as error:
        problems.append(error.problem)
    return problems


def _plan(found: Facts, requests: tuple[VgpuRequest, ...]) -> Plan:
    """Return the plan, without types where there is no Nova yet to be told of them."""
    plan = make_plan(requests, found.cards)
    if found.nova is None:
        return plan._replace(steps=())
    # Which class the functions get is the charm's matter; it holds back what Nova cannot take.
    return honour(plan, found.cards, found.nova, report_in_placement=True)


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
    for function in sorted(step.functions, key=lambda each: (each not in defined, each)):
        folder = devices / str(function) / "nvidia"
        if function in carried or (step.limit is not None and number >= step.limit):
            continue
        if step.type_id not in [known.id for known in vgpu.creatable_types(folder)]:
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
    held = carried.keys() & (guests.defined_functions(root) | guests.open_functions(root, carried))
    if held & set(others):  # the new type could not come, and the old one would be lost
        others = []
        logger.info("%s keeps its types: guests have %d functions", step.card, len(held))
    for function in sorted(set(surplus + others) - held):
        folder = root / "sys/bus/pci/devices" / str(function) / "nvidia"
        if _write_type(folder, "0", write):
            logger.info("%s no longer carries %s", function, carried.pop(function))
    return carried


def write_attribute(path: Path, text: str) -> None:
    """Write an attribute of sysfs in one go, as the kernel wants it.

    Raises:
        OSError: the driver refuses the value; mostly EIO.
    """
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


def _write_type(folder: Path, number: str, write: Callable[[Path, str], None]) -> bool:
    path = folder / "current_vgpu_type"
    try:
        write(path, number)
        return path.read_text(encoding="ascii").strip() == number
    except OSError as error:
        logger.warning("%s refuses %s: %s", path, number, error)
        return False


def _await_types(root: Path, run: Runner, sleep: Callable[[float], None]) -> None:
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
