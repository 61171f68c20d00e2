# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What programs, drivers and files say, as one line that can be shown.

A line break of theirs would start a line that nobody wrote, an escape would speak to a terminal,
and a NUL would end the hook that hands it to one of Juju's tools.
"""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str, limit: int) -> str:
    """Return the start of a text, with `?` for all that is no printable character."""
    start = text[:limit]
    if start.isprintable():
        return start
    return "".join(letter if letter.isprintable() else "?" for letter in start)
