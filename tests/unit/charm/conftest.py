# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the charm."""

from __future__ import annotations

from typing import Callable

import pytest

import recorded
from unit import Unit


@pytest.fixture
def l40s(deploy: Callable[..., Unit]) -> Unit:
    """A unit on a host with an L40S, just after a boot."""
    return deploy(recorded.without_functions("l40s-vendor-vfio"))
