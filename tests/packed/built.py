# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charms that `make pack` has built, and the interpreters to use for the bases."""

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
    path = REPOSITORY / "build/charms" / name
    assert path.exists(), f"{name} is missing: run `make pack`"
    return path


def pack(*arguments: str) -> None:
    """Run the program of `make pack`."""
    command = [CHARMCRAFT / "python", REPOSITORY / "packing/pack.py", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def interpreter(base: str) -> Path:
    """Return the interpreter to use for a base, or skip the test."""
    python = interpreters.for_base(base)
    if python is None:
        pytest.skip(f"Python {BASES[base]}, the Python of {base}, is not installed")
    return python
