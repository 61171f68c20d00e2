# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a card cannot offer at the same time, and what its guests prevent; pure."""

from __future__ import annotations

from typing import Iterable, Iterator

from gpu.card import Card, Framework
from gpu.problems import Problem, ProblemKind
from planning.card_requests import CardRequest

__all__ = [
    "mig_and_time_sliced",
    "mixed_sizes",
    "mixed_sizes_of_plain_requests",
    "oversubscribed_cards",
    "too_few_functions",
    "types_in_use",
    "types_without_request",
]


def types_in_use(card_requests: list[CardRequest], cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find cards whose guests have a type that the cards would no longer offer.

    Up to Nova 29, nova-compute would refuse to start if a boot lost their devices
    (InvalidLibvirtMdevConfig, _recreate_assigned_mediated_devices in nova/virt/libvirt/driver.py).
    """
    for card in cards:
        on_card = [request for request in card_requests if request.card is card]
        # The type in use may be the requested one, which the driver has not been asked for yet.
        if any(request.needs_type_query for request in on_card):
            continue
        offered = {request.vgpu_type.id for request in on_card if request.vgpu_type is not None}
        if card.framework is None:  # after a boot nothing is reported, but guests had a type
            names = [request.requested_type for request in on_card]
            offered |= {lost.id for lost in card.lost_types if any(map(lost.matches, names))}
        for type_id in card.guest_type_ids:
            if type_id not in offered:
                described = card.describe_type(type_id)
                yield Problem(ProblemKind.GUESTS_USE_OTHER_TYPE, card.address, vgpu_type=described)


def types_without_request(cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find the types that guests keep after the option was unset."""
    for problem in types_in_use([], cards):
        kind, vgpu_type = ProblemKind.GUESTS_KEEP_TYPE, problem.argument("vgpu_type")
        yield Problem(kind, problem.address, vgpu_type=vgpu_type)


def oversubscribed_cards(card_requests: list[CardRequest]) -> Iterator[Problem]:
    """Find cards whose functions are to offer more vGPUs than the card has room for.

    In mixed-size mode the room may be even less, which only the driver knows. Under
    vendor-specific VFIO a card offers one type only; see `nova_compute.compatibility`.
    """
    for card, on_card in _by_card(card_requests):
        if card.framework is Framework.VENDOR_VFIO:
            continue
        offered = [request for request in on_card if not request.is_plain and request.is_offered]
        shares = [
            (len(request.parents), request.vgpu_type.max_instances)
            for request in offered
            if request.vgpu_type and request.vgpu_type.max_instances and not request.is_mig_backed
        ]
        if len(shares) > 1 and _exceed_one(shares):
            names = _joined_types(offered)
            yield Problem(ProblemKind.CARD_OVERSUBSCRIBED, card.address, vgpu_types=names)


def _exceed_one(shares: list[tuple[int, int]]) -> bool:
    """Whether fractions of a card, as numerator and denominator, add up to more than all of it."""
    from fractions import Fraction  # slow to import, and few mappings have two types on a card

    return sum(Fraction(*share) for share in shares) > 1


def too_few_functions(card_requests: list[CardRequest]) -> Iterator[Problem]:
    """Find cards that have fewer virtual functions than room for vGPUs.

    sriov-manage may enable only some of them.
    """
    for request in card_requests:
        parents = request.card.parents
        is_on_functions = request.match.is_whole_card and request.card.is_sriov and bool(parents)
        room = None if request.vgpu_type is None else request.vgpu_type.max_instances
        if room is None or not is_on_functions:
            continue
        wanted = room if request.limit is None else min(room, request.limit)
        if len(parents) < wanted:
            yield Problem(
                ProblemKind.TOO_FEW_FUNCTIONS,
                request.card.address,
                count=str(len(parents)),
                vgpu_type=request.requested_type,
            )


def mig_and_time_sliced(card_requests: list[CardRequest]) -> Iterator[Problem]:
    """Find cards that are requested to be time-sliced and MIG-backed at the same time."""
    for card, on_card in _by_card(card_requests):
        first = on_card[0]
        for request in on_card:
            if request.is_mig_backed is not first.is_mig_backed:
                yield Problem(
                    ProblemKind.MIG_AND_TIME_SLICED,
                    card.address,
                    first=first.requested_type,
                    second=request.requested_type,
                )
                break


def mixed_sizes(card_requests: list[CardRequest]) -> Iterator[Problem]:
    """Find cards whose functions would offer time-sliced types of different framebuffer sizes.

    Unless the card is in mixed-size mode, the driver refuses the second size once a vGPU of the
    first exists.
    """
    for card, names, is_supported in _mixed_size_cards(card_requests):
        if not is_supported:
            kind = ProblemKind.MIXED_SIZES
        elif card.guest_vgpus:
            kind = ProblemKind.MIXED_SIZE_GUESTS
        else:
            kind = ProblemKind.MIXED_SIZE_PENDING
        arguments = {} if kind is ProblemKind.MIXED_SIZE_PENDING else {"vgpu_types": names}
        yield Problem(kind, card.address, **arguments)


def mixed_sizes_of_plain_requests(card_requests: list[CardRequest]) -> Iterator[Problem]:
    """Find the same where plain requests are published anyway."""
    for card, names, _ in _mixed_size_cards(card_requests):
        yield Problem(ProblemKind.MIXED_SIZE_NEEDED, card.address, vgpu_types=names)


def _mixed_size_cards(card_requests: list[CardRequest]) -> Iterator[tuple[Card, str, bool]]:
    """Return cards with types of several sizes, the types, and whether the card supports that."""
    for card, on_card in _by_card(card_requests):
        if card.framework is Framework.VENDOR_VFIO:
            continue
        time_sliced = [
            request for request in on_card if request.is_offered and not request.is_mig_backed
        ]
        sizes = {request.vgpu_type and request.vgpu_type.framebuffer for request in time_sliced}
        mode = card.mode
        is_supported = card.is_sriov and (mode is None or mode.mixed_size is not None)
        is_on = is_supported and mode is not None and bool(mode.mixed_size)
        if len(sizes) > 1 and not is_on:
            yield card, _joined_types(time_sliced), is_supported


def _joined_types(card_requests: Iterable[CardRequest]) -> str:
    return " and ".join(request.requested_type for request in card_requests)


def _by_card(card_requests: list[CardRequest]) -> Iterator[tuple[Card, list[CardRequest]]]:
    for card in {request.card.address: request.card for request in card_requests}.values():
        yield card, [request for request in card_requests if request.card is card]
