# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which cards of a host a request selects, and how much each of them offers to it; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, NamedTuple

from gpu.card import Card, Framework, VgpuType
from gpu.pci import Device, PciAddress, PciId
from planning.mappings import VgpuRequest

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

__all__ = ["CardMatch", "CardRequest", "match_cards", "split_across_cards"]


class CardMatch(NamedTuple):
    """A card that a request selects, and the parents that it selects of it."""

    card: Card
    parents: tuple[PciAddress, ...]
    is_whole_card: bool  # selected as a card, not by single virtual functions


class CardRequest(NamedTuple):
    """A request as it applies to one card.

    Attributes:
        request: the request.
        match: the card.
        vgpu_type: the requested type on this card; None if it is not known yet.
        is_offered: whether the card offers it now.
        is_mig_backed: whether it needs GPU instances.
        limit: the largest number of vGPUs; None for as many as fit.
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
    def requested_type(self) -> str:
        """The requested type, as written."""
        return self.request.vgpu_type

    @property
    def is_plain(self) -> bool:
        """Whether the request is published as it is written; see `VgpuRequest`."""
        return self.request.is_plain

    @property
    def parents(self) -> tuple[PciAddress, ...]:
        """The parents to offer: no more functions than the card has room for vGPUs.

        A card has more virtual functions than room for vGPUs of most types, and each function
        reports room for one: Nova would count them all. Functions with a guest's vGPU stay.
        """
        if self.is_plain and not self.match.is_whole_card:
            return self.match.parents
        count = self.vgpu_count
        if count is None or self.match.parents == (self.card.address,):
            return self.functions
        guests = self.guests
        guests_first = sorted(self.functions, key=lambda parent: parent not in guests)
        chosen = {*guests_first[: max(count, 0)], *guests}
        return tuple(parent for parent in self.functions if parent in chosen)

    @property
    def functions(self) -> tuple[PciAddress, ...]:
        """The selected parents, and those on which guests have the type already."""
        parents, functions = self.match.parents, self.card.gpu.virtual_functions
        others = set(self.guests).intersection(functions).difference(parents)
        return tuple(sorted(others.union(parents))) if others else parents

    @property
    def guests(self) -> tuple[PciAddress, ...]:
        """The parents of the guests' vGPUs of this type, one for each vGPU."""
        lost_types = self.card.lost_types
        ids = {lost.id for lost in lost_types if lost.matches(self.requested_type)}
        if self.vgpu_type is not None:
            ids.add(self.vgpu_type.id)
        return tuple(parent for parent, type_id in self.card.guest_vgpus if type_id in ids)

    @property
    def needs_type_query(self) -> bool:
        """Whether the driver may know the type, but has not been asked yet."""
        card = self.card
        is_known = self.vgpu_type is not None or self.is_mig_backed
        return card.is_sriov and bool(card.parents) and not is_known and not card.types_queried

    @property
    def is_unsupported(self) -> bool:
        """Whether the driver has reported that the card does not support the type."""
        card, mode = self.card, self.card.mode
        if self.is_mig_backed and mode is not None and not mode.supports_mig:
            return True
        if self.vgpu_type is not None or not card.types_queried:
            return False
        known = card.known_types
        has_such_types = any(
            known_type.is_mig_backed is self.is_mig_backed for known_type in known
        )
        return has_such_types and card.find_known_type(self.requested_type) is None

    @property
    def assigned_functions(self) -> tuple[PciAddress, ...]:
        """The functions to which the type is assigned (vendor VFIO)."""
        assigned = dict(self.card.assigned_types)
        type_id = self.vgpu_type.id if self.vgpu_type else ""
        return tuple(function for function in self.functions if assigned.get(function) == type_id)

    @property
    def vgpu_count(self) -> int | None:
        """How many vGPUs the card is to offer; None if the driver does not report it."""
        limits = [self.limit]
        if self.vgpu_type is not None:
            limits += [
                self.vgpu_type.max_instances,
                self.card.gpu_instance_capacity(self.vgpu_type),
            ]
        return min((limit for limit in limits if limit is not None), default=None)


def match_cards(request: VgpuRequest, cards: tuple[Card, ...]) -> tuple[CardMatch, ...]:
    """Return the cards that a request selects."""
    return tuple(_matches(request, cards))


def split_across_cards(
    request: VgpuRequest, matches: tuple[CardMatch, ...]
) -> Iterator[CardRequest]:
    """Split a request's `max_instances` across its cards, in their order.

    Cards that are the parents of their mediated devices get the complete limit each: Nova
    counts such cards as a whole.
    """
    remaining = request.max_instances
    for number, match in enumerate(matches):
        card_request = _request_of(request, match)
        if match.card.is_own_parent:
            yield card_request._replace(limit=request.max_instances)
            continue
        if remaining is not None:
            # What guests have on later cards is not available on this one.
            later = (len(_request_of(request, other).guests) for other in matches[number + 1 :])
            limit = max(remaining - sum(later), len(card_request.guests), 0)
            card_request = card_request._replace(limit=limit)
        yield card_request
        if remaining is not None:
            remaining -= min(remaining, _consumed(card_request))


def _request_of(request: VgpuRequest, match: CardMatch) -> CardRequest:
    card, requested = match.card, request.vgpu_type
    vgpu_type = card.find_type(requested)
    is_mig_backed = card.is_mig_backed_name(requested)
    mig_backed_type = card.find_mig_backed_type(requested) if is_mig_backed else None
    if mig_backed_type is None:
        return CardRequest(request, match, vgpu_type, vgpu_type is not None, is_mig_backed)
    # nvidia-smi reports more about it than sysfs, which may show only another one, with or
    # without a suffix.
    is_offered = any(shown.id == mig_backed_type.id for shown in card.types)
    return CardRequest(request, match, mig_backed_type, is_offered, is_mig_backed)


def _consumed(card_request: CardRequest) -> int:
    """Return how many instances of the request a card leaves less for later cards."""
    if card_request.card.framework is Framework.VENDOR_VFIO and not card_request.is_mig_backed:
        return len(card_request.assigned_functions)
    limit = None if card_request.vgpu_type is None else card_request.vgpu_type.max_instances
    if limit is None:
        return 0
    selected = limit if card_request.match.is_whole_card else len(card_request.functions)
    return min(limit, selected, card_request.limit or 0)


def _matches(request: VgpuRequest, cards: tuple[Card, ...]) -> Iterator[CardMatch]:
    for card in cards:
        if card.address in request.devices or card.gpu.id in request.devices:
            yield CardMatch(card, card.parents or (card.address,), is_whole_card=True)
            continue
        functions = [device for device in request.devices if _is_function(device, card)]
        if functions:
            yield CardMatch(card, tuple(sorted(functions)), is_whole_card=False)


def _is_function(device: Device, card: Card) -> TypeGuard[PciAddress]:
    """Whether a device is a virtual function of a card, or was one before the last boot.

    The addresses of disabled functions cannot be computed; but they are on the card's bus, on
    which no other device could offer vGPUs.
    """
    gpu = card.gpu
    if isinstance(device, PciId):
        return False
    if gpu.virtual_functions or not card.is_sriov or card.framework is not None:
        return device in gpu.virtual_functions
    return device != gpu.address and device.is_on_bus_of(gpu.address)
