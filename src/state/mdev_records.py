# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The mediated devices of defined guests: mdevs.json.

libvirt's definition of a guest names a mediated device by its UUID alone, so card and type are
recorded while the device exists.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterable, NamedTuple

from gpu.card import is_type_id
from gpu.pci import PciAddress
from state.folders import KEPT
from system.files import ensure_contents, read_json

__all__ = ["UUID", "Mdev", "exists", "load", "save"]

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

_PATH = KEPT / "mdevs.json"


class Mdev(NamedTuple):
    """A mediated device, /sys/bus/mdev/devices/UUID.

    Attributes:
        uuid: its UUID.
        parent: the card or virtual function on which it is.
        type_id: the ID of its vGPU type.
        name: the name of that type, empty if unknown.
        has_mdevctl_definition: whether /etc/mdevctl.d defines it, as libvirt and Nova need.
    """

    uuid: str
    parent: PciAddress
    type_id: str
    name: str = ""
    has_mdevctl_definition: bool = False


def exists(root: Path) -> bool:
    """Whether anything is recorded."""
    return (root / _PATH).exists()


def load(root: Path) -> tuple[Mdev, ...]:
    """Return the recorded devices; a row of another shape is skipped, since rows reach sysfs."""
    mdevs = (_parse(uuid, row) for uuid, row in read_json(root / _PATH).items())
    return tuple(mdev for mdev in mdevs if mdev is not None)


def save(root: Path, mdevs: Iterable[Mdev]) -> None:
    """Record devices, and forget all others.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    before = read_json(root / _PATH)
    rows = {}
    for mdev in sorted(mdevs):
        row = before.get(mdev.uuid)
        fields = {"parent": str(mdev.parent), "type_id": mdev.type_id, "name": mdev.name}
        rows[mdev.uuid] = {**(row if isinstance(row, dict) else {}), **fields}
    ensure_contents(root / _PATH, json.dumps(rows, indent=1) + "\n", mode=0o600)


def _parse(uuid: str, row: Any) -> Mdev | None:
    try:
        parent = PciAddress.parse(row["parent"])
        type_id, name = row["type_id"], row.get("name", "")
        if UUID.fullmatch(uuid) and is_type_id(type_id):
            return Mdev(uuid, parent, type_id, str(name))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None
