# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator has set on nova-compute, as the principal has written it into nova.conf."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["pci_options"]

_PATH = Path("etc/nova/nova.conf")
_MAX_BYTES = 1024 * 1024


def pci_options(root: Path) -> tuple[tuple[str, str], ...]:
    """Return the options and values of [pci] that come from the principal's own options.

    It writes a [pci] section of its own before those of its subordinates, also an empty one:
    templates/*/nova.conf in charm-nova-compute.
    """
    pairs: list[tuple[str, str]] = []
    is_in_section = has_begun = False
    for line in _text(root).splitlines():
        if line.startswith("["):
            if has_begun:
                break
            is_in_section = has_begun = line.strip() == "[pci]"
            continue
        name, separator, value = line.partition("=")
        if is_in_section and separator and not line.startswith(("#", ";", " ", "\t")):
            pairs.append((name.strip(), value.strip()))
    return tuple(pairs)


def _text(root: Path) -> str:
    try:
        with open(os.path.join(root, _PATH), encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""
