# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which unit of the charm manages this host: owner.json.

Two applications, or one that is related in two ways, put two units on one host. Driver, cards and
boot service exist only once, so one unit manages them, and the others do nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from state import charm_state, folders
from state.charm_state import CharmState
from state.folders import KEPT
from system.files import ensure_contents, read_json

__all__ = ["Owner", "other_owner", "take_over"]

_PATH = KEPT / "owner.json"


class Owner(NamedTuple):
    """A unit of the charm on this host."""

    unit: str  # nova-compute-nvidia-vgpu/0
    charm: str  # its folder


def other_owner(root: Path, this: Owner) -> str | None:
    """Return the other unit that manages this host; None if there is none, or it is gone.

    A unit that was removed with `--force` has left its files, but not its charm.
    """
    data = read_json(root / _PATH)
    unit, charm = str(data.get("unit", "")), str(data.get("charm", ""))
    if unit in ("", this.unit) or not (root / charm.lstrip("/") / "src/charm.py").is_file():
        return None
    return unit


def take_over(root: Path, this: Owner) -> None:
    """Record that a unit manages this host; discard the state of the previous one.

    Records of the cards are kept.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    before = read_json(root / _PATH)
    text = json.dumps(this._asdict()) + "\n"
    if before.get("unit", this.unit) != this.unit:
        in_placement = charm_state.load(root).reported_in_placement
        charm_state.save(root, CharmState(reported_in_placement=in_placement))
    if not before:
        folders.adopt_card_records(root)
    ensure_contents(root / _PATH, text)
