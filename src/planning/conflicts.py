# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a card cannot be at once, and what its guests hold it to; pure."""

from __future__ import annotations

from fractions import Fraction
from typing import Iterator

from gpu.card import Card, Framework
from gpu.problems import Kind, Problem
from planning.card_requests import Share

__all__ = ["few_functions", "mixed_sizes", "overfull", "two_kinds", "types_in_use"]


def types_in_use(shares: list[Share], cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find cards whose guests have a type that they would no longer offer.

    nova-compute would refuse to start after the next boot (InvalidLibvirtMdevConfig).
    """
    for card in cards:
        mine = [share for share in shares if share.card is card]
        # The driver has not been asked yet: the type in use may well be what is asked for.
        if any(share.is_unasked for share in mine):
            continue
        here = {share.vgpu_type.id for share in mine if share.vgpu_type is not None}
        if card.framework is None:  # it tells nothing yet, after a boot, but its guests had a type
            words = [share.request.vgpu_type for share in mine]
            here |= {owed.id for owed in card.owed if any(map(owed.is_called, words))}
        for type_id in card.types_in_use:
            if type_id not in here:
                yield Problem(Kind.TYPE_IN_USE, str(card.gpu.address), type_id)


def overfull(shares: list[Share]) -> Iterator[Problem]:
    """Find cards whose functions are given more vGPUs than the card holds.

    In mixed-size mode it may hold even fewer, which the driver alone knows.
    """
    for card, mine in _by_card(shares):
        if card.framework is Framework.VENDOR_VFIO:  # see limits: one type a card
            continue
        wished = [share for share in mine if not share.request.is_plain and share.is_offered]
        parts = [
            Fraction(len(share.parents), share.vgpu_type.maximum)
            for share in wished
            if share.vgpu_type and share.vgpu_type.maximum and not share.is_mig_backed
        ]
        if len(parts) > 1 and sum(parts) > 1:
            words = " and ".join(share.request.vgpu_type for share in wished)
            yield Problem(Kind.CARD_OVERFULL, str(card.gpu.address), words)


def few_functions(shares: list[Share]) -> Iterator[Problem]:
    """Find cards that have fewer virtual functions than they could hold vGPUs.

    sriov-manage may enable but some of them.
    """
    for share in shares:
        known, parents = share.vgpu_type, share.card.parents
        is_on_functions = share.target.whole and share.card.is_sriov and bool(parents)
        if known is None or known.maximum is None or not is_on_functions:
            continue
        wanted = known.maximum if share.limit is None else min(known.maximum, share.limit)
        if len(parents) < wanted:
            words = (str(len(parents)), share.request.vgpu_type)
            yield Problem(Kind.FEW_FUNCTIONS, str(share.card.gpu.address), *words)


def two_kinds(shares: list[Share]) -> Iterator[Problem]:
    """Find cards that are asked to be time-sliced and MIG-backed at once."""
    for card, mine in _by_card(shares):
        for share in mine:
            if share.is_mig_backed is not mine[0].is_mig_backed:
                words = (mine[0].request.vgpu_type, share.request.vgpu_type)
                yield Problem(Kind.TWO_KINDS, str(card.gpu.address), *words)
                break


def mixed_sizes(shares: list[Share], is_plain: bool) -> Iterator[Problem]:
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
            yield Problem(Kind.SIZES_TOLD, str(card.gpu.address), words)
        elif can_be:
            kind = Kind.MIXED_SIZE_GUESTS if card.held else Kind.MIXED_SIZE_WAITS
            yield Problem(kind, str(card.gpu.address), words)
        else:
            yield Problem(Kind.MIXED_SIZES, str(card.gpu.address), words)


def _by_card(shares: list[Share]) -> Iterator[tuple[Card, list[Share]]]:
    for card in {share.card.gpu.address: share.card for share in shares}.values():
        yield card, [share for share in shares if share.card is card]
