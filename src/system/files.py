# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Small files of the host: written completely or not at all, and read with tolerance."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

from gpu.problems import HostError, Problem, ProblemKind

__all__ = ["delete", "ensure_contents", "has_contents", "read_json"]

_MAX_DEPTH = 20  # levels; the charm's own files have at most four

logger = logging.getLogger(__name__)


def ensure_contents(path: Path, text: str, mode: int = 0o644) -> bool:
    """Write a file unless it has this content already; return whether it was written.

    The file is replaced in one step and survives a loss of power: its bytes are on the disk
    before its name is. Missing folders are made.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    try:
        return _replace(path, text, mode)
    except OSError as error:
        reason = error.strerror or "failed"
        problem = Problem(ProblemKind.DISK_WRITE_FAILED, path=str(path), reason=reason)
        raise HostError(problem) from error


def delete(path: Path) -> None:
    """Delete a file if there is one; it stays where that is impossible, which is logged."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # such as a read-only file system
        logger.warning("%s stays: %s", path, error)


def has_contents(path: Path, text: str) -> bool:
    """Whether a file exists and has this content."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it is missing, damaged or of another shape.

    Deep nesting counts as damage, since it could be read but not written again.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.debug("%s cannot be read: %s", path, error)
        return {}
    return data if isinstance(data, dict) and not _is_deeper(data, _MAX_DEPTH) else {}


def _is_deeper(data: object, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    if not isinstance(data, (dict, list)):
        return False
    children = data.values() if isinstance(data, dict) else data
    return levels == 0 or any(_is_deeper(child, levels - 1) for child in children)


def _replace(path: Path, text: str, mode: int) -> bool:
    if has_contents(path, text):
        return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.new")
    handle = _open_exclusively(partial)
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


def _open_exclusively(partial: Path) -> int:
    """Open the one temporary file of a path, which a killed writer may have left, and lock it."""
    while True:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # another writer has renamed it meanwhile
            if os.path.samestat(os.fstat(handle), os.lstat(partial)):
                return handle
        os.close(handle)
