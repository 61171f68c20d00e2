# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The folders of the charm's own files, and what happens to them when a unit is removed."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from system import files

__all__ = ["IN_PLACEMENT", "KEPT", "UNTIL_BOOT", "adopt_card_records", "delete"]

KEPT = Path("var/lib/nova-compute-nvidia-vgpu")
# Outlives the unit: Nova does not start without report_in_placement once it has had it.
IN_PLACEMENT = KEPT / "reports-in-placement"
UNTIL_BOOT = Path("run/nova-compute-nvidia-vgpu")
_LEFT = Path("run/nova-compute-nvidia-vgpu.left")
# What describes the cards, not the unit.
_CARD_RECORDS = ("assigned-types.json", "bound-functions.json", "types.json")

logger = logging.getLogger(__name__)


def delete(root: Path) -> None:
    """Delete all kept files; a unit that follows before the next boot can adopt those of cards."""
    _move_card_records(root / KEPT, root / _LEFT)
    for path in (root / KEPT).glob("*"):
        if path == root / IN_PLACEMENT:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            continue
        files.delete(path)
    with contextlib.suppress(OSError):
        (root / KEPT).rmdir()


def adopt_card_records(root: Path) -> None:
    """Take over the card records of a unit that was removed since the last boot."""
    _move_card_records(root / _LEFT, root / KEPT)


def _move_card_records(source: Path, target: Path) -> None:
    for name in _CARD_RECORDS:
        if (source / name).is_file() and not (target / name).exists():
            try:
                target.mkdir(parents=True, exist_ok=True)
                shutil.move(str(source / name), str(target / name))
            except OSError as error:
                logger.warning("%s cannot be kept: %s", source / name, error)
