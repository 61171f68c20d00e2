# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the charm must remember because the machine cannot tell it.

One JSON file. `paused`, `answered_trigger`, `wish`, `fulfilled` and `has_reported` carry meaning;
the others spare work or repeat an earlier answer, and may be lost at any time.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from system.files import ensure_contents

__all__ = ["CharmState", "adopt_card_records", "delete", "load", "save"]

FOLDER = Path("var/lib/nova-compute-nvidia-vgpu")
_LEFT = Path("run/nova-compute-nvidia-vgpu.left")
_OF_THE_CARDS = ("carried.json", "types.json")  # which functions carry what, and what it is called

logger = logging.getLogger(__name__)


class CharmState(NamedTuple):
    """The charm's memory on one host.

    Attributes:
        paused: the action `pause` holds.
        handled_restart_trigger: the last restart-trigger of the principal that was acted on.
        restart_pending: an answer to it waits until no vGPU is in use.
        requested_mapping: the last valid value of the option; the boot service applies it.
        applied_mapping: the last one that came true, to which it falls back.
        requested_report_in_placement: whether the wish goes with report-in-placement.
        failed_attempt: digest of the assessment with which the boot service failed.
        failed_at: when that was, seconds since 1970; it is tried again an hour later.
        validated_mapping_digest: digest of the option's value that last passed the schema.
        reported_in_placement: whether nova.conf has ever had report_in_placement; Nova then
            requires it.
        is_related: whether the relation to nova-compute was there at the last event.
        workload_version: the driver's version that Juju was told.
        published_digest: digest of the data that was last seen in the relation.
        resource_path: path of the resource's file when Juju was last asked.
        resource_stamp: its size and time of change, when it was looked into.
        resource_inspection: what it was then: package, version, architecture, depends; or the
            problem's kind and words.
        install_failure: kind and words of what the last attempt to install failed with.
    """

    paused: bool = False
    handled_restart_trigger: str = ""
    restart_pending: bool = False
    requested_mapping: str = ""
    applied_mapping: str = ""
    requested_report_in_placement: bool = False
    failed_attempt: str = ""
    failed_at: int = 0
    validated_mapping_digest: str = ""
    reported_in_placement: bool = False
    is_related: bool = False
    workload_version: str = ""
    published_digest: str = ""
    resource_path: str = ""
    resource_stamp: str = ""
    resource_inspection: tuple[str, ...] = ()
    install_failure: tuple[str, ...] = ()


def load(root: Path) -> CharmState:
    """Read the memory; a missing or damaged file is an empty memory."""
    path = root / FOLDER / "memory.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return CharmState()
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read, starting anew: %s", path, error)
        return CharmState()
    found: dict[str, Any] = {}
    for name, default in CharmState._field_defaults.items():
        value = data.get(name) if isinstance(data, dict) else None
        if isinstance(value, list):
            value = tuple(str(word) for word in value)
        if type(value) is type(default):
            found[name] = value
    return CharmState(**found)


def save(root: Path, memory: CharmState) -> None:
    """Write the memory, if it changed.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    text = json.dumps(memory._asdict(), indent=1, sort_keys=True) + "\n"
    ensure_contents(root / FOLDER / "memory.json", text, mode=0o600)


def delete(root: Path) -> None:
    """Forget everything; until the next boot a unit that follows may know what the cards carry."""
    _move(root / FOLDER, root / _LEFT)
    shutil.rmtree(root / FOLDER, ignore_errors=True)


def adopt_card_records(root: Path) -> None:
    """Take over what a unit that was here before, in this boot, knew of the cards."""
    _move(root / _LEFT, root / FOLDER)


def _move(source: Path, target: Path) -> None:
    for name in _OF_THE_CARDS:
        if (source / name).is_file() and not (target / name).exists():
            try:
                target.mkdir(parents=True, exist_ok=True)
                shutil.move(str(source / name), str(target / name))
            except OSError as error:
                logger.warning("%s cannot be kept: %s", source / name, error)
