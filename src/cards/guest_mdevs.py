# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Records and recreates the mediated devices of guests, which a boot removes.

Without its device, a defined guest cannot start. Nova 30 and later with libvirt 7.3 recreate
devices, https://bugs.launchpad.net/nova/+bug/1977933; but only those that they created, and
therefore defined, not those from before an upgrade.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host import libvirt_guests
from host.guest_vgpus import present_mdevs
from state import mdev_records
from state.mdev_records import Mdev
from system import sysfs

__all__ = ["record_guest_mdevs", "restore_guest_mdevs"]

logger = logging.getLogger(__name__)


def record_guest_mdevs(root: Path, cards: tuple[Card, ...]) -> None:
    """Record the devices that guests are defined with, and forget those of deleted guests.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    if not any(card.guest_vgpus for card in cards) and not mdev_records.exists(root):
        return
    defined = libvirt_guests.defined_mdevs(root)
    mdevs = {mdev.uuid: mdev for mdev in (*mdev_records.load(root), *present_mdevs(root, cards))}
    mdev_records.save(root, (mdev for mdev in mdevs.values() if mdev.uuid in defined))


def restore_guest_mdevs(root: Path, lost: tuple[Mdev, ...]) -> list[Problem]:
    """Create the lost devices; return those that cannot be created.

    Each on the card and with the type that it had: placement has it recorded there.
    """
    problems = []
    for mdev in lost:
        types = os.path.join(sysfs.device(root, mdev.parent), "mdev_supported_types")
        try:
            sysfs.write(os.path.join(types, mdev.type_id, "create"), mdev.uuid)
            logger.info("%s: %s is created again on %s", mdev.uuid, mdev.type_id, mdev.parent)
        except OSError as error:
            logger.warning("%s cannot be created: %s", mdev.uuid, error)
            problems.append(
                Problem(ProblemKind.MDEV_LOST, mdev.parent, vgpu=mdev.uuid, vgpu_type=mdev.type_id)
            )
    return problems
