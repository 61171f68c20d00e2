# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What `make pack` has made, and what stands for the bases."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

import interpreters

REPOSITORY = Path(__file__).parents[2]
CHARMCRAFT = REPOSITORY / "build/charmcraft/bin"
BASES = interpreters.bases()
PLATFORMS = list(yaml.safe_load((REPOSITORY / "charmcraft.yaml").read_text())["platforms"])


def charm(platform: str) -> Path:
    """The packed charm of a platform."""
    name = f"nova-compute-nvidia-vgpu_{platform.replace(':', '-')}.charm"
    found = REPOSITORY / "build/charms" / name
    assert found.exists(), f"{name} is not there: run `make pack`"
    return found


def pack(*arguments: str) -> None:
    """Run what `make pack` runs."""
    command = [CHARMCRAFT / "python", REPOSITORY / "packing/pack.py", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def interpreter(base: str) -> Path:
    """An interpreter that stands for a base's, or the test is left out."""
    python = interpreters.for_base(base)
    if python is None:
        pytest.skip(f"no Python {BASES[base]} here, which is that of {base}")
    return python
