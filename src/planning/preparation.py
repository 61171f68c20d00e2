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
from planning.card_requests import Share

__all__ = ["InstanceWish", "ModeStep", "TypeStep", "Work", "adds_only", "make_work", "profiles"]


class TypeStep(NamedTuple):
    """A vGPU type that virtual functions of a card are to carry (vendor VFIO).

    Attributes:
        card: its physical function.
        type_id: `nvidia-1148`.
        word: the same in the operator's words.
        functions: those that may carry it.
        limit: on how many at the most; None for as many as the card holds.
        resource_class: the class in placement, if one is asked for.
        strays: functions of the card that carry a type that nobody asks for or has.
    """

    card: PciAddress
    type_id: str
    word: str
    functions: tuple[PciAddress, ...]
    limit: int | None = None
    resource_class: str | None = None
    strays: tuple[PciAddress, ...] = ()


class InstanceWish(NamedTuple):
    """A MIG-backed type, in the operator's word, and at most how many; None: as many as fit."""

    vgpu_type: str
    limit: int | None = None


class ModeStep(NamedTuple):
    """How a card is to be parted.

    Attributes:
        card: its physical function.
        instances: the MIG-backed types that it is to offer; none: it is time-sliced.
        mixed_size: whether its vGPUs are to differ in size.
        words: the types that it is to offer, in the operator's words.
        keeps: whether the GPU instances that it has besides are not ours to destroy.
    """

    card: PciAddress
    instances: tuple[InstanceWish, ...] = ()
    mixed_size: bool = False
    words: tuple[str, ...] = ()
    keeps: bool = False


class Work(NamedTuple):
    """What is to be true of the cards that a mapping names, or that defined guests have.

    Attributes:
        enable: the cards whose virtual functions are to be enabled.
        as_is: those of them that no request names, whose mode is not ours to change.
        modes: the cards that are to be parted in another way than they come.
        types: the types that virtual functions are to carry (vendor VFIO).
        due: the cards of which some of it is not true yet.
    """

    enable: tuple[PciAddress, ...] = ()
    as_is: tuple[PciAddress, ...] = ()
    modes: tuple[ModeStep, ...] = ()
    types: tuple[TypeStep, ...] = ()
    due: tuple[PciAddress, ...] = ()

    @property
    def is_due(self) -> bool:
        """Whether some of it is not true yet."""
        return bool(self.due)


def make_work(shares: list[Share], cards: tuple[Card, ...]) -> Work:
    """Say what the shares of the cards need."""
    enable: list[PciAddress] = []
    as_is: list[PciAddress] = []
    modes: list[ModeStep] = []
    types: list[TypeStep] = []
    due: list[PciAddress] = []
    for card in cards:
        mine = [share for share in shares if share.card is card]
        is_off = (bool(mine) or _owes_functions(card)) and _is_without_functions(card)
        steps = tuple(_type_steps(mine))
        mode = _mode_step(mine) if mine else _guests_step(card)
        if is_off:
            enable.append(card.gpu.address)
            if not mine and mode is None:
                as_is.append(card.gpu.address)
        types += steps
        if mode is not None:
            modes.append(mode)
        if is_off or _is_mode_due(mode, mine, card) or (mine and _types_differ(steps, card)):
            due.append(card.gpu.address)
    return Work(tuple(enable), tuple(as_is), tuple(modes), tuple(types), tuple(due))


def _is_mode_due(mode: ModeStep | None, shares: list[Share], card: Card) -> bool:
    """Whether a card is to be parted in another way, or its driver to be asked."""
    if mode is None:
        return False
    if any(share.is_unasked for share in shares):
        return True
    lost = any(map(_is_lost, shares)) if mode.instances else _is_hidden(card)
    is_free = not card.in_use or adds_only(mode, card)
    return is_free and (lost or _mode_differs(mode, card))


def profiles(step: ModeStep, card: Card) -> tuple[int, ...] | None:
    """Return the GPU instance profiles that a step asks for; None if one is not known yet."""
    found: list[int] = []
    for wish in step.instances:
        known = card.find_mig_type(wish.vgpu_type)
        if known is None or known.profile is None or known.maximum is None:
            return None
        number = known.maximum if wish.limit is None else min(wish.limit, known.maximum)
        found += [known.profile] * -(-number // known.per_instance)
    return tuple(sorted(found))


def adds_only(step: ModeStep, card: Card) -> bool:
    """Whether a step takes but new GPU instances, which costs none that is there."""
    wanted, mode = profiles(step, card), card.mode
    if wanted is None or mode is None or not mode.instances:
        return False
    return step.keeps or not Counter(mode.instances) - Counter(wanted)


def _type_steps(shares: list[Share]) -> Iterator[TypeStep]:
    named = {function for share in shares for function in share.functions}
    for share in shares:
        if share.card.framework is Framework.VENDOR_VFIO and share.vgpu_type is not None:
            yield TypeStep(
                card=share.card.gpu.address,
                type_id=share.vgpu_type.id,
                word=share.request.vgpu_type,
                functions=share.functions,
                limit=share.limit,
                resource_class=share.request.resource_class,
                strays=tuple(
                    function
                    for function, _ in share.card.carried
                    if function not in named and function not in share.card.occupied
                ),
            )


def _mode_step(shares: list[Share]) -> ModeStep | None:
    """Return how a card is to be parted; None if it may stay as it comes."""
    card = shares[0].card
    if not card.is_sriov:  # mediated devices of the card itself know neither way
        return None
    wishes = [share for share in shares if share.is_mig_backed]
    if wishes and len(wishes) < len(shares):  # refused: see plan
        return None
    if any(share.is_impossible for share in shares):
        return None
    sizes = {share.vgpu_type.framebuffer for share in shares if share.vgpu_type is not None}
    step = ModeStep(
        card=card.gpu.address,
        instances=tuple(
            InstanceWish(share.request.vgpu_type, _most(share))
            for share in wishes
            if share.limit != 0
        ),
        mixed_size=not wishes and len(sizes) > 1,
        words=tuple(share.request.vgpu_type for share in shares),
    )
    is_changed = card.mode is not None and bool(card.mode.instances or card.mode.mixed_size)
    is_other = is_changed or _is_hidden(card) or any(share.is_unasked for share in shares)
    return step if step.instances or step.mixed_size or is_other else None


def _is_hidden(card: Card) -> bool:
    """Whether a card shows no time-sliced type: it may have come up in MIG mode."""
    return bool(card.parents) and all(known.is_mig_backed for known in card.shown)


def _guests_step(card: Card) -> ModeStep | None:
    """Return the GPU instances that a boot took from defined guests of a card nobody asks for."""
    wishes = [
        InstanceWish(owed.name, sum(type_id == owed.id for _, type_id in card.held))
        for owed in card.owed
        if owed.is_mig_backed
    ]
    words = tuple(wish.vgpu_type for wish in wishes)
    return ModeStep(card.gpu.address, tuple(wishes), words=words, keeps=True) if wishes else None


def _most(share: Share) -> int | None:
    """Return how many vGPUs the instances of a share are to hold; None: as many as fit."""
    if share.target.whole:
        return share.limit
    named = len({*share.target.parents, *share.guests})
    return named if share.limit is None else min(named, max(share.limit, len(share.guests)))


def _is_lost(share: Share) -> bool:
    """Whether a card shows nothing of a type that it was parted for."""
    card = share.card
    if card.framework is not Framework.VENDOR_VFIO or share.vgpu_type is None:
        return not share.is_offered
    return not card.carried and share.vgpu_type.id not in card.creatable


def _mode_differs(step: ModeStep, card: Card) -> bool:
    if card.mode is None:
        return True
    if step.mixed_size and card.mode.mixed_size is None:  # it cannot be
        return False
    wanted = profiles(step, card)
    if step.keeps and wanted is not None:
        return bool(Counter(wanted) - Counter(card.mode.instances))
    return (wanted, step.mixed_size) != (card.mode.instances, card.mode.mixed_size is True)


def _types_differ(steps: tuple[TypeStep, ...], card: Card) -> bool:
    """Whether functions carry what they should not, or could carry more of what they should."""
    wanted = {function: step.type_id for step in steps for function in step.functions}
    carried, occupied = dict(card.carried), card.occupied
    others = {each for each, found in carried.items() if wanted.get(each, found) != found}
    if others:  # none of them goes while a guest has one
        return not others & occupied
    for step in steps:
        if step.strays:
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


def _owes_functions(card: Card) -> bool:
    """Whether a boot took vGPUs of defined guests, and the functions that had them."""
    return bool(card.owed) and card.gpu.address not in card.occupied


def _is_without_functions(card: Card) -> bool:
    """Whether a card that is NVIDIA's driver's has SR-IOV and nothing to offer but through it."""
    gpu = card.gpu
    # sriov-manage may leave a card without a driver when it fails; it is bound again first.
    is_ours = gpu.driver in ("nvidia", None)
    is_without = card.is_sriov and not gpu.virtual_functions
    return is_ours and is_without and card.framework is None
