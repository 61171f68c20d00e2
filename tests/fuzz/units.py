# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit of the charm on a simulated machine that is built anew for each example."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Iterator

import holds
import pytest
import trees
from ops import testing
from simulated import Machine

import recorded
from charm import NovaComputeNvidiaVgpuCharm
from system import sysfs
from unit import Unit


@contextlib.contextmanager
def unit_on(folder: Path, name: str) -> Iterator[Unit]:
    """Put a unit on a small recorded host; at the end all that it gave out must hold."""
    data = trees.data(name)
    data["functions"] = [card for card in data["functions"] if "types" in card][:1]
    root = recorded.build(folder / "machine", data)
    mask = os.umask(0)  # nothing may rely on it
    try:
        with pytest.MonkeyPatch.context() as patch, holds.Log():
            machine = Machine(root, data)
            patch.setattr(sysfs, "write", machine.driver.write)
            patch.setattr(NovaComputeNvidiaVgpuCharm, "root", root)
            patch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(machine))
            unit = Unit(machine, testing.Context(NovaComputeNvidiaVgpuCharm))
            yield unit
            _holds(unit)
    finally:
        os.umask(mask)
        shutil.rmtree(root)


def _holds(unit: Unit) -> None:
    for line in unit.context.juju_log:
        if line.level != "DEBUG":
            holds.message(line.message)
    for shown in (*unit.context.unit_status_history, unit.status):
        if shown.name != "unknown":
            holds.status(shown.name, shown.message)
    holds.databag(unit.databag)
    holds.commands(unit.machine.commands, unit.machine.root)
    holds.written(unit.machine.root)
