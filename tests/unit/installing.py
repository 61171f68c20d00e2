# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of an installation of the host software, for tests."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from simulated import Machine

from driver import host_package, installation
from driver.host_package import HostPackage
from gpu.problems import HostError, Problem
from host import driver_state, gpus
from host.driver_state import DriverState


def query(simulated: Machine) -> DriverState:
    """Return the state of the driver."""
    return driver_state.query(simulated.root, gpus.scan(simulated.root).gpus)


def attach(simulated: Machine, **options: Any) -> HostPackage:
    """Return an attached package of the host software."""
    deb = simulated.make_deb(simulated.root.parent / "a.deb", **options)
    return host_package.inspect(deb, simulated)


def install(simulated: Machine, package: HostPackage | None, in_use: tuple[str, ...] = ()) -> bool:
    """Install a package, or complete an interrupted installation; return whether it did."""
    return installation.ensure_installed(
        simulated.root, simulated, query(simulated), package, lambda: in_use
    )


def load(simulated: Machine) -> bool:
    """Load the installed driver; return whether anything changed."""
    return installation.ensure_loaded(simulated.root, simulated, query(simulated))


def problem_of(step: Callable[..., object], *arguments: object) -> Problem:
    """Return the problem that a step raises."""
    with pytest.raises(HostError) as error:
        step(*arguments)
    return error.value.problem
