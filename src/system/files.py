# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Small files of the host, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind

__all__ = ["ensure_contents", "has_contents"]


def ensure_contents(path: Path, text: str, mode: int = 0o644) -> bool:
    """Give a file this content, if it has not got it; return whether it was written.

    The file appears in one step and survives a loss of power: its bytes are on the disk before
    its name is. The folder is made if it is missing.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    try:
        return _ensure(path, text, mode)
    except OSError as error:
        raise HostError(
            Problem(ProblemKind.DISK_WRITE_FAILED, str(path), error.strerror or "failed")
        ) from error


def has_contents(path: Path, text: str) -> bool:
    """Whether a file is there and has this content."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _ensure(path: Path, text: str, mode: int) -> bool:
    if has_contents(path, text):
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    handle = _open_alone(partial)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.truncate()
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    return True


def _open_alone(partial: Path) -> int:
    """Open a path's one temporary file, which no other writer has; one that was killed left it."""
    while True:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another writer has renamed it meanwhile
            if os.path.samestat(os.fstat(handle), os.lstat(partial)):
                return handle
        os.close(handle)
