# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the driver reported once and does not show at every moment.

types.json, kept: a full card lists no types (vendor-specific VFIO), and MIG-backed types are not
visible until the card has GPU instances. modes.json, until the next boot: only nvidia-smi reports
how a card is partitioned, and a boot undoes it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Iterable

from gpu.card import COUNT_LIMIT, NAME_LIMIT, CardMode, VgpuType, is_type_id
from gpu.pci import Gpu, PciAddress
from state.folders import KEPT, UNTIL_BOOT
from system.files import delete, ensure_contents, read_json
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

_TYPES = KEPT / "types.json"
_MODES = UNTIL_BOOT / "modes.json"
# What parsing a damaged row, or a row of another revision, can raise.
_DAMAGED = (AttributeError, KeyError, OverflowError, TypeError, ValueError)


def load_types(root: Path) -> dict[str, tuple[VgpuType, ...]]:
    """Return the types that cards have reported, by model; see `Gpu.model`."""
    types = {}
    for model, rows in read_json(root / _TYPES).items():
        with contextlib.suppress(*_DAMAGED):
            types[model] = tuple(_parse_types(rows))
    return types


def _parse_types(rows: dict[str, Any]) -> Iterable[VgpuType]:
    for type_id in sorted(rows):
        with contextlib.suppress(*_DAMAGED):
            yield _parse_type(type_id, **rows[type_id])


def _parse_type(
    type_id: str,
    name: str,
    max_instances: int | None = None,
    gpu_instance_profile: int | None = None,
    vgpus_per_gpu_instance: int = 1,
    **_: object,
) -> VgpuType:
    if not is_type_id(type_id) or not str(name).strip():
        raise ValueError(f"not a vGPU type: {type_id!r} {name!r}")
    limit = None if max_instances is None else int(max_instances)
    if limit is not None and not 0 <= limit <= COUNT_LIMIT:
        raise ValueError(f"not a number of vGPUs: {max_instances!r}")
    return VgpuType(
        id=type_id,
        name=one_line(str(name).strip(), NAME_LIMIT),
        max_instances=limit,
        gpu_instance_profile=None if gpu_instance_profile is None else int(gpu_instance_profile),
        vgpus_per_gpu_instance=max(int(vgpus_per_gpu_instance), 1),
    )


def save_types(
    root: Path, gpu: Gpu, reported: Iterable[VgpuType], *, are_all: bool = False
) -> None:
    """Keep the types that the driver reported for a card, and details it reported earlier.

    Nothing reported is no answer, and changes nothing.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        reported: its types.
        are_all: whether earlier types that are not among them are dropped.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    data = read_json(root / _TYPES)
    before = data.get(gpu.model)
    before = before if isinstance(before, dict) else {}
    rows = {} if are_all else dict(before)
    for vgpu_type in reported:
        is_detailed = (vgpu_type.gpu_instance_profile, vgpu_type.max_instances) != (None, None)
        if is_detailed or not isinstance(rows.get(vgpu_type.id), dict):
            row = before.get(vgpu_type.id)
            row = row if isinstance(row, dict) else {}
            rows[vgpu_type.id] = {**row, **_type_row(vgpu_type)}
    if rows:
        text = json.dumps({**data, gpu.model: rows}, indent=1, sort_keys=True)
        ensure_contents(root / _TYPES, text + "\n")


def _type_row(vgpu_type: VgpuType) -> dict[str, object]:
    return {
        "name": vgpu_type.name,
        "max_instances": vgpu_type.max_instances,
        "gpu_instance_profile": vgpu_type.gpu_instance_profile,
        "vgpus_per_gpu_instance": vgpu_type.vgpus_per_gpu_instance,
    }


def load_modes(root: Path) -> dict[PciAddress, CardMode]:
    """Return how cards are partitioned, of those for which it was read since the last boot."""
    modes = {}
    for address, row in read_json(root / _MODES).items():
        with contextlib.suppress(*_DAMAGED):
            modes[PciAddress.parse(address)] = _parse_mode(**row)
    return modes


def _parse_mode(
    gpu_instances: list[int],
    mixed_size: bool | None,
    vgpus_on_functions: bool = True,
    supports_mig: bool = True,
    types_queried: bool = False,
    **_: object,
) -> CardMode:
    return CardMode(
        tuple(map(int, gpu_instances)),
        None if mixed_size is None else bool(mixed_size),
        bool(vgpus_on_functions),
        bool(supports_mig),
        bool(types_queried),
    )


def save_mode(root: Path, card: PciAddress, mode: CardMode | None) -> None:
    """Keep how a card is partitioned; None forgets that, but not what the driver answered.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    modes = load_modes(root)
    before = modes.pop(card, CardMode())
    answered = CardMode(supports_mig=before.supports_mig, types_queried=before.types_queried)
    if mode is not None:
        modes[card] = mode._replace(
            types_queried=mode.types_queried or before.types_queried,
            supports_mig=mode.supports_mig and before.supports_mig,
        )
    elif answered != CardMode():
        modes[card] = answered
    _write_modes(root, modes)


def mark_queried(root: Path, card: PciAddress, *, supports_mig: bool) -> None:
    """Record that the driver was asked for all types of a card, and whether that supports MIG.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    modes = load_modes(root)
    mode = modes.get(card, CardMode())
    modes[card] = mode._replace(types_queried=True, supports_mig=supports_mig)
    _write_modes(root, modes)


def clear_queries(root: Path) -> None:
    """Forget what the driver was asked, so that it is asked again.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    modes = {
        card: mode._replace(types_queried=False, supports_mig=True)
        for card, mode in load_modes(root).items()
    }
    _write_modes(root, {card: mode for card, mode in modes.items() if mode != CardMode()})


def clear_modes(root: Path) -> None:
    """Forget all modes, as another driver may report others."""
    delete(root / _MODES)


def _write_modes(root: Path, modes: dict[PciAddress, CardMode]) -> None:
    if modes or (root / _MODES).exists():
        rows = {str(address): modes[address]._asdict() for address in sorted(modes)}
        ensure_contents(root / _MODES, json.dumps(rows) + "\n")
