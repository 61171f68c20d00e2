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

__all__ = ["Share", "Target", "find_targets", "share_out"]


class Target(NamedTuple):
    """A card that a request names, and through which of its parents."""

    card: Card
    parents: tuple[PciAddress, ...]
    whole: bool  # named as a card, not by single virtual functions


class Share(NamedTuple):
    """What one card has to give to a request.

    Attributes:
        request: what is asked for.
        target: the card.
        vgpu_type: what the type is here; None if nobody knows it yet.
        is_offered: whether the card offers it now.
        is_mig_backed: whether it needs GPU instances.
        limit: at most so many vGPUs; None for as many as the card holds.
    """

    request: VgpuRequest
    target: Target
    vgpu_type: VgpuType | None
    is_offered: bool
    is_mig_backed: bool
    limit: int | None = None

    @property
    def card(self) -> Card:
        """The card."""
        return self.target.card

    @property
    def parents(self) -> tuple[PciAddress, ...]:
        """The parents to offer: no more functions than the card holds vGPUs.

        A card has more virtual functions than it holds vGPUs of most types, and each of them
        says that it has room for one: Nova would count them all. Those that have a vGPU stay.
        """
        target, number = self.target, self.number
        if self.request.is_plain and not target.whole:
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
        parents, functions = self.target.parents, self.card.gpu.virtual_functions
        others = set(self.guests).intersection(functions).difference(parents)
        return tuple(sorted(others.union(parents))) if others else parents

    @property
    def guests(self) -> tuple[PciAddress, ...]:
        """The parents of the vGPUs that guests have of the type, one for each."""
        ids = {owed.id for owed in self.card.owed if owed.is_called(self.request.vgpu_type)}
        if self.vgpu_type is not None:
            ids.add(self.vgpu_type.id)
        return tuple(parent for parent, type_id in self.card.held if type_id in ids)

    @property
    def is_unasked(self) -> bool:
        """Whether the driver, which may well know the type, was not asked for it yet."""
        card = self.card
        is_known = self.vgpu_type is not None or self.is_mig_backed
        is_asked = card.is_told or (card.mode is not None and card.mode.is_asked)
        return card.is_sriov and bool(card.parents) and not is_known and not is_asked

    @property
    def is_impossible(self) -> bool:
        """Whether the driver has said that the card cannot be that."""
        card, mode, word = self.card, self.card.mode, self.request.vgpu_type
        if self.is_mig_backed and mode is not None and not mode.has_mig:
            return True
        if self.vgpu_type is not None or not (card.is_told or (mode and mode.is_asked)):
            return False
        told = any(known.is_mig_backed is self.is_mig_backed for known in card.told)
        return told and card.find_told(word) is None

    @property
    def carrying(self) -> tuple[PciAddress, ...]:
        """The functions that carry the type (vendor VFIO)."""
        carried = dict(self.card.carried)
        type_id = self.vgpu_type.id if self.vgpu_type else ""
        return tuple(each for each in self.functions if carried.get(each) == type_id)

    @property
    def number(self) -> int | None:
        """How many vGPUs the card is to offer; None if the driver does not say."""
        card, known = self.card, self.vgpu_type
        told = [known.maximum if known is not None else None, self.limit]
        if known is not None and known.profile is not None and card.mode is not None:
            told.append(card.mode.instances.count(known.profile) * known.per_instance)
        numbers = [each for each in told if each is not None]
        return min(numbers) if numbers else None


def find_targets(request: VgpuRequest, cards: tuple[Card, ...]) -> tuple[Target, ...]:
    """Return the cards that a request names."""
    return tuple(_targets(request, cards))


def share_out(request: VgpuRequest, targets: Iterable[Target]) -> Iterator[Share]:
    """Share a request's instances out among its cards, those first that come first.

    Cards that are themselves parents of mediated devices are left to Nova, which counts them
    whole.
    """
    room = request.max_instances
    targets = tuple(targets)
    for number, target in enumerate(targets):
        share = _share(request, target)
        if target.card.parents == (target.card.gpu.address,):
            yield share._replace(limit=request.max_instances)
            continue
        if room is not None:  # what guests have on the cards that follow is not to be had here
            later = (len(_share(request, other).guests) for other in targets[number + 1 :])
            share = share._replace(limit=max(room - sum(later), len(share.guests), 0))
        yield share
        if room is not None:
            room -= min(room, _taken(share))


def _share(request: VgpuRequest, target: Target) -> Share:
    card, word = target.card, request.vgpu_type
    known = card.find_type(word)
    is_mig_backed = card.means_mig_backed(word)
    dormant = card.find_mig_type(word) if is_mig_backed else None
    if dormant is None:
        return Share(request, target, known, known is not None, is_mig_backed)
    # nvidia-smi tells more of it than sysfs, which may show but another, with a suffix or without
    is_offered = any(shown.id == dormant.id for shown in card.types)
    return Share(request, target, dormant, is_offered, is_mig_backed)


def _taken(share: Share) -> int:
    """Return how many of a request's instances a card takes from those that follow."""
    if share.card.framework is Framework.VENDOR_VFIO and not share.is_mig_backed:
        return len(share.carrying)
    known = share.vgpu_type
    if known is None or known.maximum is None:
        return 0
    named = known.maximum if share.target.whole else len(share.functions)
    return min(known.maximum, named, share.limit or 0)


def _targets(request: VgpuRequest, cards: tuple[Card, ...]) -> Iterator[Target]:
    for card in cards:
        named: Iterable[Device] = (card.gpu.address, card.gpu.id)
        if any(device in request.devices for device in named):
            yield Target(card, card.parents or (card.gpu.address,), whole=True)
            continue
        functions = [device for device in request.devices if _is_function(device, card)]
        if functions:
            yield Target(card, tuple(sorted(functions)), whole=False)


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
