# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""From what is asked for and what is there to what is offered; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, Iterator, NamedTuple

from mappings import Device, VgpuRequest
from pci import PciAddress, PciId
from problem import Kind, Problem
from vgpu import Card, Framework, VgpuType

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

__all__ = ["Assignment", "Plan", "make_plan"]


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


class TypeStep(NamedTuple):
    """A vGPU type that virtual functions of a card are to carry (vendor VFIO).

    Attributes:
        card: its physical function.
        type_id: `nvidia-1148`.
        functions: those that may carry it.
        limit: on how many at the most; None for as many as the card holds.
        resource_class: the class in placement, if one is asked for.
    """

    card: PciAddress
    type_id: str
    functions: tuple[PciAddress, ...]
    limit: int | None = None
    resource_class: str | None = None


class Plan(NamedTuple):
    """What this host is to offer.

    Attributes:
        assignments: in the order of the option; all of them are published, or, if `held`, none.
        problems: why something is not offered, or not as it is written.
        enable: the cards whose virtual functions are to be enabled before more can be said.
        steps: the types that virtual functions are to carry (vendor VFIO).
        is_due: whether the cards are not yet as they are to be.
        elsewhere: requests none of whose devices is a GPU of this host.
        held: what is published stays as it is, since this wish cannot be judged or is wrong.
    """

    assignments: tuple[Assignment, ...] = ()
    problems: tuple[Problem, ...] = ()
    enable: tuple[PciAddress, ...] = ()
    steps: tuple[TypeStep, ...] = ()
    is_due: bool = False
    elsewhere: tuple[VgpuRequest, ...] = ()
    held: bool = False


class _Target(NamedTuple):
    """A card that a request names, and through which of its parents."""

    card: Card
    parents: tuple[PciAddress, ...]
    whole: bool  # named as a card, not by single virtual functions


def make_plan(requests: tuple[VgpuRequest, ...], cards: tuple[Card, ...]) -> Plan:
    """Match requests with the cards of a host.

    On a host without a card every plain request is published as it stands; on a host whose cards
    no request names, nothing is, since some releases of Nova would take those cards.
    """
    if not cards:
        plain = tuple(_as_written(request) for request in requests if request.is_plain)
        rest = tuple(request for request in requests if not request.is_plain)
        return Plan(plain, elsewhere=rest)
    matched = {request: tuple(_targets(request, cards)) for request in requests}
    elsewhere = tuple(request for request in requests if not matched[request])
    if len(elsewhere) == len(requests):
        return Plan(elsewhere=elsewhere)
    assignments, problems, told = _assign(requests, matched)
    problems += _clashes(assignments)
    problems += _types_in_use(assignments, cards)
    enable, steps = _to_enable(matched), tuple(_steps(matched))
    # A card whose share of max-instances is used up by the cards before it waits for nothing.
    spent = {(Kind.TYPE_NOT_SET, str(step.card)) for step in steps if step.limit == 0}
    told = [each for each in told if (each.kind, each.subject) not in spent]
    is_plain = all(request.is_plain for request in requests)
    sizes = Kind.SIZES_TOLD if is_plain else Kind.MIXED_SIZES
    (told if is_plain else problems).extend(_mixed_sizes(assignments, cards, sizes))
    return Plan(
        assignments=tuple(assignments),
        problems=tuple(dict.fromkeys([*problems, *told])),
        enable=enable,
        steps=steps,
        is_due=bool(enable) or _differs(steps, cards),
        elsewhere=elsewhere,
        held=bool(problems),
    )


def _to_enable(matched: dict[VgpuRequest, tuple[_Target, ...]]) -> tuple[PciAddress, ...]:
    cards = {
        target.card.gpu.address: target.card for found in matched.values() for target in found
    }
    return tuple(address for address, card in sorted(cards.items()) if _is_without_functions(card))


def _steps(matched: dict[VgpuRequest, tuple[_Target, ...]]) -> Iterator[TypeStep]:
    """Share a request's instances out among its cards, those first that come first."""
    for request, targets in matched.items():
        room = request.max_instances
        for target in targets:
            known = target.card.find_type(request.vgpu_type)
            if target.card.framework is Framework.VENDOR_VFIO and known is not None:
                address = target.card.gpu.address
                yield TypeStep(address, known.id, target.parents, room, request.resource_class)
                if room is not None:
                    carried = sum(found == known.id for _, found in target.card.carried)
                    room -= min(room, carried)


def _differs(steps: tuple[TypeStep, ...], cards: tuple[Card, ...]) -> bool:
    """Whether functions carry what they should not, or could carry more of what they should.

    Only cards that the mapping names count: what others carry is somebody else's.
    """
    for card in cards:
        mine = [step for step in steps if step.card == card.gpu.address]
        if not mine:
            continue
        wanted = {function: step.type_id for step in mine for function in step.functions}
        if any(wanted.get(function, found) != found for function, found in card.carried):
            return True
        for step in mine:
            number = sum(found == step.type_id for _, found in card.carried)
            is_free = any(function not in dict(card.carried) for function in step.functions)
            has_room = step.limit is None or number < step.limit
            if is_free and has_room and step.type_id in card.creatable:
                return True
            if step.limit is not None and number > step.limit:
                return True
    return False


def _is_without_functions(card: Card) -> bool:
    """Whether a card that is NVIDIA's driver's has SR-IOV and nothing to offer but through it."""
    gpu = card.gpu
    # sriov-manage may leave a card without a driver when it fails; it is bound again first.
    is_ours = gpu.driver in ("nvidia", None)
    is_without = gpu.total_vfs > 0 and not gpu.virtual_functions
    return is_ours and is_without and card.framework is None


def _as_written(request: VgpuRequest) -> Assignment:
    addresses = tuple(device for device in request.devices if isinstance(device, PciAddress))
    return Assignment(request.vgpu_type, addresses)


def _targets(request: VgpuRequest, cards: tuple[Card, ...]) -> Iterator[_Target]:
    for card in cards:
        named: Iterable[Device] = (card.gpu.address, card.gpu.id)
        if any(device in request.devices for device in named):
            yield _Target(card, card.parents or (card.gpu.address,), whole=True)
            continue
        functions = [device for device in request.devices if _is_function(device, card)]
        if functions:
            yield _Target(card, tuple(sorted(functions)), whole=False)


def _is_function(device: Device, card: Card) -> TypeGuard[PciAddress]:
    """Whether a device is a virtual function of a card, or was one before the last boot.

    Where the card would have it cannot be computed; but it shares the card's bus, as no device
    beside the card does that could carry vGPUs.
    """
    gpu = card.gpu
    if isinstance(device, PciId):
        return False
    if gpu.virtual_functions or not gpu.total_vfs or card.framework is not None:
        return device in gpu.virtual_functions
    return device != gpu.address and device[:2] == gpu.address[:2]


def _assign(
    requests: tuple[VgpuRequest, ...], matched: dict[VgpuRequest, tuple[_Target, ...]]
) -> tuple[list[Assignment], list[Problem], list[Problem]]:
    """Return assignments, what speaks against them, and what is only to be told.

    A plain request is published as it is written even where a card here lacks its type: the
    address may be meant for another host.
    """
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    told: list[Problem] = []
    for request in requests:
        resolved: dict[str, Assignment] = {}
        for target in matched[request]:
            found = _resolve(request, target)
            if isinstance(found, Assignment):
                _join(resolved, found)
            elif found.kind is Kind.TYPE_NOT_SET:
                told.append(found)  # what carries its type is published all the same
            elif request.is_plain and found.kind is Kind.TYPE_NOT_OFFERED:
                told.append(found)
            else:
                problems.append(found)
        if request.is_plain and not _is_vendor_vfio(matched[request]):
            assignments += _as_published(request, matched[request], resolved)
        else:
            assignments += resolved.values()
    return assignments, problems, told


def _is_vendor_vfio(targets: tuple[_Target, ...]) -> bool:
    return any(target.card.framework is Framework.VENDOR_VFIO for target in targets)


def _join(resolved: dict[str, Assignment], found: Assignment) -> None:
    """Add a card to those that know a request's type by one id."""
    known = resolved.setdefault(found.type_id, found._replace(addresses=(), cards=()))
    resolved[found.type_id] = known._replace(
        addresses=known.addresses + found.addresses,
        cards=known.cards + found.cards,
    )


def _as_published(
    request: VgpuRequest, targets: tuple[_Target, ...], resolved: dict[str, Assignment]
) -> Iterator[Assignment]:
    """Publish a plain request 1:1; Nova passes over the addresses that are some other host's."""
    if not resolved:
        yield _as_written(request)
    for found in resolved.values():
        yield found._replace(addresses=_as_ordered(request, targets, found))


def _resolve(request: VgpuRequest, target: _Target) -> Assignment | Problem:
    """Say what one card makes of a request."""
    card = target.card
    address = str(card.gpu.address)
    known: VgpuType | None = None
    if card.types:
        known = card.find_type(request.vgpu_type)
        if known is None:
            return Problem(Kind.TYPE_NOT_OFFERED, address, request.vgpu_type)
    elif card.gpu.total_vfs and not card.gpu.virtual_functions:
        return Problem(Kind.VFS_DISABLED, address)
    elif not request.is_plain or card.gpu.total_vfs:
        return Problem(Kind.TYPES_UNKNOWN, address, request.vgpu_type)
    type_id = known.id if known else request.vgpu_type
    parents = target.parents
    if card.framework is Framework.VENDOR_VFIO:
        carried = dict(card.carried)
        parents = tuple(parent for parent in parents if carried.get(parent) == type_id)
        if not parents:
            return Problem(Kind.TYPE_NOT_SET, address, request.vgpu_type)
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


def _as_ordered(
    request: VgpuRequest, targets: tuple[_Target, ...], found: Assignment
) -> tuple[PciAddress, ...]:
    """Return a plain request's addresses in its order, those of other hosts among them.

    Cards of this host that know the type by another id are left to that id's assignment.
    """
    parents: dict[PciAddress, tuple[PciAddress, ...]] = {}
    for target in targets:
        named = (target.card.gpu.address,) if target.whole else target.parents
        for address in named:
            mine = target.card.gpu.address in found.cards
            parents[address] = (target.parents if target.whole else (address,)) if mine else ()
    ordered: list[PciAddress] = []
    for address in _as_written(request).addresses:
        ordered += parents.get(address, (address,))
    return tuple(dict.fromkeys(ordered))


def _clashes(assignments: list[Assignment]) -> Iterator[Problem]:
    """Find what makes nova-compute refuse to start: a type or an address that stands twice."""
    types: set[str] = set()
    owners: dict[PciAddress, str] = {}
    for assignment in assignments:
        if assignment.type_id in types:
            yield Problem(Kind.SAME_TYPE, assignment.name or "", assignment.type_id)
            continue
        types.add(assignment.type_id)
        for address in assignment.addresses:
            owner = owners.setdefault(address, assignment.type_id)
            if owner != assignment.type_id:
                yield Problem(Kind.DEVICE_TWICE, str(address), owner, assignment.type_id)


def _types_in_use(assignments: list[Assignment], cards: tuple[Card, ...]) -> Iterator[Problem]:
    """Find cards whose guests have a type that they would no longer offer.

    nova-compute would refuse to start after the next boot (InvalidLibvirtMdevConfig).
    """
    for card in cards:
        here = {found.type_id for found in assignments if card.gpu.address in found.cards}
        for type_id in card.types_in_use:
            if type_id not in here:
                yield Problem(Kind.TYPE_IN_USE, str(card.gpu.address), type_id)


def _mixed_sizes(
    assignments: list[Assignment], cards: tuple[Card, ...], kind: Kind
) -> Iterator[Problem]:
    """Find cards whose functions would offer types of different framebuffer sizes.

    The driver refuses the second size once a vGPU of the first exists.
    """
    for card in cards:
        here = [found.type_id for found in assignments if card.gpu.address in found.cards]
        sizes = {known.framebuffer for known in card.types if known.id in here}
        if len(sizes) > 1:
            yield Problem(kind, str(card.gpu.address), " and ".join(here))
