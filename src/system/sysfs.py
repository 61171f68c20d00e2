# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of the kernel's devices, which may vanish or fail while they are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["names", "read", "read_number", "write"]

_DIGITS = 9  # more than any number of the driver's has

logger = logging.getLogger(__name__)


def names(folder: str | Path) -> list[str]:
    """List a folder; none if it is not there or its card fell off the bus (EIO)."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read: %s", folder, error)
        return []


def read(path: str | Path) -> str:
    """Return the text of an attribute, empty if it is absent or cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \t\n")
    except OSError:
        return ""


def read_number(path: str | Path) -> int | None:
    """Return a decimal attribute; None if it is absent or no number that a driver would tell."""
    text = read(path)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def write(path: Path, text: str) -> None:
    """Write an attribute in one go, as the kernel wants it.

    Raises:
        OSError: the driver refuses the value; mostly EIO.
    """
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)
