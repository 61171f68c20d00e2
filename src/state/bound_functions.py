# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The functions that the charm binds to vfio-pci: bound-functions.json.

Each boot binds them again, and only these go back to their own driver: those that an operator has
bound are left alone. Only hooks add to them; see `cards.whole_cards`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable, Mapping

from gpu.pci import PciAddress, PciFunction, PciId
from state.folders import KEPT
from system.files import ensure_contents, read_json

__all__ = ["forget", "load", "record"]

_PATH = KEPT / "bound-functions.json"


def load(root: Path) -> dict[PciAddress, PciId]:
    """Return the recorded functions, each with the ID of the device that was there then."""
    rows = read_json(root / _PATH).items()
    parsed = (_parse(address, str(pci_id)) for address, pci_id in rows)
    return dict(row for row in parsed if row is not None)


def record(root: Path, functions: Iterable[PciFunction]) -> None:
    """Record functions before they are bound.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    _write(root, {**load(root), **{function.address: function.id for function in functions}})


def forget(root: Path, addresses: Iterable[PciAddress]) -> None:
    """Delete the records of functions that are back with their own driver, or gone.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    left = load(root)
    for address in addresses:
        left.pop(address, None)
    _write(root, left)


def _parse(address: str, pci_id: str) -> tuple[PciAddress, PciId] | None:
    """Return a row; None for one that another revision may understand."""
    try:
        return PciAddress.parse(address), PciId.parse(pci_id)
    except ValueError:
        return None


def _write(root: Path, functions: Mapping[PciAddress, PciId]) -> None:
    rows = {str(address): str(functions[address]) for address in sorted(functions)}
    if rows or (root / _PATH).exists():
        ensure_contents(root / _PATH, json.dumps(rows, indent=1) + "\n")
