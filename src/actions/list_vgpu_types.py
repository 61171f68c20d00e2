# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The result of the action list-vgpu-types; pure."""

from __future__ import annotations

import json
from typing import Iterable, Iterator

from actions.output import truncate_to_result
from gpu.card import Card, VgpuType, type_number

__all__ = ["types_json", "types_text"]


def types_text(cards: Iterable[Card]) -> str:
    """Return `id, address, name, description`, a line for each type of each card."""
    lines = []
    for card, vgpu_type in _all_types(cards):
        fields = (vgpu_type.id, str(card.address), vgpu_type.name, vgpu_type.description)
        lines.append(", ".join(filter(None, fields)))
    return truncate_to_result("\n".join(lines))


def types_json(cards: Iterable[Card]) -> str:
    """Return the same with framebuffer (MiB), framework, kind, free and maximum instances."""
    rows = [
        {
            "id": vgpu_type.id,
            "address": str(card.address),
            "name": vgpu_type.name,
            "framebuffer": vgpu_type.framebuffer,
            "framework": card.framework.value if card.framework else None,
            "mig_backed": vgpu_type.is_mig_backed,
            "free": vgpu_type.available_instances,
            "maximum": vgpu_type.max_instances,
        }
        for card, vgpu_type in _all_types(cards)
    ]
    return json.dumps(rows)


def _all_types(cards: Iterable[Card]) -> Iterator[tuple[Card, VgpuType]]:
    """Return the types of each card, including those that need another partitioning."""
    for card in cards:
        shown = {vgpu_type.id for vgpu_type in card.types}
        hidden = [
            vgpu_type._replace(available_instances=0)
            for vgpu_type in card.known_types
            if vgpu_type.id not in shown
        ]
        types = sorted((*card.types, *hidden), key=lambda listed: type_number(listed.id) or 0)
        for vgpu_type in types:
            yield card, vgpu_type
