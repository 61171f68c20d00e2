# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit of the charm on a simulated machine, built separately for each example."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Iterator

import checks
import pytest
import trees
from ops import testing
from simulated import Machine

import recorded
from charm import NovaComputeNvidiaVgpuCharm
from system import sysfs
from unit import Clock, Unit


@contextlib.contextmanager
def unit_on(folder: Path, name: str) -> Iterator[Unit]:
    """Deploy a unit on a small recorded host; at the end, check all of its output."""
    data = trees.data(name)
    data["functions"] = [card for card in data["functions"] if "types" in card][:1]
    root = recorded.build(folder / "machine", data)
    mask = os.umask(0)  # the charm must not rely on the umask
    try:
        with pytest.MonkeyPatch.context() as patch, checks.Log():
            machine = Machine(root, data)
            patch.setattr(sysfs, "write", machine.driver.write)
            patch.setattr(NovaComputeNvidiaVgpuCharm, "root", root)
            patch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(machine))
            unit = Unit(machine, testing.Context(NovaComputeNvidiaVgpuCharm), Clock())
            yield unit
            _check(unit)
    finally:
        os.umask(mask)
        shutil.rmtree(root)


def _check(unit: Unit) -> None:
    for line in unit.context.juju_log:
        if line.level != "DEBUG":
            checks.log_message(line.message)
    for status in (*unit.context.unit_status_history, unit.status):
        if status.name != "unknown":
            checks.status(status.name, status.message)
    checks.databag(unit.databag)
    checks.commands(unit.machine.commands, unit.machine.root)
    checks.files(unit.machine.root)
