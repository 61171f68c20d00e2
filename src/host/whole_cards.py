# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cards that guests are to get as a whole, and why one cannot be given away.

The reasons are found on the host, never derived from what was requested.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from gpu.card import Card
from gpu.pci import GPU_CLASSES, NOVA_MAX_DOMAIN, PciAddress, PciFunction, WholeDevices
from gpu.problems import Problem, ProblemKind
from gpu.whole_card import WholeCard
from host import libvirt_guests, obstacles, own_use, pci_functions, programs
from state import bound_functions

__all__ = ["functions_to_return", "read"]


def read(
    root: Path,
    devices: WholeDevices,
    cards: Iterable[Card],
    guests: Mapping[PciAddress, str],
) -> tuple[WholeCard, ...]:
    """Read the functions that some devices mean, network functions included.

    Args:
        root: the root of the host's file system.
        devices: the devices.
        cards: the GPUs of the host.
        guests: the PCI functions that guests are defined with, and the guests.
    """
    by_address = {card.address: card for card in cards}
    functions = pci_functions.select(root, devices.all)
    requested = {function.address for function in functions}
    whole_cards = []
    for function in functions:
        whole_card = WholeCard(
            function=function,
            card=by_address.get(function.address),
            is_nic=function.address in devices.nics or function.id in devices.nics,
        )
        whole_cards.append(_with_evidence(root, whole_card, requested, guests))
    return _without_those_of_programs(root, tuple(whole_cards))


def functions_to_return(root: Path, devices: WholeDevices) -> tuple[PciAddress, ...]:
    """Return the functions that the charm has bound to vfio-pci and nobody requests any more.

    Not those of guests, nor the others of their IOMMU groups, nor the companions of requested
    functions. A function that has its own driver already, or is gone, is among them: its record is
    stale.

    Args:
        root: the root of the host's file system.
        devices: the devices that are requested.
    """
    bound = bound_functions.load(root)
    if not bound:
        return ()
    guests = libvirt_guests.defined_functions(root)
    stay = {*guests}
    for function in pci_functions.select(root, guests):
        stay.update(member.address for member in pci_functions.group_members(root, function))
    for function in pci_functions.select(root, devices.all):
        companions = _companions(function, pci_functions.group_members(root, function))
        stay.update(member.address for member in (function, *companions))
    return tuple(sorted(bound.keys() - stay))


def _companions(function: PciFunction, group: Iterable[PciFunction]) -> tuple[PciFunction, ...]:
    """Return the other functions of its board among those of its IOMMU group."""
    return tuple(other for other in group if other.address.is_on_board_of(function.address))


def _without_those_of_programs(
    root: Path, whole_cards: tuple[WholeCard, ...]
) -> tuple[WholeCard, ...]:
    """Find the devices on vfio-pci that a program has which is no guest of Nova.

    Such as DPDK, a virtual machine of LXD, or a transient guest of libvirt. A guest with one
    function has the complete group open.
    """
    free = [
        card
        for card in whole_cards
        if card.function.has_vfio and not (card.guests or card.obstacle)
    ]
    taken = libvirt_guests.open_functions(root, [card.address for card in free]) if free else ()
    # Read now: a guest may have been defined and started meanwhile.
    guests = libvirt_guests.defined_functions(root) if taken else {}
    return tuple(
        card._replace(obstacle=_used_by_program(root, card))
        if card.address in taken and not any(item.address in guests for item in card.group)
        else card
        for card in whole_cards
    )


def _used_by_program(root: Path, card: WholeCard) -> Problem:
    path = re.compile(rf"/dev/vfio/{re.escape(str(card.function.iommu_group))}(?: \(deleted\))?")
    program = next(iter(programs.with_open(root, path)), "a program")
    return Problem(ProblemKind.USED_BY_PROGRAM, card.address, program=program)


def _with_evidence(
    root: Path,
    whole_card: WholeCard,
    requested: set[PciAddress],
    guests: Mapping[PciAddress, str],
) -> WholeCard:
    """Add the other functions of the board, the guests, and why it cannot be given away."""
    function = whole_card.function
    group = pci_functions.group_members(root, function)
    companions = tuple(
        other for other in _companions(function, group) if other.address not in requested
    )
    addresses = {member.address for member in (function, *companions)}
    whole_card = whole_card._replace(
        companions=companions,
        neighbours=tuple(other for other in group if other not in companions),
        guests=tuple(sorted({guests[address] for address in addresses & guests.keys()})),
    )
    obstacles_found = tuple(_obstacles(root, whole_card, requested))
    return whole_card._replace(obstacle=_most_lasting(obstacles_found))


def _most_lasting(found: tuple[Problem, ...]) -> Problem | None:
    """Return the first obstacle that does not end with a program."""
    lasting = (problem for problem in found if problem.kind is not ProblemKind.USED_BY_PROGRAM)
    return next(lasting, next(iter(found), None))


def _obstacles(root: Path, whole_card: WholeCard, requested: set[PciAddress]) -> Iterator[Problem]:
    """Return why a function cannot be given away, by itself.

    Whether a requested neighbour can be given away too depends on the plan.
    """
    function, address = whole_card.function, whole_card.address
    yield from _unsuitable(whole_card)
    if whole_card.has_vgpus:
        yield Problem(ProblemKind.VGPUS_ON_CARD, address)
    for member in whole_card.functions:
        use = None if member.has_vfio else own_use.find(root, member)
        if use is not None:
            yield use
    if function.iommu_group is None:
        yield Problem(ProblemKind.IOMMU_OFF, address, remedy=obstacles.iommu_remedy(root))
    for other in whole_card.neighbours:
        if not other.spares_its_group and other.address not in requested:
            yield whole_card.blocked_by(other)
    for member in whole_card.functions:
        yield from _obstacles_to_binding(member)


def _unsuitable(whole_card: WholeCard) -> Iterator[Problem]:
    """Return why a function is of a kind that cannot be given away in this way."""
    function = whole_card.function
    address, is_virtual = function.address, function.physical_function is not None
    if address.domain > NOVA_MAX_DOMAIN:
        yield Problem(ProblemKind.PCI_DOMAIN_UNSUPPORTED, address)
    if function.is_bridge:
        yield Problem(ProblemKind.NOT_ASSIGNABLE, address, what="a bridge")
    if is_virtual and function.pci_class in GPU_CLASSES:
        yield Problem(ProblemKind.NOT_ASSIGNABLE, address, what="a virtual function of a GPU")
    if function.is_network and not whole_card.is_nic:
        yield Problem(ProblemKind.NETWORK_FUNCTION, address)
    if whole_card.is_nic and not function.is_network:
        yield Problem(ProblemKind.NOT_NETWORK_FUNCTION, address)


def _obstacles_to_binding(function: PciFunction) -> Iterator[Problem]:
    """Return why the present driver cannot be removed from a function."""
    if function.has_vfio:
        return
    if function.driver == "nouveau":  # it cannot be removed safely
        yield Problem(ProblemKind.NOUVEAU, function.address)
    if function.enabled_vfs and function.driver != "nvidia":
        yield Problem(ProblemKind.HAS_VFS, function.address)
