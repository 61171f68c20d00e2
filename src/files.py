# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Small files of the host, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from problem import HostError, Kind, Problem

__all__ = ["ensure_text"]


def ensure_text(path: Path, text: str, mode: int = 0o644) -> bool:
    """Give a file this content, if it has not got it; return whether it was written.

    The file appears in one step and survives a loss of power: its bytes are on the disk before
    its name is. The folder is made if it is missing.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    try:
        return _ensure(path, text, mode)
    except OSError as error:
        raise HostError(Problem(Kind.DISK, str(path), error.strerror or "failed")) from error


def _ensure(path: Path, text: str, mode: int) -> bool:
    data = text.encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return False
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return True
