# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A /sys whose attributes react to writes: a FUSE file system over a recorded tree.

Reads return the current content of the tree. Writes go to the driver over `kernel`'s socket, and
the writer gets the driver's errno if it refuses. `kernel` starts this module as a program, which
ends when it is unmounted or when its parent ends:

    sysfs.py TREE MOUNTPOINT SOCKET
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import sys
from typing import Any

import fuse
from ask import ask

_PR_SET_PDEATHSIG = 1
_WRITE_ONLY = stat.S_IFREG | 0o200
_SHOWN = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")


def write_only(folder: str) -> tuple[str, ...]:
    """Return the write-only attributes of a folder, which no tree records."""
    parent = os.path.basename(os.path.dirname(folder))
    if parent == "mdev_supported_types":
        return ("create",)
    if parent == "drivers":
        return ("bind", "unbind")
    if folder.endswith("/bus/pci"):
        return ("drivers_probe",)
    return ("remove",) if os.path.lexists(f"{folder}/mdev_type") else ()


class Sysfs(fuse.Operations):
    """Answers the kernel's requests to the file system; an OSError returns its errno."""

    use_ns = True

    def __init__(self, tree: str, driver: str) -> None:
        self._tree = tree
        self._driver = driver

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        try:
            status = os.lstat(self._tree + path)
        except FileNotFoundError:
            folder, name = os.path.split(self._tree + path)
            if name in write_only(folder):
                return {"st_mode": _WRITE_ONLY, "st_nlink": 1}
            raise
        return {key: getattr(status, key) for key in _SHOWN}

    def readdir(self, path: str, fh: int) -> list[str]:
        folder = self._tree + path
        return [".", "..", *os.listdir(folder), *write_only(folder)]

    def readlink(self, path: str) -> str:
        return os.readlink(self._tree + path)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with open(self._tree + path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        code, _ = ask(self._driver, "write", path, data.decode("ascii", "replace"))
        if code:
            raise OSError(code, os.strerror(code))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Do nothing: `echo 1 >attribute` truncates first, and an attribute has no length."""

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        raise OSError(errno.EACCES, "Permission denied")


def main(tree: str, mountpoint: str, driver: str) -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent had already ended
        return
    # Nothing is cached: a change in the tree is visible at once.
    fuse.FUSE(
        Sysfs(tree, driver),
        mountpoint,
        foreground=True,
        nothreads=True,
        allow_other=True,
        direct_io=True,
        attr_timeout=0,
        entry_timeout=0,
        fsname="sysfs",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
