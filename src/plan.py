# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""From what is asked for and what is there to what is offered; pure."""

from __future__ import annotations

from typing import Iterable, Iterator, NamedTuple

from mappings import Device, VgpuRequest
from pci import PciAddress
from problem import Kind, Problem
from releases import NovaVersion
from vgpu import Card, Framework, VgpuType

__all__ = ["Assignment", "Plan", "make_plan"]


class Assignment(NamedTuple):
    """One vGPU type, ready for Nova.

    Attributes:
        type_id: Nova's name of it, `nvidia-233`.
        addresses: the parents that offer it. Of a plain request all that it names, on whatever
            host they are, so that one value is published 1:1 all over a fleet.
        cards: the cards of this host that offer it.
        name: the people's name, if this host knows it.
    """

    type_id: str
    addresses: tuple[PciAddress, ...]
    cards: tuple[PciAddress, ...] = ()
    name: str | None = None
    max_instances: int | None = None
    resource_class: str | None = None


class Plan(NamedTuple):
    """What this host is to offer.

    Attributes:
        assignments: in the order of the option; all of them are published, or, if `held`, none.
        problems: why something is not offered, or not as it is written.
        enable: the cards whose virtual functions are to be enabled before more can be said.
        elsewhere: requests none of whose devices is a GPU of this host.
        held: what is published stays as it is, since this wish cannot be judged or is wrong.
    """

    assignments: tuple[Assignment, ...] = ()
    problems: tuple[Problem, ...] = ()
    enable: tuple[PciAddress, ...] = ()
    elsewhere: tuple[VgpuRequest, ...] = ()
    held: bool = False


# These do not speak against the wish, only of what the installed Nova makes of it.
_REMARKS = frozenset({Kind.FIRST_TYPE_ONLY, Kind.TAKES_ALL_CARDS})


class _Target(NamedTuple):
    """A card that a request names, and through which of its parents."""

    card: Card
    parents: tuple[PciAddress, ...]
    whole: bool  # named as a card, not by single virtual functions


def make_plan(
    requests: tuple[VgpuRequest, ...], cards: tuple[Card, ...], nova: NovaVersion
) -> Plan:
    """Match requests with the cards of a host.

    On a host without a card every plain request is published as it stands; on a host whose cards
    no request names, nothing is, since some releases of Nova would take those cards.
    """
    if not cards:
        plain = tuple(_as_written(request) for request in requests if request.is_plain)
        rest = tuple(request for request in requests if not request.is_plain)
        return Plan(plain, elsewhere=rest)
    matched = {request: tuple(_targets(request, cards)) for request in requests}
    elsewhere = tuple(request for request in requests if not matched[request])
    if len(elsewhere) == len(requests):
        return Plan(elsewhere=elsewhere)
    assignments, problems = _assign(requests, matched)
    problems += _clashes(assignments)
    problems += _mixed_sizes(assignments, cards)
    assignments = _first_for_this_host(assignments, nova)
    problems += _limits(assignments, cards, nova)
    held = any(problem.kind not in _REMARKS for problem in problems)
    return Plan(
        assignments=tuple(assignments),
        problems=tuple(dict.fromkeys(problems)),
        enable=_to_enable(matched),
        elsewhere=elsewhere,
        held=held,
    )


def _to_enable(matched: dict[VgpuRequest, tuple[_Target, ...]]) -> tuple[PciAddress, ...]:
    cards = {
        target.card.gpu.address: target.card for found in matched.values() for target in found
    }
    return tuple(address for address, card in sorted(cards.items()) if _is_without_functions(card))


def _is_without_functions(card: Card) -> bool:
    """Whether a card under NVIDIA's driver has SR-IOV and nothing to offer but through it."""
    gpu = card.gpu
    is_ready = gpu.driver == "nvidia" and gpu.total_vfs > 0 and not gpu.virtual_functions
    return is_ready and card.framework is None


def _as_written(request: VgpuRequest) -> Assignment:
    addresses = tuple(device for device in request.devices if isinstance(device, PciAddress))
    return Assignment(request.vgpu_type, addresses)


def _targets(request: VgpuRequest, cards: tuple[Card, ...]) -> Iterator[_Target]:
    for card in cards:
        named: Iterable[Device] = (card.gpu.address, card.gpu.id)
        if any(device in request.devices for device in named):
            yield _Target(card, card.parents or (card.gpu.address,), whole=True)
            continue
        functions = tuple(
            address for address in card.gpu.virtual_functions if address in request.devices
        )
        if functions:
            yield _Target(card, functions, whole=False)


def _assign(
    requests: tuple[VgpuRequest, ...], matched: dict[VgpuRequest, tuple[_Target, ...]]
) -> tuple[list[Assignment], list[Problem]]:
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    for request in requests:
        if not matched[request]:
            if request.is_plain:  # some other host's; Nova passes over an address it lacks
                assignments.append(_as_written(request))
            continue
        resolved: dict[str, Assignment] = {}
        for target in matched[request]:
            found = _resolve(request, target)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                known = resolved.setdefault(found.type_id, found._replace(addresses=(), cards=()))
                resolved[found.type_id] = known._replace(
                    addresses=known.addresses + found.addresses,
                    cards=known.cards + found.cards,
                )
        for found in resolved.values():
            if request.is_plain:
                found = found._replace(addresses=_as_ordered(request, matched[request], found))
            assignments.append(found)
    return assignments, problems


def _resolve(request: VgpuRequest, target: _Target) -> Assignment | Problem:
    """Say what one card makes of a request."""
    card = target.card
    address = str(card.gpu.address)
    if card.framework is Framework.VENDOR_VFIO:
        return Problem(Kind.VENDOR_VFIO, address)
    known: VgpuType | None = None
    if card.types:
        known = card.find_type(request.vgpu_type)
        if known is None:
            return Problem(Kind.TYPE_NOT_OFFERED, address, request.vgpu_type)
    elif card.gpu.total_vfs and not card.gpu.virtual_functions:
        return Problem(Kind.VFS_DISABLED, address)
    elif not request.is_plain:
        return Problem(Kind.TYPES_UNKNOWN, address, request.vgpu_type)
    return Assignment(
        type_id=known.id if known else request.vgpu_type,
        addresses=target.parents,
        cards=(card.gpu.address,),
        name=known.name if known else None,
        max_instances=request.max_instances,
        resource_class=request.resource_class,
    )


def _as_ordered(
    request: VgpuRequest, targets: tuple[_Target, ...], found: Assignment
) -> tuple[PciAddress, ...]:
    """Return a plain request's addresses in its order, those of other hosts among them.

    Cards of this host that know the type by another id are left to that id's assignment.
    """
    parents: dict[PciAddress, tuple[PciAddress, ...]] = {}
    for target in targets:
        named = (target.card.gpu.address,) if target.whole else target.parents
        for address in named:
            mine = target.card.gpu.address in found.cards
            parents[address] = (target.parents if target.whole else (address,)) if mine else ()
    ordered: list[PciAddress] = []
    for address in _as_written(request).addresses:
        ordered += parents.get(address, (address,))
    return tuple(dict.fromkeys(ordered))


def _clashes(assignments: list[Assignment]) -> Iterator[Problem]:
    """Find what makes nova-compute refuse to start: a type or an address that stands twice."""
    types: set[str] = set()
    owners: dict[PciAddress, str] = {}
    for assignment in assignments:
        if assignment.type_id in types:
            yield Problem(Kind.SAME_TYPE, assignment.name or "", assignment.type_id)
            continue
        types.add(assignment.type_id)
        for address in assignment.addresses:
            owner = owners.setdefault(address, assignment.type_id)
            if owner != assignment.type_id:
                yield Problem(Kind.DEVICE_TWICE, str(address), owner, assignment.type_id)


def _mixed_sizes(assignments: list[Assignment], cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find cards whose functions would offer types of different framebuffer sizes.

    The driver refuses the second size once a vGPU of the first exists.
    """
    for card in cards:
        here = [found.type_id for found in assignments if card.gpu.address in found.cards]
        sizes = {known.framebuffer for known in card.types if known.id in here}
        if len(sizes) > 1:
            yield Problem(Kind.MIXED_SIZES, str(card.gpu.address), " and ".join(here))


def _first_for_this_host(assignments: list[Assignment], nova: NovaVersion) -> list[Assignment]:
    """Put a type for this host first where Nova goes by the first one only."""
    if nova.honours_several_types:
        return assignments
    return sorted(assignments, key=lambda assignment: not assignment.cards)


def _limits(
    assignments: list[Assignment], cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    """Find what the installed Nova cannot honour."""
    release = f"Nova {nova}"
    if not nova.offers_vgpus:
        yield Problem(Kind.NOVA_TOO_OLD, release)
        return
    for assignment in assignments:
        yield from _option_limits(assignment, len(assignments) == 1, cards, nova)
    if not assignments:
        return
    first = assignments[0].type_id
    if len(assignments) > 1 and not nova.honours_several_types:
        yield Problem(Kind.FIRST_TYPE_ONLY, release, first)
    elif len(assignments) == 1 and not nova.honours_one_type_alone:
        for card in cards:
            if card.gpu.address not in assignments[0].cards and card.find_type(first):
                yield Problem(Kind.TAKES_ALL_CARDS, release, first, str(card.gpu.address))


def _option_limits(
    assignment: Assignment, is_alone: bool, cards: tuple[Card, ...], nova: NovaVersion
) -> Iterator[Problem]:
    if assignment.resource_class is not None:
        if not nova.has_mdev_class:
            yield Problem(Kind.OPTION_UNSUPPORTED, "resource-class", "24", str(nova))
        elif is_alone and not nova.honours_one_type_alone:
            yield Problem(Kind.OPTION_IGNORED, "resource-class", "29", str(nova))
    if assignment.max_instances is None:
        return
    if nova.has_max_instances:
        yield from _dropped_cards(assignment, assignment.max_instances, cards)
    else:
        yield Problem(Kind.OPTION_UNSUPPORTED, "max-instances", "29", str(nova))


def _dropped_cards(
    assignment: Assignment, limit: int, cards: tuple[Card, ...]
) -> Iterator[Problem]:
    """Find a limit that Nova cannot meet: it counts the cards one after the other, each whole.

    Virtual functions count one by one, so any number of them can be met.
    """
    room = limit
    dropped: list[tuple[Card, int]] = []
    for card in cards:
        known = card.find_type(assignment.type_id)
        on_card = card.gpu.address in assignment.cards and card.parents == (card.gpu.address,)
        if on_card and known and known.maximum is not None:
            if known.maximum > room:
                dropped.append((card, known.maximum))
            else:
                room -= known.maximum
    if dropped and room:
        card, maximum = dropped[0]
        address = str(card.gpu.address)
        yield Problem(Kind.MAX_INSTANCES_DROPS_CARD, address, str(limit), str(maximum))
