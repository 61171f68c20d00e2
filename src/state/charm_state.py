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

from system.files import ensure_text

__all__ = ["Memory", "adopt", "load", "remove", "save"]

FOLDER = Path("var/lib/nova-compute-nvidia-vgpu")
_LEFT = Path("run/nova-compute-nvidia-vgpu.left")
_OF_THE_CARDS = ("carried.json", "types.json")  # which functions carry what, and what it is called

logger = logging.getLogger(__name__)


class Memory(NamedTuple):
    """The charm's memory on one host.

    Attributes:
        paused: the action `pause` holds.
        answered_trigger: the last restart-trigger of the principal that was acted on.
        restart_waits: an answer to it waits until no vGPU is in use.
        wish: the option's value that was last found good; the boot service goes by it.
        fulfilled: the last one that came true, to which it falls back.
        reports: whether the wish goes with report-in-placement.
        vain: digest of the situation in which the boot service could not do what was asked for.
        vain_since: when that was, seconds since 1970; it is tried again an hour later.
        checked_mapping: digest of the option's value that last passed the schema.
        has_reported: whether nova.conf has said report_in_placement, which Nova wants for good.
        is_related: whether the relation to nova-compute was there at the last event.
        version: the driver's version that Juju was told.
        published: digest of the data that was last seen in the relation.
        resource: path of the resource's file when Juju was last asked.
        resource_stamp: its size and time of change, when it was looked into.
        resource_package: what it was then: package, version, architecture, depends; or the
            problem's kind and words.
        failure: kind and words of what the last attempt to install failed with.
    """

    paused: bool = False
    answered_trigger: str = ""
    restart_waits: bool = False
    wish: str = ""
    fulfilled: str = ""
    reports: bool = False
    vain: str = ""
    vain_since: int = 0
    checked_mapping: str = ""
    has_reported: bool = False
    is_related: bool = False
    version: str = ""
    published: str = ""
    resource: str = ""
    resource_stamp: str = ""
    resource_package: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()


def load(root: Path) -> Memory:
    """Read the memory; a missing or damaged file is an empty memory."""
    path = root / FOLDER / "memory.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read, starting anew: %s", path, error)
        return Memory()
    found: dict[str, Any] = {}
    for name, default in Memory._field_defaults.items():
        value = data.get(name) if isinstance(data, dict) else None
        if isinstance(value, list):
            value = tuple(str(word) for word in value)
        if type(value) is type(default):
            found[name] = value
    return Memory(**found)


def save(root: Path, memory: Memory) -> None:
    """Write the memory, if it changed.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    text = json.dumps(memory._asdict(), indent=1, sort_keys=True) + "\n"
    ensure_text(root / FOLDER / "memory.json", text, mode=0o600)


def remove(root: Path) -> None:
    """Forget everything; until the next boot a unit that follows may know what the cards carry."""
    _move(root / FOLDER, root / _LEFT)
    shutil.rmtree(root / FOLDER, ignore_errors=True)


def adopt(root: Path) -> None:
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
