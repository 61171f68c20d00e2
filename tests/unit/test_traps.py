# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""docs/traps.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TRAPS = HERE.parents[1] / "docs/traps.md"


def test_every_trap_has_its_test():
    rows = [
        line for line in TRAPS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    traps = [row for row in rows if not row.startswith("| trap |")]
    named = [re.findall(r"`(test_\w+)::(test_\w+)`", row) for row in traps]
    assert len(traps) > 50
    assert all(named)
    for module, name in (pair for found in named for pair in found):
        text = (HERE / f"{module}.py").read_text(encoding="utf-8")
        assert f"\ndef {name}(" in text, f"{module}::{name}"
