# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Guests' own mediated devices, which a boot takes and their guests cannot start without.

libvirt's definition of a guest names its mediated device by UUID alone, so card and type are
recorded while the device is there. Nova 30 and later with libvirt 7.3 make the devices again by
themselves, https://bugs.launchpad.net/nova/+bug/1977933; but only those that they made in the
first place and, therefore, defined, and not those from before an upgrade.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from pathlib import Path
from typing import Callable, NamedTuple

from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host import libvirt_guests
from host.gpus import PciAddress
from host.mdev import present
from system.files import ensure_contents

__all__ = ["Mdev", "lost_mdevs", "record_guest_mdevs", "restore_guest_mdevs"]

_RECORD = Path("var/lib/nova-compute-nvidia-vgpu/mdevs.json")
_DEFINITIONS = Path("etc/mdevctl.d")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*-[0-9]{1,9}", re.ASCII)

logger = logging.getLogger(__name__)


class Mdev(NamedTuple):
    """A mediated device: /sys/bus/mdev/devices/UUID; its type by id and name.

    It `has_mdevctl_definition` if it is defined in /etc/mdevctl.d, which libvirt and Nova go by.
    """

    uuid: str
    parent: PciAddress
    type_id: str
    name: str = ""
    has_mdevctl_definition: bool = False


def record_guest_mdevs(root: Path, cards: tuple[Card, ...]) -> None:
    """Note the devices that guests are defined with, and forget those of guests that are gone.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    if not any(card.guest_type_ids for card in cards) and not (root / _RECORD).exists():
        return
    defined = libvirt_guests.defined_mdevs(root)
    known = {mdev.uuid: mdev for mdev in (*_read(root), *_present(root, cards))}
    rows = [
        (uuid, str(known[uuid].parent), known[uuid].type_id, known[uuid].name)
        for uuid in sorted(defined & set(known))
    ]
    ensure_contents(root / _RECORD, json.dumps(rows, indent=1) + "\n", mode=0o600)


def lost_mdevs(root: Path, cards: tuple[Card, ...]) -> tuple[Mdev, ...]:
    """Return the recorded devices that a defined guest has and the kernel has not."""
    recorded = _read(root)
    if not recorded:
        return ()
    wanted = libvirt_guests.defined_mdevs(root) - {mdev.uuid for mdev in _present(root, cards)}
    return tuple(
        mdev._replace(
            has_mdevctl_definition=(root / _DEFINITIONS / str(mdev.parent) / mdev.uuid).is_file()
        )
        for mdev in recorded
        if mdev.uuid in wanted
    )


def restore_guest_mdevs(
    root: Path, missing: tuple[Mdev, ...], write: Callable[[Path, str], None]
) -> tuple[Problem, ...]:
    """Make the missing devices; return those that cannot be made.

    Each on the card and with the type that it had; another card would change what placement
    knows.
    """
    problems = []
    for mdev in missing:
        types = root / "sys/bus/pci/devices" / str(mdev.parent) / "mdev_supported_types"
        try:
            write(types / mdev.type_id / "create", mdev.uuid)
            logger.info("%s is back as %s on %s", mdev.uuid, mdev.type_id, mdev.parent)
        except OSError as error:
            logger.warning("%s cannot be made: %s", mdev.uuid, error)
            problems.append(
                Problem(ProblemKind.MDEV_LOST, mdev.uuid, mdev.type_id, str(mdev.parent))
            )
    return tuple(problems)


def _present(root: Path, cards: tuple[Card, ...]) -> list[Mdev]:
    names = {known.id: known.name for card in cards for known in card.types}
    return [
        Mdev(uuid, parent, type_id, names.get(type_id, ""))
        for card in cards
        if card.guest_type_ids
        for parent in card.parents
        for uuid, type_id in present(root, (parent,)).items()
    ]


def _read(root: Path) -> list[Mdev]:
    """Read the record; what is not of its shape is passed over, since it is written to sysfs."""
    try:
        rows = json.loads((root / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    found = []
    for row in rows if isinstance(rows, list) else []:
        with contextlib.suppress(ValueError, TypeError):
            uuid, parent, type_id, *name = row
            if _UUID.fullmatch(uuid) and _TYPE_ID.fullmatch(type_id):
                words = "".join(map(str, name))
                found.append(Mdev(uuid, PciAddress.parse(parent), type_id, words))
    return found
