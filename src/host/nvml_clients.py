# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that keep NVIDIA's cards open and so prevent changes to them.

Examples are nvidia-persistenced and nv-hostengine, the daemon of DCGM.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpu.pci import PciAddress
from host.driver_state import DAEMON, VGPUD
from system import sysfs
from system.text import one_line

__all__ = ["find_user", "name_client"]

_DEVICE = re.compile(r"/dev/nvidia(?:[0-9]+|ctl)", re.ASCII)
_MINOR = re.compile(r"Device Minor:\s*([0-9]{1,5})", re.ASCII)
# What sriov-manage and nvidia-smi print if another program uses the card.
_IN_USE = re.compile(r"unbindLock|in use by another client", re.IGNORECASE)
_UNIT = re.compile(r"/([^/]+)\.service(?:/|$)", re.MULTILINE)
_EXPECTED = (DAEMON, VGPUD)  # NVIDIA's own, which release the cards


def name_client(root: Path, reason: str) -> str:
    """Return the reason for a failure: the program that uses the card, if there is one."""
    clients = _find(root, _DEVICE) if _IN_USE.search(reason) else ()
    return f"{clients[0]} uses the card" if clients else reason


def find_user(root: Path, address: PciAddress) -> str | None:
    """Return a program that keeps one card open, NVIDIA's own included; None if there is none.

    The driver lists the number of its device in /proc/driver/nvidia/gpus/ADDRESS/information.
    """
    information = sysfs.read(root / f"proc/driver/nvidia/gpus/{address}/information")
    minor = _MINOR.search(information)
    if minor is None:
        return None
    clients = _find(root, re.compile(f"/dev/nvidia{minor[1]}", re.ASCII), expected=())
    return clients[0] if clients else None


def _find(
    root: Path, device: re.Pattern[str], expected: tuple[str, ...] = _EXPECTED
) -> tuple[str, ...]:
    """Return the services of these programs, or the names of those without one, sorted."""
    clients = {
        _client(root / "proc" / process)
        for process in filter(str.isdigit, sysfs.names(root / "proc"))
        if _has_device_open(root / "proc" / process / "fd", device)
    }
    return tuple(sorted(clients.difference(expected)))


def _client(process: Path) -> str:
    unit = _UNIT.search(sysfs.read(process / "cgroup"))
    return one_line(unit[1] if unit else sysfs.read(process / "comm") or process.name, 60)


def _has_device_open(folder: Path, device: re.Pattern[str]) -> bool:
    try:
        return any(device.fullmatch(os.readlink(folder / name)) for name in os.listdir(folder))
    except OSError:  # the process has ended meanwhile
        return False
