# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The attached resource nvidia-vgpu-software, inspected once for each file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from driver import host_package
from driver.host_package import HostPackage
from gpu.problems import HostError, Problem, ProblemKind
from state.charm_state import CharmState
from system.commands import CommandError, Runner

__all__ = ["Resource", "ensure_inspected", "inspected"]

_PACKAGE = "package"  # first word of an inspection without a problem


class Resource(NamedTuple):
    """The resource: a package, or the problem with it."""

    package: HostPackage | None = None
    problem: Problem | None = None


def ensure_inspected(run: Runner, state: CharmState) -> CharmState:
    """Inspect the file of the resource, unless the state has the result for the same file.

    An inspection is kept as `("package", name, version, depends)` or as `Problem.to_row` returns
    the problem.
    """
    if not state.resource_path:
        return state
    path = Path(state.resource_path)
    stamp = host_package.stamp(path)
    if stamp and stamp == state.resource_stamp and _parse(state) is not None:
        return state
    try:
        package = host_package.inspect(path, run)
        inspection: tuple[Any, ...] = (_PACKAGE, package.name, package.version, package.depends)
    except HostError as error:
        inspection = tuple(error.problem.to_row())
        cause = error.__cause__
        if isinstance(cause, CommandError) and cause.result is None:
            stamp = ""  # the program did not run to its end, so the file may be good
    return state._replace(resource_stamp=stamp, resource_inspection=inspection)


def inspected(state: CharmState) -> Resource:
    """Return the result of the last inspection."""
    resource = _parse(state) if state.resource_path else None
    return resource or Resource(problem=Problem(ProblemKind.RESOURCE_MISSING))


def _parse(state: CharmState) -> Resource | None:
    """Read a kept inspection; None if there is none, or if another revision wrote it."""
    inspection = state.resource_inspection
    if inspection[:1] == (_PACKAGE,):
        fields = [str(field) for field in (*inspection[1:4], "", "", "")]
        return Resource(HostPackage(state.resource_path, *fields[:3]))
    problem = Problem.from_row(inspection)
    return None if problem is None else Resource(problem=problem)
