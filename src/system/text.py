# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Text from programs, drivers and files, made safe to show on one line, and its digest.

A line break in such a text would start a new line of the status or log, an escape sequence would
reach a terminal, and a NUL would end the hook that passes it to one of Juju's tools.
"""

from __future__ import annotations

import hashlib

__all__ = ["ascii_line", "digest", "one_line"]


def one_line(text: str, limit: int) -> str:
    """Return the start of a text, with `?` for each character that is not printable."""
    start = text[:limit]
    if start.isprintable():
        return start
    return "".join(letter if letter.isprintable() else "?" for letter in start)


def ascii_line(text: str, limit: int) -> str:
    """Return the start of a text, with `?` for each character that is not printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:limit])


def digest(text: str) -> str:
    """Return a short text that changes with a text."""
    return hashlib.sha256(text.encode()).hexdigest()
