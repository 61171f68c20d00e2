# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a card cannot be at once, and what its guests hold it to; pure."""

from __future__ import annotations

from fractions import Fraction
from typing import Iterator

from gpu.card import Card, Framework
from gpu.problems import Problem, ProblemKind
from planning.card_requests import CardRequest

__all__ = [
    "mig_and_time_sliced",
    "mixed_sizes",
    "oversubscribed_cards",
    "too_few_functions",
    "types_in_use",
]


def types_in_use(shares: list[CardRequest], cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find cards whose guests have a type that they would no longer offer.

    nova-compute would refuse to start after the next boot (InvalidLibvirtMdevConfig).
    """
    for card in cards:
        mine = [share for share in shares if share.card is card]
        # The driver has not been asked yet: the type in use may well be what is asked for.
        if any(share.needs_type_query for share in mine):
            continue
        here = {share.vgpu_type.id for share in mine if share.vgpu_type is not None}
        if card.framework is None:  # it tells nothing yet, after a boot, but its guests had a type
            words = [share.request.vgpu_type for share in mine]
            here |= {owed.id for owed in card.lost_types if any(map(owed.matches, words))}
        for type_id in card.guest_type_ids:
            if type_id not in here:
                yield Problem(ProblemKind.GUESTS_USE_OTHER_TYPE, str(card.gpu.address), type_id)


def oversubscribed_cards(shares: list[CardRequest]) -> Iterator[Problem]:
    """Find cards whose functions are given more vGPUs than the card holds.

    In mixed-size mode it may hold even fewer, which the driver alone knows.
    """
    for card, mine in _by_card(shares):
        if card.framework is Framework.VENDOR_VFIO:  # see limits: one type a card
            continue
        wished = [share for share in mine if not share.request.is_plain and share.is_offered]
        parts = [
            Fraction(len(share.parents), share.vgpu_type.max_instances)
            for share in wished
            if share.vgpu_type and share.vgpu_type.max_instances and not share.is_mig_backed
        ]
        if len(parts) > 1 and sum(parts) > 1:
            words = " and ".join(share.request.vgpu_type for share in wished)
            yield Problem(ProblemKind.CARD_OVERSUBSCRIBED, str(card.gpu.address), words)


def too_few_functions(shares: list[CardRequest]) -> Iterator[Problem]:
    """Find cards that have fewer virtual functions than they could hold vGPUs.

    sriov-manage may enable but some of them.
    """
    for share in shares:
        known, parents = share.vgpu_type, share.card.parents
        is_on_functions = share.match.is_whole_card and share.card.is_sriov and bool(parents)
        if known is None or known.max_instances is None or not is_on_functions:
            continue
        wanted = (
            known.max_instances if share.limit is None else min(known.max_instances, share.limit)
        )
        if len(parents) < wanted:
            words = (str(len(parents)), share.request.vgpu_type)
            yield Problem(ProblemKind.TOO_FEW_FUNCTIONS, str(share.card.gpu.address), *words)


def mig_and_time_sliced(shares: list[CardRequest]) -> Iterator[Problem]:
    """Find cards that are asked to be time-sliced and MIG-backed at once."""
    for card, mine in _by_card(shares):
        for share in mine:
            if share.is_mig_backed is not mine[0].is_mig_backed:
                words = (mine[0].request.vgpu_type, share.request.vgpu_type)
                yield Problem(ProblemKind.MIG_AND_TIME_SLICED, str(card.gpu.address), *words)
                break


def mixed_sizes(shares: list[CardRequest], is_plain: bool) -> Iterator[Problem]:
    """Find cards whose functions would offer time-sliced types of different framebuffer sizes.

    Unless it is in mixed-size mode, the driver refuses the second size once a vGPU of the first
    exists.
    """
    for card, mine in _by_card(shares):
        if card.framework is Framework.VENDOR_VFIO:
            continue
        time_sliced = [share for share in mine if share.is_offered and not share.is_mig_backed]
        if len({share.vgpu_type and share.vgpu_type.framebuffer for share in time_sliced}) < 2:
            continue
        words = " and ".join(share.request.vgpu_type for share in time_sliced)
        can_be = card.is_sriov and (card.mode is None or card.mode.mixed_size is not None)
        if can_be and card.mode is not None and card.mode.mixed_size:
            continue
        if is_plain:
            yield Problem(ProblemKind.MIXED_SIZE_NEEDED, str(card.gpu.address), words)
        elif can_be:
            kind = (
                ProblemKind.MIXED_SIZE_GUESTS
                if card.guest_vgpus
                else ProblemKind.MIXED_SIZE_PENDING
            )
            yield Problem(kind, str(card.gpu.address), words)
        else:
            yield Problem(ProblemKind.MIXED_SIZES, str(card.gpu.address), words)


def _by_card(shares: list[CardRequest]) -> Iterator[tuple[Card, list[CardRequest]]]:
    for card in {share.card.gpu.address: share.card for share in shares}.values():
        yield card, [share for share in shares if share.card is card]
