# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Derives which whole cards a host offers from the requests and its devices; pure."""

from __future__ import annotations

from typing import Callable, Dict, Iterable, Iterator, NamedTuple

from gpu.pci import Device, PciAddress, PciId
from gpu.problems import Problem, ProblemKind
from gpu.topology import distance
from gpu.whole_card import WholeCard
from planning import passthrough
from planning.card_requests import match_cards
from planning.mappings import VgpuRequest
from planning.passthrough import PassthroughRequest
from planning.whole_card_plan import WholeCardOffer, WholeCardPlan

__all__ = ["plan_whole_cards"]


def plan_whole_cards(
    requests: tuple[PassthroughRequest, ...],
    whole_cards: tuple[WholeCard, ...],
    vgpu_requests: tuple[VgpuRequest, ...],
    to_return: tuple[PciAddress, ...] = (),
    in_force: tuple[VgpuRequest, ...] = (),
) -> WholeCardPlan:
    """Match requests with the devices of a host.

    A card that cannot be given away does not keep the others from being offered.

    Args:
        requests: the requests for whole cards.
        whole_cards: the devices of this host that they select.
        vgpu_requests: the requests for vGPUs, which must not select the same cards.
        to_return: the functions that no request selects any more; see `HostFacts`.
        in_force: requests for vGPUs that still apply, whatever is requested now. Their cards stay
            divided.
    """
    whole_cards = tuple(_still_mapped(card, in_force) for card in whole_cards)
    whole_cards, usable = _usable(requests, whole_cards)
    selected = {request: _select(request, whole_cards) for request in requests}
    plan = WholeCardPlan(
        requests=tuple(request for request in requests if selected[request].cards),
        offers=_offers(selected, _is_ready),
        later_offers=_offers(selected, _is_or_will_be_ready),
        notes=tuple(sorted(dict.fromkeys(_notes(selected, whole_cards)), key=_is_effect)),
        to_bind=tuple(
            card.address for card in whole_cards if card.address in usable and not card.is_bound
        ),
        to_return=to_return,
        for_other_hosts=tuple(request for request in requests if not selected[request].cards),
    )
    problems = (*_named_twice(requests, whole_cards), *_in_both(selected, vgpu_requests))
    return plan.with_problems(problems)


def _still_mapped(whole_card: WholeCard, in_force: tuple[VgpuRequest, ...]) -> WholeCard:
    """Add the obstacle, unless the card is given away already, or there is another one."""
    gpus = () if whole_card.card is None else (whole_card.card,)
    is_free = not (whole_card.is_bound or whole_card.guests or whole_card.obstacle)
    if is_free and any(match_cards(request, gpus) for request in in_force):
        problem = Problem(ProblemKind.CARD_STILL_MAPPED, whole_card.address)
        return whole_card._replace(obstacle=problem)
    return whole_card


class _Selection(NamedTuple):
    """The devices of this host that a request selects."""

    cards: tuple[WholeCard, ...]
    nics: tuple[WholeCard, ...]


_Selected = Dict[PassthroughRequest, _Selection]


def _select(request: PassthroughRequest, whole_cards: tuple[WholeCard, ...]) -> _Selection:
    def matching(devices: tuple[Device, ...], *, are_nics: bool) -> tuple[WholeCard, ...]:
        return tuple(
            item
            for item in whole_cards
            if item.is_nic is are_nics
            if item.address in devices or item.function.id in devices
        )

    cards = matching(request.devices, are_nics=False)
    return _Selection(cards, matching(request.nics, are_nics=True))


def _usable(
    requests: tuple[PassthroughRequest, ...], whole_cards: tuple[WholeCard, ...]
) -> tuple[tuple[WholeCard, ...], frozenset[PciAddress]]:
    """Return the devices, and the addresses of those that are or can be offered.

    A device is not usable while another one of its IOMMU group stays with the host, which may be
    because that one is not usable.
    """
    while True:
        usable = frozenset(
            item.address
            for request in requests
            for item in _offered(request, _select(request, whole_cards), _is_possible)
        )
        checked = tuple(_with_neighbours(card, usable) for card in whole_cards)
        if checked == whole_cards:
            return whole_cards, usable
        whole_cards = checked


def _with_neighbours(card: WholeCard, usable: frozenset[PciAddress]) -> WholeCard:
    for other in card.neighbours:
        if card.obstacle is None and other.address not in usable and not other.spares_its_group:
            card = card._replace(obstacle=card.blocked_by(other))
    return card


def _is_ready(device: WholeCard) -> bool:
    return device.is_ready or device.is_for_its_guest


def _is_possible(device: WholeCard) -> bool:
    return device.obstacle is None


def _is_or_will_be_ready(device: WholeCard) -> bool:
    return _is_ready(device) or _is_possible(device)


def _offered(
    request: PassthroughRequest,
    selection: _Selection,
    is_offered: Callable[[WholeCard], bool],
) -> tuple[WholeCard, ...]:
    """Return the cards and the network functions that a request offers of those that it selects.

    If it has network functions, a card is offered only with one that is near to it, or to the
    guest that has it. So is a network function, which may be another guest's by other means.
    """
    cards = tuple(filter(is_offered, selection.cards))
    if not request.nics:
        return cards
    offered = tuple(filter(is_offered, selection.nics))
    near = {card: _near(card, request, offered) for card in cards}
    guests = {guest for card in selection.cards for guest in card.guests}
    of_guests = (nic for nic in offered if nic.is_for_its_guest and guests & {*nic.guests})
    nics = dict.fromkeys([*(nic for card in cards for nic in near[card]), *of_guests])
    stay = (card for card in cards if near[card] or card.is_for_its_guest)
    return (*stay, *nics)


def _near(
    card: WholeCard, request: PassthroughRequest, nics: tuple[WholeCard, ...]
) -> tuple[WholeCard, ...]:
    limit = request.nic_distance
    return tuple(nic for nic in nics if distance(card.function, nic.function) <= limit)


def _offers(
    selected: _Selected, is_offered: Callable[[WholeCard], bool]
) -> tuple[WholeCardOffer, ...]:
    return tuple(
        offer
        for request, selection in selected.items()
        for offer in _offers_of(request, _offered(request, selection, is_offered))
    )


def _offers_of(
    request: PassthroughRequest, devices: Iterable[WholeCard]
) -> Iterator[WholeCardOffer]:
    """Return the devices of a request, by model and type: one alias for each."""
    models: dict[tuple[bool, PciId, str], list[PciAddress]] = {}
    for item in devices:
        model = (item.is_nic, item.function.id, item.function.device_type)
        models.setdefault(model, []).append(item.address)
    for (is_nic, pci_id, device_type), addresses in models.items():
        yield WholeCardOffer(
            name=request.nic_name if is_nic else request.name,
            id=pci_id,
            device_type=device_type,
            addresses=tuple(addresses),
            numa_policy=request.numa_policy,
            resource_class=None if is_nic else request.resource_class,
            is_nic=is_nic,
        )


def _notes(selected: _Selected, whole_cards: tuple[WholeCard, ...]) -> Iterator[Problem]:
    """Return why single devices are not offered."""
    for item in whole_cards:
        if item.obstacle is not None:
            yield item.obstacle
    for request, selection in selected.items():
        usable = _offered(request, selection, _is_possible)
        for item in usable:
            if not item.is_ready:
                yield Problem(ProblemKind.BINDING_PENDING, item.address)
        nics = tuple(filter(_is_possible, selection.nics))
        for card in selection.cards if request.nics else ():
            if card.obstacle is None and not _near(card, request, nics):
                yield _too_far(card, request, selection.nics)
        yield from _in_one_group(usable)


def _is_effect(note: Problem) -> bool:
    """Whether a note only follows from something else, which is to be read first."""
    return note.kind is ProblemKind.CARD_STILL_MAPPED


def _in_one_group(devices: Iterable[WholeCard]) -> Iterator[Problem]:
    """Find devices of one request that only one guest can have, as the kernel gives groups away.

    A card and its network function are meant for one guest.
    """
    first_of: dict[tuple[bool, str | None], PciAddress] = {}
    for item in devices:
        first = first_of.setdefault((item.is_nic, item.function.iommu_group), item.address)
        if first != item.address:
            kind = ProblemKind.GROUP_FOR_ONE_GUEST
            yield Problem(kind, item.address, other=str(first))


def _too_far(card: WholeCard, request: PassthroughRequest, nics: tuple[WholeCard, ...]) -> Problem:
    distances = sorted((distance(card.function, nic.function), nic.address) for nic in nics)
    nearest = f"{distances[0][1]} ({distances[0][0].name})" if distances else "none on this host"
    return Problem(
        ProblemKind.NIC_TOO_FAR,
        card.address,
        name=request.name,
        limit=request.nic_distance.name,
        nearest=nearest,
    )


def _named_twice(
    requests: tuple[PassthroughRequest, ...], whole_cards: tuple[WholeCard, ...]
) -> Iterator[Problem]:
    owners: dict[PciAddress, str] = {}
    for request in requests:
        devices = (*request.devices, *request.nics)
        for card in whole_cards:
            if card.address not in devices and card.function.id not in devices:
                continue
            first = owners.setdefault(card.address, request.name)
            if first != request.name:
                yield Problem(
                    ProblemKind.DEVICE_MAPPED_TWICE,
                    option=passthrough.OPTION.name,
                    device=str(card.address),
                    first=first,
                    second=request.name,
                )


def _in_both(selected: _Selected, vgpu_requests: tuple[VgpuRequest, ...]) -> Iterator[Problem]:
    """Find cards that are to be divided and to be given away whole."""
    for request, selection in selected.items():
        gpus = tuple(card.card for card in selection.cards if card.card is not None)
        for vgpu_request in vgpu_requests:
            for match in match_cards(vgpu_request, gpus):
                yield Problem(
                    ProblemKind.DEVICE_IN_BOTH_OPTIONS,
                    match.card.address,
                    vgpu_type=vgpu_request.vgpu_type,
                    name=request.name,
                )
