# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The answer of the action list-vgpu-types; pure."""

from __future__ import annotations

import json
from typing import Iterable

from actions.output import truncate_to_result
from gpu.card import Card, VgpuType, type_number

__all__ = ["types_json", "types_text"]


def types_text(cards: Iterable[Card]) -> str:
    """Return `id, address, name, description`, a line for each type of each card."""
    return truncate_to_result(
        "\n".join(
            ", ".join(
                filter(None, (known.id, str(card.gpu.address), known.name, known.description))
            )
            for card in cards
            for known in _all_types(card)
        )
    )


def types_json(cards: Iterable[Card]) -> str:
    """Return the same with framebuffer (MiB), framework, kind, free and maximum instances."""
    rows = [
        {
            "id": known.id,
            "address": str(card.gpu.address),
            "name": known.name,
            "framebuffer": known.framebuffer,
            "framework": card.framework.value if card.framework else None,
            "mig_backed": known.is_mig_backed,
            "free": known.available_instances,
            "maximum": known.max_instances,
        }
        for card in cards
        for known in _all_types(card)
    ]
    return json.dumps(rows)


def _all_types(card: Card) -> list[VgpuType]:
    """Return a card's types, those among them that it would have to be parted for first."""
    shown = {known.id for known in card.types}
    hidden = [
        known._replace(available_instances=0)
        for known in card.known_types
        if known.id not in shown
    ]
    return sorted((*card.types, *hidden), key=lambda known: type_number(known.id) or 0)
