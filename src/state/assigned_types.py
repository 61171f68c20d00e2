# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The types that the charm assigned to virtual functions: assigned-types.json.

A function with a type that is not recorded here is left alone: the charm did not assign it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Iterable

from gpu.card import is_type_id
from gpu.pci import PciAddress
from state.folders import KEPT
from system.files import ensure_contents, read_json

__all__ = ["forget", "is_damaged", "load", "record"]

_PATH = KEPT / "assigned-types.json"


def load(root: Path) -> dict[PciAddress, str]:
    """Return the recorded type IDs by function."""
    assigned = {}
    for function, type_id in read_json(root / _PATH).items():
        address = _parse(function, type_id)
        if address is not None:
            assigned[address] = type_id
    return assigned


def is_damaged(root: Path) -> bool:
    """Whether there is a file, but nothing can be read from it, not even that it is empty."""
    try:
        text = (root / _PATH).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not read_json(root / _PATH) and text.strip() != "{}"


def record(root: Path, functions: Iterable[PciAddress], type_id: str) -> None:
    """Record a type before it is assigned to functions: alone, it is no sign of a guest.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    _write(root, {**read_json(root / _PATH), **{str(function): type_id for function in functions}})


def forget(root: Path, is_stale: Callable[[PciAddress, str], bool]) -> None:
    """Delete stale records.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    rows = {}
    for function, type_id in read_json(root / _PATH).items():
        address = _parse(function, type_id)
        if address is None or not is_stale(address, type_id):
            rows[function] = type_id
    _write(root, rows)


def _parse(function: str, type_id: object) -> PciAddress | None:
    """Return the function of a row; None for a row that another revision may understand."""
    try:
        address = PciAddress.parse(function)
    except ValueError:
        return None
    return address if isinstance(type_id, str) and is_type_id(type_id) else None


def _write(root: Path, rows: dict[str, Any]) -> None:
    if rows or (root / _PATH).exists():
        ensure_contents(root / _PATH, json.dumps(rows, indent=1, sort_keys=True) + "\n")
