# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that keep NVIDIA's cards open and so prevent changes to them.

Examples are nvidia-persistenced and nv-hostengine, the daemon of DCGM.
"""

from __future__ import annotations

import re
from pathlib import Path

from gpu.pci import PciAddress
from host import programs
from host.driver_state import DAEMON, VGPUD
from system import sysfs

__all__ = ["find_user", "name_client"]

_DEVICE = re.compile(r"/dev/nvidia(?:[0-9]+|ctl)", re.ASCII)
_MINOR = re.compile(r"Device Minor:\s*([0-9]{1,5})", re.ASCII)
# What sriov-manage and nvidia-smi print if another program uses the card.
_IN_USE = re.compile(r"unbindLock|in use by another client", re.IGNORECASE)
_EXPECTED = (DAEMON, VGPUD)  # NVIDIA's own, which release the cards


def name_client(root: Path, reason: str) -> str:
    """Return the reason for a failure: the program that uses the card, if there is one."""
    if not _IN_USE.search(reason):
        return reason
    clients = [name for name in programs.with_open(root, _DEVICE) if name not in _EXPECTED]
    return f"{clients[0]} uses the card" if clients else reason


def find_user(root: Path, address: PciAddress) -> str | None:
    """Return a program that keeps one card open, NVIDIA's own included; None if there is none.

    The driver lists the number of its device in /proc/driver/nvidia/gpus/ADDRESS/information. If
    that cannot be read, a program that keeps any card open counts.
    """
    information = sysfs.read(root / f"proc/driver/nvidia/gpus/{address}/information")
    minor = _MINOR.search(information)
    number = "[0-9]+" if minor is None else minor[1]
    clients = programs.with_open(root, re.compile(f"/dev/nvidia{number}", re.ASCII))
    return next(iter(clients), None)
