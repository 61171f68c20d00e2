# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How the result of an action looks, and how much it may be."""

from __future__ import annotations

from typing import Sequence

__all__ = ["aligned", "fits_result", "truncate_to_result"]

# Bytes; the hook tool takes a result as one argument, which the kernel limits to 128 KiB.
_LIMIT = 120 * 1024


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def fits_result(text: str) -> bool:
    """Whether Juju accepts a result."""
    return len(text.encode()) <= _LIMIT


def truncate_to_result(text: str) -> str:
    """Return the lines that Juju accepts, and the number of those left out."""
    if fits_result(text):
        return text
    start = text.encode()[: _LIMIT - 100].decode(errors="ignore")
    shown = start.rsplit("\n", 1)[0]
    left_out = len(text.splitlines()) - len(shown.splitlines())
    return f"{shown}\n... and {left_out} more lines, which exceed the limit of Juju"
