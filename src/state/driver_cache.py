# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the driver told once and does not show at every moment.

Types: a full card lists none (vendor-specific VFIO), and MIG-backed ones are invisible until the
card has GPU instances. Modes: nvidia-smi alone tells them, and the next boot takes them, as it
takes /run.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Iterable

from gpu.card import COUNT_LIMIT, NAME_LIMIT, Mode, VgpuType, type_number
from host.gpus import Gpu, PciAddress
from system.files import ensure_text
from system.text import one_line

__all__ = [
    "forget_answers",
    "forget_modes",
    "modes",
    "remember_asked",
    "remember_mode",
    "remember_types",
    "types",
]

_TYPES = Path("var/lib/nova-compute-nvidia-vgpu/types.json")
# What reading a record of another shape, or a damaged one, can end in.
_DAMAGED = (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError)
_MODES = Path("run/nova-compute-nvidia-vgpu/modes.json")


def types(root: Path) -> dict[str, tuple[VgpuType, ...]]:
    """Return the types that cards were seen to offer, by their model; see `Gpu.model`."""
    try:
        data = json.loads((root / _TYPES).read_text(encoding="utf-8"))
        return {str(model): tuple(_type(*row) for row in rows) for model, rows in data.items()}
    except _DAMAGED:
        return {}


def _type(
    type_id: str,
    name: str,
    maximum: int | None = None,
    profile: int | None = None,
    per_instance: int = 1,
) -> VgpuType:
    if type_number(str(type_id)) is None or not str(name).strip():
        raise ValueError(f"no vGPU type: {type_id!r} {name!r}")
    numbers = [None if found is None else int(found) for found in (maximum, profile)]
    if numbers[0] is not None and not 0 <= numbers[0] <= COUNT_LIMIT:
        raise ValueError(f"no number of vGPUs: {maximum!r}")
    return VgpuType(
        id=str(type_id),
        name=one_line(str(name).strip(), NAME_LIMIT),
        maximum=numbers[0],
        profile=numbers[1],
        per_instance=max(int(per_instance), 1),
    )


def remember_types(
    root: Path, gpu: Gpu, told: Iterable[VgpuType], *, are_all: bool = False
) -> None:
    """Keep what the driver told of a card; what it told in more detail before stays.

    Nothing told is no answer.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        told: its types.
        are_all: whether no others are known any more.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = types(root)
    found = {} if are_all else {each.id: each for each in known.get(gpu.model, ())}
    for each in told:
        if each.profile is not None or each.maximum is not None or each.id not in found:
            found[each.id] = each
    if not found:
        return
    known[gpu.model] = tuple(sorted(found.values(), key=lambda each: each.id))
    rows = {model: [_row(each) for each in known[model]] for model in sorted(known)}
    ensure_text(root / _TYPES, json.dumps(rows, indent=1) + "\n")


def _row(told: VgpuType) -> list[object]:
    return [told.id, told.name, told.maximum, told.profile, told.per_instance]


def modes(root: Path) -> dict[PciAddress, Mode]:
    """Return the modes of cards, as far as somebody looked in this boot."""
    try:
        data = json.loads((root / _MODES).read_text(encoding="utf-8"))
        return {PciAddress.parse(card): _mode(*row) for card, row in data.items()}
    except _DAMAGED:
        return {}


def _mode(
    instances: list[int],
    mixed_size: bool | None,
    on_functions: bool = True,
    has_mig: bool = True,
    is_asked: bool = False,
) -> Mode:
    profiles = tuple(map(int, instances))
    return Mode(profiles, mixed_size, bool(on_functions), bool(has_mig), bool(is_asked))


def remember_asked(root: Path, card: PciAddress, *, has_mig: bool) -> None:
    """Keep that the driver was asked in this boot what a card can be, and whether it has MIG.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = modes(root)
    known[card] = known.get(card, Mode())._replace(is_asked=True, has_mig=has_mig)
    _write_modes(root, known)


def forget_answers(root: Path) -> None:
    """Let the driver be asked again.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = modes(root)
    kept = {card: known[card]._replace(is_asked=False, has_mig=True) for card in known}
    _write_modes(root, {card: mode for card, mode in kept.items() if mode != Mode()})


def forget_modes(root: Path) -> None:
    """Forget all of that, as another driver may tell something else."""
    with contextlib.suppress(OSError):
        (root / _MODES).unlink()


def remember_mode(root: Path, card: PciAddress, mode: Mode | None) -> None:
    """Keep the mode of a card; None forgets how it is parted, but not what the driver answered.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = modes(root)
    before = known.pop(card, Mode())
    answered = Mode(has_mig=before.has_mig, is_asked=before.is_asked)
    if mode is not None:
        is_asked = mode.is_asked or before.is_asked
        has_mig = mode.has_mig and before.has_mig
        known[card] = mode._replace(is_asked=is_asked, has_mig=has_mig)
    elif answered != Mode():
        known[card] = answered
    _write_modes(root, known)


def _write_modes(root: Path, known: dict[PciAddress, Mode]) -> None:
    if known or (root / _MODES).exists():
        rows = {str(address): known[address] for address in sorted(known)}
        ensure_text(root / _MODES, json.dumps(rows) + "\n")
