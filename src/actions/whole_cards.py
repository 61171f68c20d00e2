# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The whole cards of a host, as show-plan shows them; pure."""

from __future__ import annotations

from actions.output import aligned
from gpu.topology import distance
from gpu.whole_card import WholeCard
from status.assessment import Assessment

__all__ = ["rows", "table"]

_HEADING = (
    "WHOLE CARD", "PCI ID", "DRIVER", "IOMMU GROUP", "NUMA NODE", "GUEST", "ALIAS", "STATE",
)  # fmt: skip


def table(assessment: Assessment) -> str:
    """Return a table; empty if no whole card is requested on this host."""
    whole_cards = assessment.facts.whole_cards
    if not whole_cards:
        return ""
    return aligned([_HEADING, *(_cells(card, assessment) for card in whole_cards)])


def rows(assessment: Assessment) -> list[dict[str, object]]:
    """Return the same as JSON data."""
    return [
        {
            "address": str(card.address),
            "id": str(card.function.id),
            "driver": card.function.driver,
            "iommu_group": card.function.iommu_group,
            "numa_node": card.function.numa_node,
            "device_type": card.function.device_type,
            "distances": {
                str(nic.address): distance(card.function, nic.function).name
                for nic in assessment.facts.whole_cards
                if nic.is_nic and not card.is_nic
            },
            "companions": [str(companion.address) for companion in card.companions],
            "guests": list(card.guests),
            "alias": _alias(card, assessment),
            "ready": card.is_ready,
            "obstacle": card.obstacle.kind.value if card.obstacle else None,
        }
        for card in assessment.facts.whole_cards
    ]


def _cells(card: WholeCard, assessment: Assessment) -> tuple[str, ...]:
    function = card.function
    return (
        str(card.address),
        str(function.id),
        function.driver or "-",
        function.iommu_group or "-",
        "-" if function.numa_node is None else str(function.numa_node),
        ", ".join(card.guests) or "-",
        _alias(card, assessment) or "-",
        _state(card, assessment),
    )


def _state(card: WholeCard, assessment: Assessment) -> str:
    plan = assessment.whole_cards
    if card.obstacle is not None:
        return card.obstacle.kind.value
    offered = {address for offer in plan.later_offers for address in offer.addresses}
    if assessment.facts.nova is not None and card.address not in offered:
        reasons = (note.kind.value for note in plan.notes if note.address == card.address)
        return next(reasons, "not offered")
    if card.is_ready:
        return "ready"
    return "to be bound" if card.address in plan.to_bind else "not bound"


def _alias(card: WholeCard, assessment: Assessment) -> str | None:
    """Return the name under which a card is offered, or would be."""
    for request in assessment.whole_cards.requests:
        devices = request.nics if card.is_nic else request.devices
        if card.address in devices or card.function.id in devices:
            return request.nic_name if card.is_nic else request.name
    return None
