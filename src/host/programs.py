# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that have a device open, from /proc/PID/fd."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import AbstractSet

from system import sysfs
from system.text import one_line

__all__ = ["with_open"]

_UNIT = re.compile(r"/([^/]+)\.service(?:/|$)", re.MULTILINE)


def with_open(
    root: Path, path: re.Pattern[str], numbers: AbstractSet[str] = frozenset()
) -> tuple[str, ...]:
    """Return the services of these programs, or the names of those without one, sorted.

    Args:
        root: the root of the host's file system.
        path: what the path of the device matches, `/dev/nvidia0`.
        numbers: devices that count whatever their path in /dev is: `char 195:0`, `block 259:0`.
    """
    programs = {
        _name(root / "proc" / process)
        for process in filter(str.isdigit, sysfs.names(root / "proc"))
        if _has_open(root / "proc" / process / "fd", path, numbers)
    }
    return tuple(sorted(programs))


def _name(process: Path) -> str:
    unit = _UNIT.search(sysfs.read(process / "cgroup"))
    return one_line(unit[1] if unit else sysfs.read(process / "comm") or process.name, 60)


def _has_open(folder: Path, path: re.Pattern[str], numbers: AbstractSet[str]) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:  # the process has ended meanwhile
        return False
    for name in names:
        with contextlib.suppress(OSError):
            target = os.readlink(folder / name)
            if path.fullmatch(target):
                return True
            # No other file is touched: one on a dead NFS server would never answer.
            if numbers and target.startswith("/dev/") and _number(folder / name) in numbers:
                return True
    return False


def _number(path: Path) -> str:
    """Return kind and number of a device, as in /sys/dev; empty for anything else."""
    status = os.stat(path)
    kind = {stat.S_IFCHR: "char", stat.S_IFBLK: "block"}.get(stat.S_IFMT(status.st_mode))
    number = status.st_rdev
    return f"{kind} {os.major(number)}:{os.minor(number)}" if kind else ""
