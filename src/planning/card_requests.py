# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which cards of a host a request names, and what each of them has to give to it; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple

from gpu.card import Card, Framework, VgpuType
from host.gpus import PciAddress, PciId
from planning.mappings import Device, VgpuRequest

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

__all__ = ["CardMatch", "CardRequest", "match_cards", "split_across_cards"]


class CardMatch(NamedTuple):
    """A card that a request names, and through which of its parents."""

    card: Card
    parents: tuple[PciAddress, ...]
    is_whole_card: bool  # named as a card, not by single virtual functions


class CardRequest(NamedTuple):
    """What one card has to give to a request.

    Attributes:
        request: what is asked for.
        match: the card.
        vgpu_type: what the type is here; None if nobody knows it yet.
        is_offered: whether the card offers it now.
        is_mig_backed: whether it needs GPU instances.
        limit: at most so many vGPUs; None for as many as the card holds.
    """

    request: VgpuRequest
    match: CardMatch
    vgpu_type: VgpuType | None
    is_offered: bool
    is_mig_backed: bool
    limit: int | None = None

    @property
    def card(self) -> Card:
        """The card."""
        return self.match.card

    @property
    def parents(self) -> tuple[PciAddress, ...]:
        """The parents to offer: no more functions than the card holds vGPUs.

        A card has more virtual functions than it holds vGPUs of most types, and each of them
        says that it has room for one: Nova would count them all. Those that have a vGPU stay.
        """
        target, number = self.match, self.vgpu_count
        if self.request.is_plain and not target.is_whole_card:
            return target.parents
        if number is None or target.parents == (self.card.gpu.address,):
            return self.functions
        guests = self.guests
        first = sorted(self.functions, key=lambda parent: parent not in guests)
        chosen = {*first[: max(number, 0)], *guests}
        return tuple(parent for parent in self.functions if parent in chosen)

    @property
    def functions(self) -> tuple[PciAddress, ...]:
        """The parents that are named, and those on which guests have the type already."""
        parents, functions = self.match.parents, self.card.gpu.virtual_functions
        others = set(self.guests).intersection(functions).difference(parents)
        return tuple(sorted(others.union(parents))) if others else parents

    @property
    def guests(self) -> tuple[PciAddress, ...]:
        """The parents of the vGPUs that guests have of the type, one for each."""
        ids = {owed.id for owed in self.card.lost_types if owed.matches(self.request.vgpu_type)}
        if self.vgpu_type is not None:
            ids.add(self.vgpu_type.id)
        return tuple(parent for parent, type_id in self.card.guest_vgpus if type_id in ids)

    @property
    def needs_type_query(self) -> bool:
        """Whether the driver, which may well know the type, was not asked for it yet."""
        card = self.card
        is_known = self.vgpu_type is not None or self.is_mig_backed
        is_asked = card.known_types_complete or (card.mode is not None and card.mode.types_queried)
        return card.is_sriov and bool(card.parents) and not is_known and not is_asked

    @property
    def is_unsupported(self) -> bool:
        """Whether the driver has said that the card cannot be that."""
        card, mode, word = self.card, self.card.mode, self.request.vgpu_type
        if self.is_mig_backed and mode is not None and not mode.supports_mig:
            return True
        if self.vgpu_type is not None or not (
            card.known_types_complete or (mode and mode.types_queried)
        ):
            return False
        told = any(known.is_mig_backed is self.is_mig_backed for known in card.known_types)
        return told and card.find_known_type(word) is None

    @property
    def assigned_functions(self) -> tuple[PciAddress, ...]:
        """The functions that carry the type (vendor VFIO)."""
        carried = dict(self.card.assigned_types)
        type_id = self.vgpu_type.id if self.vgpu_type else ""
        return tuple(each for each in self.functions if carried.get(each) == type_id)

    @property
    def vgpu_count(self) -> int | None:
        """How many vGPUs the card is to offer; None if the driver does not say."""
        card, known = self.card, self.vgpu_type
        told = [known.max_instances if known is not None else None, self.limit]
        if known is not None and known.gpu_instance_profile is not None and card.mode is not None:
            told.append(
                card.mode.gpu_instances.count(known.gpu_instance_profile)
                * known.vgpus_per_gpu_instance
            )
        numbers = [each for each in told if each is not None]
        return min(numbers) if numbers else None


def match_cards(request: VgpuRequest, cards: tuple[Card, ...]) -> tuple[CardMatch, ...]:
    """Return the cards that a request names."""
    return tuple(_matches(request, cards))


def split_across_cards(
    request: VgpuRequest, targets: Iterable[CardMatch]
) -> Iterator[CardRequest]:
    """Share a request's instances out among its cards, those first that come first.

    Cards that are themselves parents of mediated devices are left to Nova, which counts them
    whole.
    """
    room = request.max_instances
    targets = tuple(targets)
    for number, target in enumerate(targets):
        share = _request_of(request, target)
        if target.card.parents == (target.card.gpu.address,):
            yield share._replace(limit=request.max_instances)
            continue
        if room is not None:  # what guests have on the cards that follow is not to be had here
            later = (len(_request_of(request, other).guests) for other in targets[number + 1 :])
            share = share._replace(limit=max(room - sum(later), len(share.guests), 0))
        yield share
        if room is not None:
            room -= min(room, _consumed(share))


def _request_of(request: VgpuRequest, target: CardMatch) -> CardRequest:
    card, word = target.card, request.vgpu_type
    known = card.find_type(word)
    is_mig_backed = card.is_mig_backed_name(word)
    dormant = card.find_mig_backed_type(word) if is_mig_backed else None
    if dormant is None:
        return CardRequest(request, target, known, known is not None, is_mig_backed)
    # nvidia-smi tells more of it than sysfs, which may show but another, with a suffix or without
    is_offered = any(shown.id == dormant.id for shown in card.types)
    return CardRequest(request, target, dormant, is_offered, is_mig_backed)


def _consumed(share: CardRequest) -> int:
    """Return how many of a request's instances a card takes from those that follow."""
    if share.card.framework is Framework.VENDOR_VFIO and not share.is_mig_backed:
        return len(share.assigned_functions)
    known = share.vgpu_type
    if known is None or known.max_instances is None:
        return 0
    named = known.max_instances if share.match.is_whole_card else len(share.functions)
    return min(known.max_instances, named, share.limit or 0)


def _matches(request: VgpuRequest, cards: tuple[Card, ...]) -> Iterator[CardMatch]:
    for card in cards:
        named: Iterable[Device] = (card.gpu.address, card.gpu.id)
        if any(device in request.devices for device in named):
            yield CardMatch(card, card.parents or (card.gpu.address,), is_whole_card=True)
            continue
        functions = [device for device in request.devices if _is_function(device, card)]
        if functions:
            yield CardMatch(card, tuple(sorted(functions)), is_whole_card=False)


def _is_function(device: Device, card: Card) -> TypeGuard[PciAddress]:
    """Whether a device is a virtual function of a card, or was one before the last boot.

    Where the card would have it cannot be computed; but it shares the card's bus, as no device
    beside the card does that could carry vGPUs.
    """
    gpu = card.gpu
    if isinstance(device, PciId):
        return False
    if gpu.virtual_functions or not card.is_sriov or card.framework is not None:
        return device in gpu.virtual_functions
    return device != gpu.address and device[:2] == gpu.address[:2]
