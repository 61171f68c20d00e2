# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of facts about a host."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from gpu.card import Card
from host import facts, gpus


@pytest.fixture
def inspect() -> Callable[..., Card]:
    """Return one card of a host, as sysfs shows it."""

    def inspect_card(root: Path, number: int = 0, *, count: bool = False) -> Card:
        return facts.inspect(root, gpus.scan(root).gpus, {}, count=count)[number]

    return inspect_card
