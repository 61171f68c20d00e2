# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the unit tests: recorded hosts as trees, as cards, as machines, with a unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from ops import testing
from simulated import Machine

import recorded
from cards import prepare
from charm import NovaComputeNvidiaVgpuCharm
from driver import daemon
from gpu import card
from host import facts, gpus
from system import sysfs
from unit import Clock, Unit


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip all delays: a simulated daemon fails immediately, and a simulated driver is ready."""
    monkeypatch.setattr(daemon, "START_CHECK_DELAY", 0)
    monkeypatch.setattr(prepare.time, "sleep", lambda _: None)  # one module: everywhere


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the clock of the host at noon."""
    stopped = Clock()
    monkeypatch.setattr("time.time", stopped)
    return stopped


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Path]:
    """Build a recorded host, with some of its entries changed; return its root."""

    def build(name: str, **changes: Any) -> Path:
        return recorded.build(tmp_path / name, recorded.host(name, **changes))

    return build


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[card.Card, ...]]:
    """Return the cards of a recorded host, with some of its entries changed."""
    cache: dict[str, tuple[card.Card, ...]] = {}

    def inspect(recorded_host: dict[str, Any], count: bool) -> tuple[card.Card, ...]:
        root = recorded.build(tmp_path_factory.mktemp("host"), recorded_host)
        return facts.inspect(root, gpus.scan(root).gpus, {}, count=count)

    def read(name: str, *, count: bool = False, **changes: Any) -> tuple[card.Card, ...]:
        key = f"{name} {count} {changes}"
        if key not in cache:
            cache[key] = inspect(recorded.host(name, **changes), count)
        return cache[key]

    return read


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Build a recorded host, by its name or from its data, whose programs are simulated."""

    def start(name: str | dict[str, Any], **changes: Any) -> Machine:
        data = recorded.host(name, **changes) if isinstance(name, str) else {**name, **changes}
        started = Machine(recorded.build(tmp_path / "machine", data), data)
        monkeypatch.setattr(sysfs, "write", started.driver.write)
        return started

    return start


@pytest.fixture
def deploy(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Callable[..., Unit]:
    """Deploy a unit on a recorded host."""

    def deploy_unit(host: Any, **changes: Any) -> Unit:
        simulated = machine(host, **changes)
        monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "root", simulated.root)
        monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(simulated))
        return Unit(simulated, testing.Context(NovaComputeNvidiaVgpuCharm), clock)

    return deploy_unit
