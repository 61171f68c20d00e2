# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is to be true of the cards before their vGPUs can be offered; pure.

Virtual functions, the mode that parts a card, vGPU types on functions: all of it is gone after a
boot.
"""

from __future__ import annotations

from collections import Counter
from typing import Iterator, NamedTuple

from gpu.card import Card, Framework
from host.gpus import PciAddress
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
    """A vGPU type that virtual functions of a card are to carry (vendor VFIO).

    Attributes:
        card: its physical function.
        type_id: `nvidia-1148`.
        requested_type: the same in the operator's words.
        functions: those that may carry it.
        limit: on how many at the most; None for as many as the card holds.
        resource_class: the class in placement, if one is asked for.
        leftover_functions: functions of the card that carry a type that nobody asks for or has.
    """

    card: PciAddress
    type_id: str
    requested_type: str
    functions: tuple[PciAddress, ...]
    limit: int | None = None
    resource_class: str | None = None
    leftover_functions: tuple[PciAddress, ...] = ()


class InstanceRequest(NamedTuple):
    """A MIG-backed type, in the operator's word, and at most how many; None: as many as fit."""

    vgpu_type: str
    limit: int | None = None


class Partitioning(NamedTuple):
    """How a card is to be parted.

    Attributes:
        card: its physical function.
        instance_requests: the MIG-backed types that it is to offer; none: it is time-sliced.
        mixed_size: whether its vGPUs are to differ in size.
        requested_types: the types that it is to offer, in the operator's words.
        keeps_other_instances: whether its other GPU instances stay as they are.
    """

    card: PciAddress
    instance_requests: tuple[InstanceRequest, ...] = ()
    mixed_size: bool = False
    requested_types: tuple[str, ...] = ()
    keeps_other_instances: bool = False


class Preparation(NamedTuple):
    """What is to be true of the cards that a mapping names, or that defined guests have.

    Attributes:
        enable: the cards whose virtual functions are to be enabled.
        keep_mode: those of them that no request names, whose mode is not ours to change.
        partitionings: the cards that are to be parted in another way than they come.
        type_assignments: the types that virtual functions are to carry (vendor VFIO).
        pending: the cards of which some of it is not true yet.
    """

    enable: tuple[PciAddress, ...] = ()
    keep_mode: tuple[PciAddress, ...] = ()
    partitionings: tuple[Partitioning, ...] = ()
    type_assignments: tuple[TypeAssignment, ...] = ()
    pending: tuple[PciAddress, ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether some of it is not true yet."""
        return bool(self.pending)


def plan_preparation(shares: list[CardRequest], cards: tuple[Card, ...]) -> Preparation:
    """Say what the shares of the cards need."""
    enable: list[PciAddress] = []
    as_is: list[PciAddress] = []
    modes: list[Partitioning] = []
    types: list[TypeAssignment] = []
    due: list[PciAddress] = []
    for card in cards:
        mine = [share for share in shares if share.card is card]
        is_off = (bool(mine) or _lost_its_functions(card)) and _lacks_functions(card)
        steps = tuple(_type_assignments(mine))
        mode = _partitioning(mine) if mine else _partitioning_for_guests(card)
        if is_off:
            enable.append(card.gpu.address)
            if not mine and mode is None:
                as_is.append(card.gpu.address)
        types += steps
        if mode is not None:
            modes.append(mode)
        if (
            is_off
            or _needs_partitioning(mode, mine, card)
            or (mine and _types_differ(steps, card))
        ):
            due.append(card.gpu.address)
    return Preparation(tuple(enable), tuple(as_is), tuple(modes), tuple(types), tuple(due))


def _needs_partitioning(mode: Partitioning | None, shares: list[CardRequest], card: Card) -> bool:
    """Whether a card is to be parted in another way, or its driver to be asked."""
    if mode is None:
        return False
    if any(share.needs_type_query for share in shares):
        return True
    lost = (
        any(map(_lost_its_types, shares))
        if mode.instance_requests
        else _shows_no_time_sliced_type(card)
    )
    is_free = not card.in_use or only_adds_instances(mode, card)
    return is_free and (lost or _partitioning_differs(mode, card))


def gpu_instance_profiles(step: Partitioning, card: Card) -> tuple[int, ...] | None:
    """Return the GPU instance profiles that a step asks for; None if one is not known yet."""
    found: list[int] = []
    for wish in step.instance_requests:
        known = card.find_mig_backed_type(wish.vgpu_type)
        if known is None or known.gpu_instance_profile is None or known.max_instances is None:
            return None
        number = (
            known.max_instances if wish.limit is None else min(wish.limit, known.max_instances)
        )
        found += [known.gpu_instance_profile] * -(-number // known.vgpus_per_gpu_instance)
    return tuple(sorted(found))


def only_adds_instances(step: Partitioning, card: Card) -> bool:
    """Whether a step takes but new GPU instances, which costs none that is there."""
    wanted, mode = gpu_instance_profiles(step, card), card.mode
    if wanted is None or mode is None or not mode.gpu_instances:
        return False
    return step.keeps_other_instances or not Counter(mode.gpu_instances) - Counter(wanted)


def _type_assignments(shares: list[CardRequest]) -> Iterator[TypeAssignment]:
    named = {function for share in shares for function in share.functions}
    for share in shares:
        if share.card.framework is Framework.VENDOR_VFIO and share.vgpu_type is not None:
            yield TypeAssignment(
                card=share.card.gpu.address,
                type_id=share.vgpu_type.id,
                requested_type=share.request.vgpu_type,
                functions=share.functions,
                limit=share.limit,
                resource_class=share.request.resource_class,
                leftover_functions=tuple(
                    function
                    for function, _ in share.card.assigned_types
                    if function not in named and function not in share.card.guest_parents
                ),
            )


def _partitioning(shares: list[CardRequest]) -> Partitioning | None:
    """Return how a card is to be parted; None if it may stay as it comes."""
    card = shares[0].card
    if not card.is_sriov:  # mediated devices of the card itself know neither way
        return None
    wishes = [share for share in shares if share.is_mig_backed]
    if wishes and len(wishes) < len(shares):  # refused: see plan
        return None
    if any(share.is_unsupported for share in shares):
        return None
    sizes = {share.vgpu_type.framebuffer for share in shares if share.vgpu_type is not None}
    step = Partitioning(
        card=card.gpu.address,
        instance_requests=tuple(
            InstanceRequest(share.request.vgpu_type, _instance_limit(share))
            for share in wishes
            if share.limit != 0
        ),
        mixed_size=not wishes and len(sizes) > 1,
        requested_types=tuple(share.request.vgpu_type for share in shares),
    )
    is_changed = card.mode is not None and bool(card.mode.gpu_instances or card.mode.mixed_size)
    is_other = (
        is_changed
        or _shows_no_time_sliced_type(card)
        or any(share.needs_type_query for share in shares)
    )
    return step if step.instance_requests or step.mixed_size or is_other else None


def _shows_no_time_sliced_type(card: Card) -> bool:
    """Whether a card shows no time-sliced type: it may have come up in MIG mode."""
    return bool(card.parents) and all(known.is_mig_backed for known in card.visible_types)


def _partitioning_for_guests(card: Card) -> Partitioning | None:
    """Return the GPU instances that a boot took from defined guests of a card nobody asks for."""
    wishes = [
        InstanceRequest(owed.name, sum(type_id == owed.id for _, type_id in card.guest_vgpus))
        for owed in card.lost_types
        if owed.is_mig_backed
    ]
    words = tuple(wish.vgpu_type for wish in wishes)
    return (
        Partitioning(
            card.gpu.address, tuple(wishes), requested_types=words, keeps_other_instances=True
        )
        if wishes
        else None
    )


def _instance_limit(share: CardRequest) -> int | None:
    """Return how many vGPUs the instances of a share are to hold; None: as many as fit."""
    if share.match.is_whole_card:
        return share.limit
    named = len({*share.match.parents, *share.guests})
    return named if share.limit is None else min(named, max(share.limit, len(share.guests)))


def _lost_its_types(share: CardRequest) -> bool:
    """Whether a card shows nothing of a type that it was parted for."""
    card = share.card
    if card.framework is not Framework.VENDOR_VFIO or share.vgpu_type is None:
        return not share.is_offered
    return not card.assigned_types and share.vgpu_type.id not in card.creatable


def _partitioning_differs(step: Partitioning, card: Card) -> bool:
    if card.mode is None:
        return True
    if step.mixed_size and card.mode.mixed_size is None:  # it cannot be
        return False
    wanted = gpu_instance_profiles(step, card)
    if step.keeps_other_instances and wanted is not None:
        return bool(Counter(wanted) - Counter(card.mode.gpu_instances))
    return (wanted, step.mixed_size) != (card.mode.gpu_instances, card.mode.mixed_size is True)


def _types_differ(steps: tuple[TypeAssignment, ...], card: Card) -> bool:
    """Whether functions carry what they should not, or could carry more of what they should."""
    wanted = {function: step.type_id for step in steps for function in step.functions}
    carried, occupied = dict(card.assigned_types), card.guest_parents
    others = {each for each, found in carried.items() if wanted.get(each, found) != found}
    if others:  # none of them goes while a guest has one
        return not others & occupied
    for step in steps:
        if step.leftover_functions:
            return True
        mine = [function for function, found in carried.items() if found == step.type_id]
        is_free = any(function not in carried for function in step.functions)
        has_room = step.limit is None or len(mine) < step.limit
        if is_free and has_room and step.type_id in card.creatable:
            return True
        # What guests have over the limit stays until they go.
        surplus = 0 if step.limit is None else len(mine) - step.limit
        if surplus > 0 and set(mine) - occupied:
            return True
    return False


def _lost_its_functions(card: Card) -> bool:
    """Whether a boot took vGPUs of defined guests, and the functions that had them."""
    return bool(card.lost_types) and card.gpu.address not in card.guest_parents


def _lacks_functions(card: Card) -> bool:
    """Whether a card that is NVIDIA's driver's has SR-IOV and nothing to offer but through it."""
    gpu = card.gpu
    # sriov-manage may leave a card without a driver when it fails; it is bound again first.
    is_ours = gpu.driver in ("nvidia", None)
    is_without = card.is_sriov and not gpu.virtual_functions
    return is_ours and is_without and card.framework is None
