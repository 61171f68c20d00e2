# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What guests can request of a host, and how; pure.

Flavor properties: https://docs.openstack.org/nova/latest/configuration/extra-specs.html
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, Sequence

from actions.inventory import CardInventory, card_inventories
from gpu.card import Framework
from gpu.pci import PciId
from gpu.whole_card import WholeCard
from nova_compute.nova_conf import alias
from planning.plan import Assignment
from planning.whole_card_plan import WholeCardOffer
from status.assessment import Assessment

__all__ = ["Offer", "inventories", "offers", "scheduler_filters", "type_text"]


class Offer(NamedTuple):
    """One thing that a guest can request.

    Attributes:
        name: the vGPU type without its brand, `T4-8Q`, or the alias of a whole card.
        title: a description.
        properties: the properties of a flavor that requests one.
        two_properties: the properties of a flavor that requests two; none if Nova cannot.
        available: how many this host has; None if that is unknown.
        needs_uefi: whether the memory of the card is too large for the default machine.
        whole_card_ids: vendor and device ID of a whole card, and of its network function; none
            for a vGPU.
        slug: the name as names of flavors and of Kubernetes' objects are written; unique.
    """

    name: str
    title: str
    properties: tuple[str, ...]
    two_properties: tuple[str, ...]
    available: int | None
    needs_uefi: bool = False
    whole_card_ids: tuple[PciId, ...] = ()
    slug: str = ""


def inventories(assessment: Assessment) -> tuple[CardInventory, ...]:
    """Return the vGPUs that a host offers on each card."""
    facts = assessment.facts
    return () if facts.nova is None else card_inventories(assessment.plan, facts.cards, facts.nova)


def offers(assessment: Assessment) -> tuple[Offer, ...]:
    """Return what guests can request of a host, in the order of its cards and of the options."""
    by_type: dict[Assignment, list[CardInventory]] = {}
    for inventory in inventories(assessment):
        by_type.setdefault(inventory.assignment, []).append(inventory)
    whole_cards = () if assessment.keeps_whole_cards else assessment.whole_cards.offers
    nics = {offer.name: offer for offer in whole_cards if offer.is_nic}
    return _with_slugs(
        [
            *(_vgpu(assignment, on_cards, assessment) for assignment, on_cards in by_type.items()),
            *(
                _whole_card(offer, nics.get(f"{offer.name}-nic"), assessment)
                for offer in whole_cards
                if not offer.is_nic
            ),
        ]
    )


def _with_slugs(found: Sequence[Offer]) -> tuple[Offer, ...]:
    """Name offers; one alias may stand for two models, and names may differ in case only."""
    used: set[str] = set()
    named = []
    for offer in found:
        slug = base = re.sub(r"[^a-z0-9]+", "-", offer.name.lower()).strip("-")
        number = 1
        while slug in used:
            number += 1
            slug = f"{base}-{number}"
        used.add(slug)
        named.append(offer._replace(slug=slug))
    return tuple(named)


def scheduler_filters(aliases: Sequence[str]) -> tuple[str, ...]:
    """Return the filters of the scheduler that some aliases need, besides the default ones.

    Without the second one, the scheduler chooses hosts whose NUMA nodes have no room:
    https://docs.openstack.org/nova/latest/admin/cpu-topologies.html

    Args:
        aliases: as JSON.
    """
    has_policy = any("numa_policy" in json.loads(text) for text in aliases)
    return ("PciPassthroughFilter", *(["NUMATopologyFilter"] if has_policy else []))


def type_text(assignment: Assignment) -> str:
    """Return ID and name of a type, `nvidia-233 (GRID T4-8Q)`."""
    name = f" ({assignment.name})" if assignment.name else ""
    return assignment.type_id + name


def _vgpu(assignment: Assignment, on_cards: list[CardInventory], assessment: Assessment) -> Offer:
    nova, totals = assessment.facts.nova, [item.total for item in on_cards]
    known = [total for total in totals if total is not None]
    if assignment.framework is Framework.VENDOR_VFIO:
        requested = json.loads(alias(assignment, assessment.options))["name"]
        one, two = _alias_properties([requested], assignment.numa_policy)
    else:
        resource = assignment.resource_class or "VGPU"
        one, two = (f"resources:{resource}=1",), ()
        if nova is not None and nova.supports_two_vgpus:
            groups = (f"resources{number}:{resource}=1" for number in (1, 2))
            two = (*groups, "group_policy=none")
    return Offer(
        name=assignment.short_name,
        title=f"vGPU type {type_text(assignment)}",
        properties=one,
        two_properties=two,
        available=sum(known) if len(known) == len(totals) else None,
    )


def _whole_card(
    offer: WholeCardOffer, nic: WholeCardOffer | None, assessment: Assessment
) -> Offer:
    both = (offer,) if nic is None else (offer, nic)
    one, two = _alias_properties([item.name for item in both], offer.numa_policy)
    cards = [card for card in assessment.facts.whole_cards if card.address in offer.addresses]
    return Offer(
        name=offer.name,
        title=" with network function ".join(
            ["whole card " + str(offer.id), *(str(item.id) for item in both[1:])]
        ),
        properties=one,
        two_properties=two,
        available=len(offer.addresses),
        needs_uefi=any(map(_has_large_memory, cards)),
        whole_card_ids=tuple(item.id for item in both),
    )


def _has_large_memory(whole_card: WholeCard) -> bool:
    """Whether a card maps all of its memory, as Ampere and newer ones do."""
    card = whole_card.card
    return card is not None and card.gpu.is_ampere_or_newer


def _alias_properties(
    names: Sequence[str], numa_policy: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the properties that request one device of each alias, and two.

    Nova ignores the policy of a guest that has no NUMA topology:
    _filter_pools_for_numa_cells in nova/pci/stats.py.
    """
    topology = () if numa_policy is None else ("hw:numa_nodes=1",)
    one, two = (
        "pci_passthrough:alias=" + ",".join(f"{name}:{count}" for name in names)
        for count in (1, 2)
    )
    return (one, *topology), (two, *topology)
