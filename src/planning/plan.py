# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Derives what a host offers from the requests and its cards; pure."""

from __future__ import annotations

from typing import Iterator, NamedTuple

from gpu.card import Card, Framework
from gpu.pci import NOVA_MAX_DOMAIN, PciAddress, PciId
from gpu.problems import Problem, ProblemKind
from planning import conflicts, mappings
from planning.card_requests import CardMatch, CardRequest, match_cards, split_across_cards
from planning.mappings import VgpuRequest
from planning.preparation import Preparation, plan_preparation

__all__ = ["Assignment", "Plan", "make_plan"]


class Assignment(NamedTuple):
    """One vGPU type, ready to be published to Nova.

    Attributes:
        type_id: Nova's name for it, `nvidia-233`.
        addresses: the parents that offer it. Those of a plain request are all that it lists, on
            whatever host they are, so that all hosts of a fleet publish the same value.
        cards: the cards of this host that offer it.
        name: NVIDIA's name for it, if this host knows it.
        max_instances: the limit on this host.
        resource_class: the class in placement; None for Nova's default, VGPU.
        numa_policy: Nova's numa_policy (vendor VFIO); None for its default.
        framework: how it is published to Nova.
        function_id: vendor and device ID of its virtual functions (vendor VFIO).
    """

    type_id: str
    addresses: tuple[PciAddress, ...]
    cards: tuple[PciAddress, ...] = ()
    name: str | None = None
    max_instances: int | None = None
    resource_class: str | None = None
    numa_policy: str | None = None
    framework: Framework = Framework.MDEV
    function_id: PciId | None = None

    @property
    def short_name(self) -> str:
        """The last word of the type's name, `L40S-8Q`; its ID if it has none."""
        return ((self.name or "").split() or [self.type_id])[-1]

    @property
    def title(self) -> str:
        """The type's ID and, if this host knows it, its name: `nvidia-233 (T4-8Q)`."""
        return self.type_id if self.name is None else f"{self.type_id} ({self.short_name})"


class Plan(NamedTuple):
    """What this host is to offer.

    Attributes:
        assignments: in the order of the option; all are published, or none if `keeps_published`.
        problems: why something is not offered.
        notes: what else the operator should know.
        preparation: what must be prepared on the cards first.
        for_other_hosts: requests that select no GPU of this host.
        keeps_published: whether what is published stays, since the mapping is wrong or unclear.
    """

    assignments: tuple[Assignment, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    preparation: Preparation = Preparation()
    for_other_hosts: tuple[VgpuRequest, ...] = ()
    keeps_published: bool = False


class _Outcome(NamedTuple):
    """The assignments, problems and notes that are collected from the requests."""

    assignments: list[Assignment]
    problems: list[Problem]
    notes: list[Problem]


def make_plan(
    requests: tuple[VgpuRequest, ...], cards: tuple[Card, ...], *, has_other_cards: bool = False
) -> Plan:
    """Match requests with the cards of a host.

    On a host without a card every plain request is published as it is written. On a host whose
    cards no request selects, nothing is published, since some releases of Nova would use those
    cards; but a mapping, which may have a typing error, does not withdraw what guests have. A card
    that cannot be offered does not prevent the others from being offered.

    Args:
        requests: the requests for vGPUs.
        cards: the cards for vGPUs.
        has_other_cards: whether the host has cards that are given away whole.
    """
    if not cards and not has_other_cards:
        plain = tuple(_verbatim(request) for request in requests if request.is_plain)
        others = tuple(request for request in requests if not request.is_plain)
        return Plan(plain, for_other_hosts=others)
    selected = {request: match_cards(request, cards) for request in requests}
    excluded = {card: reason for card in cards for reason in _obstacles(card)}
    cards = tuple(card for card in cards if card not in excluded)
    matches = {
        request: tuple(match for match in selected[request] if match.card in cards)
        for request in requests
    }
    for_other_hosts = tuple(request for request in requests if not selected[request])
    mapped = {match.card.address for matches in selected.values() for match in matches}
    unmapped = tuple(card for card in excluded if card.address not in mapped)
    excluded = {card: excluded[card] for card in excluded if card.address in mapped}
    left_out = tuple(excluded.values())
    # Nova keeps what guests have: it may not start once a type of theirs is gone.
    keeps_published = any(card.guest_vgpus for card in excluded)
    if not any(matches.values()):
        preparation = plan_preparation([], cards)
        if not requests:
            left_out += tuple(conflicts.types_without_request((*cards, *unmapped)))
            return Plan((), (), left_out, preparation, keeps_published=keeps_published)
        in_use = tuple(conflicts.types_in_use([], (*cards, *unmapped)))
        keeps_published |= bool(in_use)
        return Plan((), in_use, left_out, preparation, for_other_hosts, keeps_published)
    card_requests = [
        card_request
        for request in requests
        for card_request in split_across_cards(request, matches[request])
    ]
    outcome = _assign(requests, matches, card_requests)
    in_use = tuple(conflicts.types_in_use(card_requests, (*cards, *unmapped)))
    problems = [*in_use, *outcome.problems]
    duplicates = tuple(_duplicates(outcome.assignments))
    problems += duplicates or conflicts.oversubscribed_cards(card_requests)
    problems += conflicts.mig_and_time_sliced(card_requests)
    notes = [*left_out, *outcome.notes, *conflicts.too_few_functions(card_requests)]
    if all(request.is_plain for request in requests):
        notes += conflicts.mixed_sizes_of_plain_requests(card_requests)
    else:
        problems += conflicts.mixed_sizes(card_requests)
    return Plan(
        assignments=tuple(outcome.assignments),
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(dict.fromkeys(notes)),
        preparation=plan_preparation(card_requests, cards),
        for_other_hosts=for_other_hosts,
        keeps_published=keeps_published or bool(problems),
    )


def _obstacles(card: Card) -> Iterator[Problem]:
    """Return why a card cannot be offered: its own state, or Nova would not start with it."""
    if card.address.domain > NOVA_MAX_DOMAIN:
        yield Problem(ProblemKind.PCI_DOMAIN_UNSUPPORTED, card.address)
    elif card.obstacle is not None:
        yield card.obstacle


def _verbatim(request: VgpuRequest) -> Assignment:
    addresses = tuple(device for device in request.devices if isinstance(device, PciAddress))
    return Assignment(request.vgpu_type, addresses)


def _assign(
    requests: tuple[VgpuRequest, ...],
    matches: dict[VgpuRequest, tuple[CardMatch, ...]],
    card_requests: list[CardRequest],
) -> _Outcome:
    """Assign types to parents, request by request.

    A plain request is published as it is written even if a card of this host lacks its type: the
    address may be meant for another host.
    """
    outcome = _Outcome([], [], [])
    for request in requests:
        on_cards = [item for item in card_requests if item.request is request]
        by_type_id = _resolve_all(on_cards, outcome)
        if request.is_plain and not _is_vendor_vfio(matches[request]):
            outcome.assignments.extend(_as_published(request, matches[request], by_type_id))
        else:
            outcome.assignments.extend(map(_with_guests, by_type_id.values()))
    return outcome


def _resolve_all(on_cards: list[CardRequest], outcome: _Outcome) -> dict[str, Assignment]:
    """Return what a request's cards offer, by type ID; add the rest to problems and notes."""
    by_type_id: dict[str, Assignment] = {}
    for card_request in on_cards:
        resolved = _resolve(card_request)
        if isinstance(resolved, Assignment):
            _merge(by_type_id, resolved)
        elif resolved is not None:
            is_note = _is_note(resolved, card_request)
            (outcome.notes if is_note else outcome.problems).append(resolved)
    return by_type_id


def _with_guests(assignment: Assignment) -> Assignment:
    """Raise a limit to what guests have already, since Nova would drop what exceeds it."""
    if assignment.max_instances is None or set(assignment.cards) & set(assignment.addresses):
        return assignment
    limit = max(assignment.max_instances, len(assignment.addresses))
    return assignment._replace(max_instances=limit)


def _is_note(problem: Problem, card_request: CardRequest) -> bool:
    """Whether the rest of the plan is published despite a problem.

    Under vendor-specific VFIO, functions with the type are published, unless the card has other
    types, which were published before and stay. A plain request is published as it is written.
    """
    card = card_request.card
    if card.framework is Framework.VENDOR_VFIO:
        return problem.kind is ProblemKind.TYPE_NOT_SET and not card.assigned_types
    return card_request.is_plain and problem.kind is ProblemKind.TYPE_NOT_OFFERED


def _is_vendor_vfio(matches: tuple[CardMatch, ...]) -> bool:
    return any(match.card.framework is Framework.VENDOR_VFIO for match in matches)


def _merge(by_type_id: dict[str, Assignment], assignment: Assignment) -> None:
    """Add a card to those on which a request's type has the same ID."""
    empty = assignment._replace(addresses=(), cards=())
    merged = by_type_id.setdefault(assignment.type_id, empty)
    by_type_id[assignment.type_id] = merged._replace(
        addresses=tuple(dict.fromkeys(merged.addresses + assignment.addresses)),
        cards=merged.cards + assignment.cards,
    )


def _as_published(
    request: VgpuRequest,
    matches: tuple[CardMatch, ...],
    by_type_id: dict[str, Assignment],
) -> Iterator[Assignment]:
    """Publish a plain request as it is written; Nova ignores the addresses of other hosts."""
    if not by_type_id:
        yield _verbatim(request)
    for assignment in by_type_id.values():
        yield assignment._replace(addresses=_in_written_order(request, matches, assignment))


def _resolve(card_request: CardRequest) -> Assignment | Problem | None:
    """Return what one card contributes to a request; None if other cards offer all of it."""
    request, card = card_request.request, card_request.card
    if card_request.limit == 0 and not card_request.assigned_functions and not card_request.guests:
        return None
    if not card_request.is_offered:
        reason = _reason_not_offered(card_request)
        if reason is ProblemKind.VFS_DISABLED:
            return Problem(reason, card.address)
        if reason is not None:
            return Problem(reason, card.address, vgpu_type=request.vgpu_type)
    parents = card_request.parents
    if card.framework is Framework.VENDOR_VFIO:
        parents = card_request.assigned_functions
        if not parents:
            return Problem(ProblemKind.TYPE_NOT_SET, card.address, vgpu_type=request.vgpu_type)
    if not parents:
        return None
    vgpu_type = card_request.vgpu_type
    return Assignment(
        type_id=vgpu_type.id if vgpu_type else request.vgpu_type,
        addresses=parents,
        cards=(card.address,),
        name=vgpu_type.name if vgpu_type else None,
        max_instances=request.max_instances,
        resource_class=request.resource_class,
        numa_policy=request.numa_policy,
        framework=card.framework or Framework.MDEV,
        function_id=card.function_id,
    )


def _reason_not_offered(card_request: CardRequest) -> ProblemKind | None:
    """Return why a card does not offer a type; None if it may offer it, as far as is known."""
    card = card_request.card
    if card_request.is_unsupported:
        lacks_mig = card.mode is not None and not card.mode.supports_mig
        no_mig = card_request.is_mig_backed and lacks_mig
        return ProblemKind.NO_MIG if no_mig else ProblemKind.TYPE_NOT_OFFERED
    if card_request.is_mig_backed and card.is_sriov:
        return ProblemKind.INSTANCES_MISSING
    if card.is_mig_partitioned:
        return ProblemKind.WAITING_TO_LEAVE_MIG
    if card.types and not card_request.needs_type_query:
        return ProblemKind.TYPE_NOT_OFFERED
    if card.is_sriov and not card.gpu.virtual_functions:
        return ProblemKind.VFS_DISABLED
    if not card_request.is_plain or card.is_sriov:
        return ProblemKind.TYPES_UNKNOWN
    return None


def _in_written_order(
    request: VgpuRequest, matches: tuple[CardMatch, ...], assignment: Assignment
) -> tuple[PciAddress, ...]:
    """Return a plain request's addresses in its order, including those of other hosts.

    Cards of this host on which the type has another ID are left to that ID's assignment.
    """
    parents: dict[PciAddress, tuple[PciAddress, ...]] = {}
    for match in matches:
        offered = tuple(parent for parent in match.parents if parent in assignment.addresses)
        if match.is_whole_card:
            parents[match.card.address] = offered
        else:
            parents.update((parent, (parent,) if offered else ()) for parent in match.parents)
    ordered: list[PciAddress] = []
    for address in _verbatim(request).addresses:
        ordered += parents.get(address, (address,))
    return tuple(dict.fromkeys(ordered))


def _duplicates(assignments: list[Assignment]) -> Iterator[Problem]:
    """Find types or addresses that occur twice, with which nova-compute refuses to start."""
    types: set[str] = set()
    owners: dict[PciAddress, Assignment] = {}
    for assignment in assignments:
        if assignment.type_id in types:
            yield Problem(ProblemKind.TYPE_MAPPED_TWICE, vgpu_type=assignment.type_id)
            continue
        types.add(assignment.type_id)
        for address in assignment.addresses:
            owner = owners.setdefault(address, assignment)
            if owner is not assignment:
                yield Problem(
                    ProblemKind.DEVICE_MAPPED_TWICE,
                    option=mappings.OPTION.name,
                    device=str(address),
                    first=owner.title,
                    second=assignment.title,
                )
