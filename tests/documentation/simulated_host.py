# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit of the charm on a recorded host whose programs are simulated, for the documents."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest
from ops import testing
from session import ActionError, Session
from simulated import Machine

import recorded
from cards import prepare
from charm import NovaComputeNvidiaVgpuCharm
from driver import daemon
from system import sysfs
from unit import Clock, Unit


class SimulatedHost:
    """A simulated host; it implements the Host of a session."""

    def __init__(self, machine: Machine, context: testing.Context[Any], clock: Clock) -> None:
        self.machine = machine
        self._unit = Unit(machine, context, clock)
        self._relation = self._unit.relation
        self._unit.change(relations=set())

    def deploy(self) -> None:
        for name in ("install", "config_changed", "start"):
            self._unit.hook(name)

    def integrate(self) -> None:
        self._unit.change(relations={self._relation})
        for name in ("created", "joined", "changed"):
            self._unit.relation_hook(name)

    def attach(self, name: str, version: str, architecture: str) -> None:
        path = self.machine.root / "attached" / "nvidia-vgpu.deb"
        self._unit.attach(
            self.machine.make_deb(path, name=name, version=version, architecture=architecture)
        )

    def configure(self, **options: Any) -> None:
        values = {**self._unit.state.config}
        for key, value in options.items():
            name = key.replace("_", "-")
            values.pop(name, None)
            if value is not None:
                values[name] = value
        self._unit.change(config=values)
        self._unit.hook("config_changed")

    def action(self, name: str, **params: Any) -> dict[str, Any]:
        try:
            return self._unit.action(name, **params)
        except testing.ActionFailed as error:
            self._unit.state = error.state
            raise ActionError(error.message) from error

    def refresh(self) -> None:
        self._unit.hook("upgrade_charm")

    def remove(self) -> None:
        self._unit.relation_hook("broken")
        for name in ("stop", "remove"):
            self._unit.hook(name)

    def install(self, name: str, version: str) -> None:
        self.machine.add_package(name, version)

    def start_guest(self, parent: str, vgpu_type: str) -> None:
        self._unit.start_guest(parent, vgpu_type, recorded.UUIDS[0])

    def end_guest(self) -> None:
        self.machine.remove_mdev(recorded.UUIDS[0])
        self.machine.define_guest(name=f"instance-{recorded.UUIDS[0][-8:]}")

    def reboot(self) -> None:
        self.machine.reboot()
        self._unit.hook("start")

    @property
    def status(self) -> tuple[str, str]:
        return self._unit.status.name, self._unit.status.message


@contextmanager
def start(host: str, nova: str = "", deployed: str = "yes") -> Iterator[Session]:
    """Start a session on a recorded host.

    Args:
        host: the name of the recorded host.
        nova: its version of Nova, `29.2.0`; empty for the recorded one.
        deployed: `no` if the document shows how to deploy the charm.
    """
    data = recorded.host(host, **({"nova": f"3:{nova}-0ubuntu1"} if nova else {}))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patches:
        machine = Machine(recorded.build(Path(folder) / "root", data), data)
        clock = Clock()
        patches.setattr("time.time", clock)
        patches.setattr(daemon, "START_CHECK_DELAY", 0)
        patches.setattr(prepare.time, "sleep", lambda _: None)
        patches.setattr(sysfs, "write", machine.driver.write)
        patches.setattr(NovaComputeNvidiaVgpuCharm, "root", machine.root)
        patches.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(machine))
        context = testing.Context(NovaComputeNvidiaVgpuCharm)
        session = Session(SimulatedHost(machine, context, clock))
        if deployed == "yes":
            session.start()
        yield session
