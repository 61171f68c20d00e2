# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What must be prepared on the cards before they can offer vGPUs; pure.

Virtual functions, partitioning and types on functions: a boot undoes all of them.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Iterator, NamedTuple

from gpu.card import Card, Framework
from gpu.pci import PciAddress
from planning.card_requests import CardRequest

__all__ = [
    "InstanceRequest",
    "Partitioning",
    "Preparation",
    "TypeAssignment",
    "gpu_instance_profiles",
    "only_adds_instances",
    "plan_preparation",
]


class TypeAssignment(NamedTuple):
    """A vGPU type to assign to virtual functions of a card (vendor VFIO).

    Attributes:
        card: its physical function.
        type_id: `nvidia-1148`.
        requested_type: the type as it was requested.
        functions: the functions that may get it.
        limit: the largest number of them; None for as many as the card has room for.
        resource_class: the class in placement, if one is requested.
        leftover_functions: functions of the card whose type is neither requested nor a guest's.
    """

    card: PciAddress
    type_id: str
    requested_type: str
    functions: tuple[PciAddress, ...]
    limit: int | None = None
    resource_class: str | None = None
    leftover_functions: tuple[PciAddress, ...] = ()


class InstanceRequest(NamedTuple):
    """A requested MIG-backed type and the largest number of vGPUs; None: as many as fit."""

    vgpu_type: str
    limit: int | None = None


class Partitioning(NamedTuple):
    """How a card is to be partitioned.

    Attributes:
        card: its physical function.
        instance_requests: the MIG-backed types to offer; none: it is time-sliced.
        mixed_size: whether its vGPUs are to differ in size.
        requested_types: the types to offer, as they were requested.
        keeps_other_instances: whether its other GPU instances stay as they are.
    """

    card: PciAddress
    instance_requests: tuple[InstanceRequest, ...] = ()
    mixed_size: bool = False
    requested_types: tuple[str, ...] = ()
    keeps_other_instances: bool = False


class Preparation(NamedTuple):
    """What to prepare on the cards that a mapping selects, or that defined guests use.

    Attributes:
        enable: the cards whose virtual functions are to be enabled.
        keep_mode: those of them that no request selects, whose MIG mode is not changed.
        partitionings: how cards are to be partitioned, where that differs from their default.
        type_assignments: the types to assign to virtual functions (vendor VFIO).
        pending: the cards on which something remains to be done.
    """

    enable: tuple[PciAddress, ...] = ()
    keep_mode: tuple[PciAddress, ...] = ()
    partitionings: tuple[Partitioning, ...] = ()
    type_assignments: tuple[TypeAssignment, ...] = ()
    pending: tuple[PciAddress, ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether something remains to be done."""
        return bool(self.pending)


def plan_preparation(card_requests: list[CardRequest], cards: tuple[Card, ...]) -> Preparation:
    """Return what to prepare for the requests."""
    parts = [
        _prepare_card(card, [request for request in card_requests if request.card is card])
        for card in cards
    ]
    return Preparation(*(tuple(chain.from_iterable(field)) for field in zip(*parts)))


def _prepare_card(card: Card, on_card: list[CardRequest]) -> Preparation:
    needs_functions = bool(on_card) or _lost_its_functions(card)
    is_disabled = needs_functions and _lacks_functions(card)
    assignments = tuple(_type_assignments(on_card))
    partitioning = _partitioning(on_card) if on_card else _partitioning_for_guests(card)
    is_pending = (
        is_disabled
        or _needs_partitioning(partitioning, on_card, card)
        or (bool(on_card) and _types_differ(assignments, card))
    )
    keeps_mode = is_disabled and not on_card and partitioning is None
    address = (card.address,)
    return Preparation(
        enable=address if is_disabled else (),
        keep_mode=address if keeps_mode else (),
        partitionings=() if partitioning is None else (partitioning,),
        type_assignments=assignments,
        pending=address if is_pending else (),
    )


def _needs_partitioning(
    partitioning: Partitioning | None, on_card: list[CardRequest], card: Card
) -> bool:
    """Whether a card is to be partitioned differently, or its driver to be asked for types."""
    if partitioning is None:
        return False
    if any(request.needs_type_query for request in on_card):
        return True
    if partitioning.instance_requests:
        lacks_types = any(map(_lost_its_types, on_card))
    else:
        lacks_types = _shows_no_time_sliced_type(card)
    is_possible = not card.in_use or only_adds_instances(partitioning, card)
    return is_possible and (lacks_types or _partitioning_differs(partitioning, card))


def gpu_instance_profiles(partitioning: Partitioning, card: Card) -> tuple[int, ...] | None:
    """Return the GPU instance profiles that a card is to have; None if one is not known yet."""
    profiles: list[int] = []
    for request in partitioning.instance_requests:
        vgpu_type = card.find_mig_backed_type(request.vgpu_type)
        if (
            vgpu_type is None
            or vgpu_type.gpu_instance_profile is None
            or vgpu_type.max_instances is None
        ):
            return None
        vgpus = vgpu_type.max_instances
        if request.limit is not None:
            vgpus = min(request.limit, vgpus)
        instances = -(-vgpus // vgpu_type.vgpus_per_gpu_instance)  # rounded up
        profiles += [vgpu_type.gpu_instance_profile] * instances
    return tuple(sorted(profiles))


def only_adds_instances(partitioning: Partitioning, card: Card) -> bool:
    """Whether a partitioning only creates GPU instances and destroys none."""
    wanted, mode = gpu_instance_profiles(partitioning, card), card.mode
    if wanted is None or mode is None or not mode.gpu_instances:
        return False
    is_superset = not Counter(mode.gpu_instances) - Counter(wanted)
    return partitioning.keeps_other_instances or is_superset


def _type_assignments(on_card: list[CardRequest]) -> Iterator[TypeAssignment]:
    selected = {function for request in on_card for function in request.functions}
    for request in on_card:
        card = request.card
        if card.framework is Framework.VENDOR_VFIO and request.vgpu_type is not None:
            yield TypeAssignment(
                card=card.address,
                type_id=request.vgpu_type.id,
                requested_type=request.requested_type,
                functions=request.functions,
                limit=request.limit,
                resource_class=request.request.resource_class,
                leftover_functions=tuple(
                    function
                    for function, _ in card.assigned_types
                    if function not in selected and function not in card.guest_parents
                ),
            )


def _partitioning(on_card: list[CardRequest]) -> Partitioning | None:
    """Return how a card is to be partitioned; None if it stays as it is."""
    card = on_card[0].card
    mig_backed = [request for request in on_card if request.is_mig_backed]
    if (
        not card.is_sriov  # a card that is its own parent supports neither MIG nor mixed sizes
        or (mig_backed and len(mig_backed) < len(on_card))  # see conflicts.mig_and_time_sliced
        or any(request.is_unsupported for request in on_card)
    ):
        return None
    types = [request.vgpu_type for request in on_card if request.vgpu_type is not None]
    partitioning = Partitioning(
        card=card.address,
        instance_requests=tuple(
            InstanceRequest(request.requested_type, _instance_limit(request))
            for request in mig_backed
            if request.limit != 0
        ),
        mixed_size=not mig_backed and len({vgpu_type.framebuffer for vgpu_type in types}) > 1,
        requested_types=tuple(request.requested_type for request in on_card),
    )
    is_needed = (
        partitioning.instance_requests
        or partitioning.mixed_size
        or (card.mode is not None and (card.mode.gpu_instances or card.mode.mixed_size))
        or _shows_no_time_sliced_type(card)
        or any(request.needs_type_query for request in on_card)
    )
    return partitioning if is_needed else None


def _shows_no_time_sliced_type(card: Card) -> bool:
    """Whether a card shows no time-sliced type: it may have started in MIG mode."""
    return bool(card.parents) and all(shown.is_mig_backed for shown in card.visible_types)


def _partitioning_for_guests(card: Card) -> Partitioning | None:
    """Return the GPU instances that defined guests lost at boot on a card nobody requests."""
    requests = tuple(
        InstanceRequest(lost.name, sum(type_id == lost.id for _, type_id in card.guest_vgpus))
        for lost in card.lost_types
        if lost.is_mig_backed
    )
    if not requests:
        return None
    names = tuple(request.vgpu_type for request in requests)
    return Partitioning(card.address, requests, requested_types=names, keeps_other_instances=True)


def _instance_limit(request: CardRequest) -> int | None:
    """Return for how many vGPUs a card is to have instances; None: as many as fit."""
    if request.match.is_whole_card:
        return request.limit
    selected, guests = {*request.match.parents, *request.guests}, len(request.guests)
    return (
        len(selected) if request.limit is None else min(len(selected), max(request.limit, guests))
    )


def _lost_its_types(request: CardRequest) -> bool:
    """Whether a card does not show the type for which it was partitioned."""
    card = request.card
    if card.framework is not Framework.VENDOR_VFIO or request.vgpu_type is None:
        return not request.is_offered
    return not card.assigned_types and request.vgpu_type.id not in card.creatable


def _partitioning_differs(partitioning: Partitioning, card: Card) -> bool:
    if card.mode is None:
        return True
    if partitioning.mixed_size and card.mode.mixed_size is None:  # the card does not support it
        return False
    wanted = gpu_instance_profiles(partitioning, card)
    if partitioning.keeps_other_instances and wanted is not None:
        return bool(Counter(wanted) - Counter(card.mode.gpu_instances))
    present = (card.mode.gpu_instances, card.mode.mixed_size is True)
    return (wanted, partitioning.mixed_size) != present


def _types_differ(assignments: tuple[TypeAssignment, ...], card: Card) -> bool:
    """Whether functions have a type that they should not have, or could have one they should."""
    wanted = {
        function: assignment.type_id
        for assignment in assignments
        for function in assignment.functions
    }
    wrong = {
        function
        for function, type_id in card.assigned_types
        if wanted.get(function, type_id) != type_id
    }
    if wrong:  # none of them is changed while a guest has one of them
        return not wrong & card.guest_parents
    return any(_assignment_is_incomplete(assignment, card) for assignment in assignments)


def _assignment_is_incomplete(assignment: TypeAssignment, card: Card) -> bool:
    if assignment.leftover_functions:
        return True
    assigned = dict(card.assigned_types)
    with_type = {function for function in assigned if assigned[function] == assignment.type_id}
    has_free_function = any(function not in assigned for function in assignment.functions)
    is_below_limit = assignment.limit is None or len(with_type) < assignment.limit
    if has_free_function and is_below_limit and assignment.type_id in card.creatable:
        return True
    # What guests have above the limit stays until they leave.
    is_above_limit = assignment.limit is not None and len(with_type) > assignment.limit
    return is_above_limit and bool(with_type - card.guest_parents)


def _lost_its_functions(card: Card) -> bool:
    """Whether defined guests lost vGPUs at boot, with the functions on which they were."""
    return bool(card.lost_types) and card.address not in card.guest_parents


def _lacks_functions(card: Card) -> bool:
    """Whether a card of NVIDIA's driver needs virtual functions and has none."""
    gpu = card.gpu
    # A failed sriov-manage may leave a card without a driver; it is bound to it again first.
    has_driver = gpu.driver in ("nvidia", None)
    is_disabled = card.is_sriov and not gpu.virtual_functions
    return has_driver and is_disabled and card.framework is None
