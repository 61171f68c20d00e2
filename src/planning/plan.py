# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""From what is asked for and what is there to what is offered; pure."""

from __future__ import annotations

from typing import Iterator, NamedTuple

from gpu.card import Card, Framework
from gpu.problems import Problem, ProblemKind
from host.gpus import PciAddress, PciId
from planning import conflicts, preparation
from planning.card_requests import CardMatch, CardRequest, match_cards, split_across_cards
from planning.mappings import VgpuRequest
from planning.preparation import Preparation

__all__ = ["DEFAULTS", "Assignment", "Plan", "VariantDriverOptions", "make_plan"]


class Assignment(NamedTuple):
    """One vGPU type, ready for Nova.

    Attributes:
        type_id: Nova's name of it, `nvidia-233`.
        addresses: the parents that offer it. Of a plain request all that it names, on whatever
            host they are, so that one value is published 1:1 all over a fleet.
        cards: the cards of this host that offer it.
        name: the people's name, if this host knows it.
        max_instances: at most so many on this host.
        resource_class: the class in placement; None for Nova's own, VGPU.
        framework: how Nova is told of it.
        function_id: vendor and device id of its virtual functions (vendor VFIO).
    """

    type_id: str
    addresses: tuple[PciAddress, ...]
    cards: tuple[PciAddress, ...] = ()
    name: str | None = None
    max_instances: int | None = None
    resource_class: str | None = None
    framework: Framework = Framework.MDEV
    function_id: PciId | None = None


class VariantDriverOptions(NamedTuple):
    """What the operator wants of functions under the kernel variant driver.

    Attributes:
        report_in_placement: whether each is reported to placement, under a class of its type.
        live_migratable: whether guests may be migrated with them.
    """

    report_in_placement: bool = False
    live_migratable: bool = False


DEFAULTS = VariantDriverOptions()


class Plan(NamedTuple):
    """What this host is to offer.

    Attributes:
        assignments: in the order of the option; all are published, or none if `keeps_published`.
        problems: what speaks against it.
        notes: what else the operator should know.
        preparation: what is to be true of the cards first.
        for_other_hosts: requests none of whose devices is a GPU of this host.
        keeps_published: whether what is published stays, since the mapping is wrong or unclear.
    """

    assignments: tuple[Assignment, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    preparation: Preparation = Preparation()
    for_other_hosts: tuple[VgpuRequest, ...] = ()
    keeps_published: bool = False


def make_plan(requests: tuple[VgpuRequest, ...], cards: tuple[Card, ...]) -> Plan:
    """Match requests with the cards of a host.

    On a host without a card every plain request is published as it stands; on a host whose cards
    no request names, nothing is, since some releases of Nova would take those cards.
    """
    if not cards:
        plain = tuple(_verbatim(request) for request in requests if request.is_plain)
        rest = tuple(request for request in requests if not request.is_plain)
        return Plan(plain, for_other_hosts=rest)
    targets = {request: match_cards(request, cards) for request in requests}
    elsewhere = tuple(request for request in requests if not targets[request])
    if len(elsewhere) == len(requests):
        return Plan(preparation=preparation.plan_preparation([], cards), for_other_hosts=elsewhere)
    shares = [
        share for request in requests for share in split_across_cards(request, targets[request])
    ]
    assignments, problems, remarks = _assign(requests, targets, shares)
    clashes = tuple(_duplicates(assignments))
    problems = [*conflicts.types_in_use(shares, cards), *problems]
    problems += clashes or conflicts.oversubscribed_cards(shares)
    problems += conflicts.mig_and_time_sliced(shares)
    remarks += conflicts.too_few_functions(shares)
    is_plain = all(request.is_plain for request in requests)
    (remarks if is_plain else problems).extend(conflicts.mixed_sizes(shares, is_plain))
    return Plan(
        assignments=tuple(assignments),
        problems=tuple(dict.fromkeys(problems)),
        notes=tuple(dict.fromkeys(remarks)),
        preparation=preparation.plan_preparation(shares, cards),
        for_other_hosts=elsewhere,
        keeps_published=bool(problems),
    )


def _verbatim(request: VgpuRequest) -> Assignment:
    addresses = tuple(device for device in request.devices if isinstance(device, PciAddress))
    return Assignment(request.vgpu_type, addresses)


def _assign(
    requests: tuple[VgpuRequest, ...],
    targets: dict[VgpuRequest, tuple[CardMatch, ...]],
    shares: list[CardRequest],
) -> tuple[list[Assignment], list[Problem], list[Problem]]:
    """Return assignments, what speaks against them, and what else is to be told.

    A plain request is published as it is written even where a card here lacks its type: the
    address may be meant for another host.
    """
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    remarks: list[Problem] = []
    for request in requests:
        resolved: dict[str, Assignment] = {}
        for share in shares:
            found = _resolve(share) if share.request is request else None
            if found is None:
                continue
            if isinstance(found, Assignment):
                _merge(resolved, found)
            elif _is_note(found, share):
                remarks.append(found)
            else:
                problems.append(found)
        if request.is_plain and not _is_vendor_vfio(targets[request]):
            assignments += _as_published(request, targets[request], resolved)
        else:
            assignments += map(_with_guests, resolved.values())
    return assignments, problems, remarks


def _with_guests(found: Assignment) -> Assignment:
    """Raise a limit to what guests have already: Nova would drop what is beyond it."""
    if found.max_instances is None or set(found.cards) & set(found.addresses):
        return found
    return found._replace(max_instances=max(found.max_instances, len(found.addresses)))


def _is_note(found: Problem, share: CardRequest) -> bool:
    """Whether the rest is published in spite of it.

    Under vendor-specific VFIO what carries its type is; unless the card still carries what was
    published before, which stays then. A plain request is published as it is written.
    """
    if share.card.framework is Framework.VENDOR_VFIO:
        return found.kind is ProblemKind.TYPE_NOT_SET and not share.card.assigned_types
    return share.request.is_plain and found.kind is ProblemKind.TYPE_NOT_OFFERED


def _is_vendor_vfio(targets: tuple[CardMatch, ...]) -> bool:
    return any(target.card.framework is Framework.VENDOR_VFIO for target in targets)


def _merge(resolved: dict[str, Assignment], found: Assignment) -> None:
    """Add a card to those that know a request's type by one id."""
    known = resolved.setdefault(found.type_id, found._replace(addresses=(), cards=()))
    resolved[found.type_id] = known._replace(
        addresses=tuple(dict.fromkeys(known.addresses + found.addresses)),
        cards=known.cards + found.cards,
    )


def _as_published(
    request: VgpuRequest, targets: tuple[CardMatch, ...], resolved: dict[str, Assignment]
) -> Iterator[Assignment]:
    """Publish a plain request 1:1; Nova passes over the addresses that are some other host's."""
    if not resolved:
        yield _verbatim(request)
    for found in resolved.values():
        yield found._replace(addresses=_as_ordered(request, targets, found))


def _resolve(share: CardRequest) -> Assignment | Problem | None:
    """Say what one card makes of a request; None if other cards have all that is asked for."""
    request, card, known = share.request, share.card, share.vgpu_type
    if share.limit == 0 and not share.assigned_functions and not share.guests:
        return None
    if not share.is_offered:
        reason = _reason_not_offered(share)
        if reason is not None:
            detail = "" if reason is ProblemKind.VFS_DISABLED else request.vgpu_type
            return Problem(reason, str(card.gpu.address), detail)
    type_id = known.id if known else request.vgpu_type
    parents = share.parents
    if card.framework is Framework.VENDOR_VFIO:
        parents = share.assigned_functions
        if not parents:
            return Problem(ProblemKind.TYPE_NOT_SET, str(card.gpu.address), request.vgpu_type)
    if not parents:
        return None
    return Assignment(
        type_id=type_id,
        addresses=parents,
        cards=(card.gpu.address,),
        framework=card.framework or Framework.MDEV,
        function_id=card.function_id,
        name=known.name if known else None,
        max_instances=request.max_instances,
        resource_class=request.resource_class,
    )


def _reason_not_offered(share: CardRequest) -> ProblemKind | None:
    """Return why a card does not offer a type; None if nobody can tell that it does not."""
    card = share.card
    if share.is_unsupported:
        is_without = share.is_mig_backed and card.mode is not None and not card.mode.supports_mig
        return ProblemKind.NO_MIG if is_without else ProblemKind.TYPE_NOT_OFFERED
    if share.is_mig_backed and card.is_sriov:
        return ProblemKind.INSTANCES_MISSING
    if card.is_mig_partitioned:
        return ProblemKind.WAITING_TO_LEAVE_MIG
    if card.types and not share.needs_type_query:
        return ProblemKind.TYPE_NOT_OFFERED
    if card.is_sriov and not card.gpu.virtual_functions:
        return ProblemKind.VFS_DISABLED
    if not share.request.is_plain or card.is_sriov:
        return ProblemKind.TYPES_UNKNOWN
    return None


def _as_ordered(
    request: VgpuRequest, targets: tuple[CardMatch, ...], found: Assignment
) -> tuple[PciAddress, ...]:
    """Return a plain request's addresses in its order, those of other hosts among them.

    Cards of this host that know the type by another id are left to that id's assignment.
    """
    parents: dict[PciAddress, tuple[PciAddress, ...]] = {}
    for target in targets:
        mine = tuple(parent for parent in target.parents if parent in found.addresses)
        if target.is_whole_card:
            parents[target.card.gpu.address] = mine
        else:
            parents.update((address, (address,) if mine else ()) for address in target.parents)
    ordered: list[PciAddress] = []
    for address in _verbatim(request).addresses:
        ordered += parents.get(address, (address,))
    return tuple(dict.fromkeys(ordered))


def _duplicates(assignments: list[Assignment]) -> Iterator[Problem]:
    """Find what makes nova-compute refuse to start: a type or an address that stands twice."""
    types: set[str] = set()
    owners: dict[PciAddress, str] = {}
    for assignment in assignments:
        if assignment.type_id in types:
            yield Problem(ProblemKind.TYPE_MAPPED_TWICE, assignment.name or "", assignment.type_id)
            continue
        types.add(assignment.type_id)
        for address in assignment.addresses:
            owner = owners.setdefault(address, assignment.type_id)
            if owner != assignment.type_id:
                yield Problem(
                    ProblemKind.DEVICE_MAPPED_TWICE, str(address), owner, assignment.type_id
                )
