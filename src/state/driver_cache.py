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

from gpu.card import COUNT_LIMIT, NAME_LIMIT, CardMode, VgpuType, type_number
from host.gpus import Gpu, PciAddress
from system.files import ensure_contents
from system.text import one_line

__all__ = [
    "clear_modes",
    "clear_queries",
    "load_modes",
    "load_types",
    "mark_queried",
    "save_mode",
    "save_types",
]

_TYPES = Path("var/lib/nova-compute-nvidia-vgpu/types.json")
# What reading a record of another shape, or a damaged one, can end in.
_DAMAGED = (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError)
_MODES = Path("run/nova-compute-nvidia-vgpu/modes.json")


def load_types(root: Path) -> dict[str, tuple[VgpuType, ...]]:
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
        max_instances=numbers[0],
        gpu_instance_profile=numbers[1],
        vgpus_per_gpu_instance=max(int(per_instance), 1),
    )


def save_types(root: Path, gpu: Gpu, told: Iterable[VgpuType], *, are_all: bool = False) -> None:
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
    known = load_types(root)
    found = {} if are_all else {each.id: each for each in known.get(gpu.model, ())}
    for each in told:
        if (
            each.gpu_instance_profile is not None
            or each.max_instances is not None
            or each.id not in found
        ):
            found[each.id] = each
    if not found:
        return
    known[gpu.model] = tuple(sorted(found.values(), key=lambda each: each.id))
    rows = {model: [_row(each) for each in known[model]] for model in sorted(known)}
    ensure_contents(root / _TYPES, json.dumps(rows, indent=1) + "\n")


def _row(told: VgpuType) -> list[object]:
    return [
        told.id,
        told.name,
        told.max_instances,
        told.gpu_instance_profile,
        told.vgpus_per_gpu_instance,
    ]


def load_modes(root: Path) -> dict[PciAddress, CardMode]:
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
) -> CardMode:
    profiles = tuple(map(int, instances))
    return CardMode(profiles, mixed_size, bool(on_functions), bool(has_mig), bool(is_asked))


def mark_queried(root: Path, card: PciAddress, *, has_mig: bool) -> None:
    """Keep that the driver was asked in this boot what a card can be, and whether it has MIG.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = load_modes(root)
    known[card] = known.get(card, CardMode())._replace(types_queried=True, supports_mig=has_mig)
    _write_modes(root, known)


def clear_queries(root: Path) -> None:
    """Let the driver be asked again.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = load_modes(root)
    kept = {card: known[card]._replace(types_queried=False, supports_mig=True) for card in known}
    _write_modes(root, {card: mode for card, mode in kept.items() if mode != CardMode()})


def clear_modes(root: Path) -> None:
    """Forget all of that, as another driver may tell something else."""
    with contextlib.suppress(OSError):
        (root / _MODES).unlink()


def save_mode(root: Path, card: PciAddress, mode: CardMode | None) -> None:
    """Keep the mode of a card; None forgets how it is parted, but not what the driver answered.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = load_modes(root)
    before = known.pop(card, CardMode())
    answered = CardMode(supports_mig=before.supports_mig, types_queried=before.types_queried)
    if mode is not None:
        is_asked = mode.types_queried or before.types_queried
        has_mig = mode.supports_mig and before.supports_mig
        known[card] = mode._replace(types_queried=is_asked, supports_mig=has_mig)
    elif answered != CardMode():
        known[card] = answered
    _write_modes(root, known)


def _write_modes(root: Path, known: dict[PciAddress, CardMode]) -> None:
    if known or (root / _MODES).exists():
        rows = {str(address): known[address] for address in sorted(known)}
        ensure_contents(root / _MODES, json.dumps(rows) + "\n")
