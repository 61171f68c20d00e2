# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Each test that docs/traps.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TRAPS = HERE.parents[1] / "docs/traps.md"


def test_every_trap_has_its_test():
    rows = [
        line for line in TRAPS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    traps = [row for row in rows if not row.startswith(("| trap |", "| requirement |"))]
    references = [re.findall(r"`((?:\w+/)*test_\w+)::(test_\w+)`", row) for row in traps]
    assert len(traps) > 50
    assert all(references)
    assert sum(map(len, references)) == sum(row.count("::") for row in traps)
    for module, name in (reference for row in references for reference in row):
        path = HERE / f"{module}.py"
        assert path.is_file(), f"{module}::{name}"
        assert f"\ndef {name}(" in path.read_text(encoding="utf-8"), f"{module}::{name}"
