# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a release other than the charm, which other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def metadata() -> dict[str, Any]:
    """The charm's own metadata.yaml."""
    return yaml.safe_load((REPOSITORY / "metadata.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def options() -> dict[str, Any]:
    """The charm's own config.yaml."""
    return yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))["options"]
