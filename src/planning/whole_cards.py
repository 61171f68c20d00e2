# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Derives which whole cards a host offers from the requests and its devices; pure."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, NamedTuple

from gpu.pci import PciAddress, PciId
from gpu.problems import Problem, ProblemKind
from gpu.whole_card import WholeCard
from planning import passthrough
from planning.card_requests import match_cards
from planning.mappings import VgpuRequest
from planning.passthrough import PassthroughRequest

__all__ = ["WholeCardOffer", "WholeCardPlan", "plan_whole_cards"]


class WholeCardOffer(NamedTuple):
    """The cards of one model under one name, ready to be published to Nova.

    Attributes:
        name: the name of the PCI alias.
        id: their vendor and device ID.
        device_type: Nova's device_type, `type-PCI`, `type-PF` or `type-VF`.
        addresses: the cards.
        numa_policy: Nova's numa_policy; None for its default.
        resource_class: the requested class in placement; None if none was requested.
    """

    name: str
    id: PciId
    device_type: str
    addresses: tuple[PciAddress, ...]
    numa_policy: str | None = None
    resource_class: str | None = None


class WholeCardPlan(NamedTuple):
    """The whole cards of a host.

    Attributes:
        requests: the requests that select something on this host.
        offers: in the order of the option; all are published, or none if there are problems.
        later_offers: the same once all cards are bound that can be.
        problems: what is wrong with the option on this host. What is published then stays, and
            no driver is changed.
        notes: why single cards are not offered.
        to_bind: the cards that vfio-pci must be bound to first.
        to_return: the functions that go back to their own driver.
        for_other_hosts: requests that select nothing on this host.
    """

    requests: tuple[PassthroughRequest, ...] = ()
    offers: tuple[WholeCardOffer, ...] = ()
    later_offers: tuple[WholeCardOffer, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    to_bind: tuple[PciAddress, ...] = ()
    to_return: tuple[PciAddress, ...] = ()
    for_other_hosts: tuple[PassthroughRequest, ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether a driver is to be changed."""
        return bool(self.to_bind or self.to_return)

    def with_problems(self, problems: Iterable[Problem]) -> WholeCardPlan:
        """Return the plan with more problems, which keep everything as it is."""
        problems = tuple(dict.fromkeys((*self.problems, *problems)))
        return self._replace(problems=problems, to_bind=(), to_return=()) if problems else self

    def without_notes_on(self, addresses: Iterable[PciAddress | None]) -> WholeCardPlan:
        """Return the plan without notes on cards of which more is known."""
        known = frozenset(addresses)
        notes = tuple(note for note in self.notes if note.address not in known)
        return self._replace(notes=notes)


def plan_whole_cards(
    requests: tuple[PassthroughRequest, ...],
    whole_cards: tuple[WholeCard, ...],
    vgpu_requests: tuple[VgpuRequest, ...],
    to_return: tuple[PciAddress, ...] = (),
) -> WholeCardPlan:
    """Match requests with the devices of a host.

    A card that cannot be given away does not keep the others from being offered.

    Args:
        requests: the requests for whole cards.
        whole_cards: the devices of this host that they select.
        vgpu_requests: the requests for vGPUs, which must not select the same cards.
        to_return: the functions that no request selects any more; see `HostFacts`.
    """
    selected = {request: _select(request, whole_cards) for request in requests}
    plan = WholeCardPlan(
        requests=tuple(request for request in requests if selected[request]),
        offers=_offers(selected, lambda card: card.is_ready),
        later_offers=_offers(selected, lambda card: card.obstacle is None),
        notes=tuple(filter(None, map(_reason_not_offered, whole_cards))),
        to_bind=tuple(
            card.address for card in whole_cards if card.obstacle is None and not card.is_ready
        ),
        to_return=to_return,
        for_other_hosts=tuple(request for request in requests if not selected[request]),
    )
    return plan.with_problems([*_named_twice(selected), *_in_both(selected, vgpu_requests)])


def _select(
    request: PassthroughRequest, whole_cards: tuple[WholeCard, ...]
) -> tuple[WholeCard, ...]:
    return tuple(
        card
        for card in whole_cards
        if card.address in request.devices or card.function.id in request.devices
    )


def _offers(
    selected: dict[PassthroughRequest, tuple[WholeCard, ...]],
    is_offered: Callable[[WholeCard], bool],
) -> tuple[WholeCardOffer, ...]:
    return tuple(
        offer
        for request, cards in selected.items()
        for offer in _offers_of(request, filter(is_offered, cards))
    )


def _offers_of(
    request: PassthroughRequest, cards: Iterable[WholeCard]
) -> Iterator[WholeCardOffer]:
    """Return the cards of a request, by model and type: one alias for each."""
    models: dict[tuple[PciId, str], list[PciAddress]] = {}
    for card in cards:
        model = (card.function.id, card.function.device_type)
        models.setdefault(model, []).append(card.address)
    for (pci_id, device_type), addresses in models.items():
        yield WholeCardOffer(
            name=request.name,
            id=pci_id,
            device_type=device_type,
            addresses=tuple(addresses),
            numa_policy=request.numa_policy,
            resource_class=request.resource_class,
        )


def _reason_not_offered(card: WholeCard) -> Problem | None:
    if card.obstacle is not None or card.is_ready:
        return card.obstacle
    return Problem(ProblemKind.BINDING_PENDING, card.address)


def _named_twice(
    selected: dict[PassthroughRequest, tuple[WholeCard, ...]],
) -> Iterator[Problem]:
    owners: dict[PciAddress, str] = {}
    for request, cards in selected.items():
        for card in cards:
            first = owners.setdefault(card.address, request.name)
            if first != request.name:
                yield Problem(
                    ProblemKind.DEVICE_MAPPED_TWICE,
                    option=passthrough.OPTION.name,
                    device=str(card.address),
                    first=first,
                    second=request.name,
                )


def _in_both(
    selected: dict[PassthroughRequest, tuple[WholeCard, ...]],
    vgpu_requests: tuple[VgpuRequest, ...],
) -> Iterator[Problem]:
    """Find cards that are to be divided and to be given away whole."""
    for request, cards in selected.items():
        gpus = tuple(card.card for card in cards if card.card is not None)
        for vgpu_request in vgpu_requests:
            for match in match_cards(vgpu_request, gpus):
                yield Problem(
                    ProblemKind.DEVICE_IN_BOTH_OPTIONS,
                    match.card.address,
                    vgpu_type=vgpu_request.vgpu_type,
                    name=request.name,
                )
