# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The packed tier: inspects and runs the charms that `make pack` has built."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import built
import pytest

from functional.bed import juju, machine, packages


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[str], Path]:
    """Unpacks the charm of a platform, as Juju does."""
    return lambda platform: juju.unpack_charm(built.charm(platform), tmp_path / "charm")


@pytest.fixture(scope="session")
def nvidia_deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of NVIDIA's package, branch 570."""
    return packages.build_nvidia(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def bootable() -> None:
    """Skips the test if no host can be booted."""
    reason = machine.why_unavailable()
    if reason:
        pytest.skip(f"no host can be booted here: it {reason}")
