# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The functional tier: the charm's dispatch on a booted host, without Juju and without a GPU."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import pytest
from bed import juju, kernel, machine, packages

import interpreters
import recorded

pytest_plugins = ["faults"]

Host = Tuple[machine.Machine, juju.Juju]


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run the charm of that base, on the base's Python or a substitute if one is installed"
    parser.addoption("--base", choices=sorted(interpreters.bases()), help=text)


def pytest_report_header(config: pytest.Config) -> str:
    reason = machine.why_unavailable()
    if reason:
        return f"no host can be booted here, so these tests are skipped: {reason}"
    base = config.getoption("base")
    python = interpreters.for_base(base) if base else None
    header = f"charm of {base or machine.CHARM_BASE} on {python or 'python3 of the booted host'}"
    reason = kernel.why_sys_is_static()
    if reason:
        return f"{header}; /sys is static here, so tests that write to it are skipped: {reason}"
    return header


@pytest.fixture(scope="session")
def charm(
    python: Path | None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Path:
    """The charm as Juju unpacks it, with the byte code that its first hook writes."""
    reason = machine.why_unavailable()
    if reason:
        pytest.skip(f"no host can be booted here: {reason}")
    target = tmp_path_factory.mktemp("charm") / "charm"
    juju.make_charm(target, pytestconfig.getoption("base") or machine.CHARM_BASE)
    subprocess.run([python or "/usr/bin/python3", "-m", "compileall", "-q", target], check=True)
    return target


@pytest.fixture(scope="session")
def python(pytestconfig: pytest.Config) -> Path | None:
    """The interpreter to use as the hosts' python3; None uses their own."""
    base = pytestconfig.getoption("base")
    return interpreters.for_base(base) if base else None


@pytest.fixture(scope="session")
def boot(charm: Path, python: Path | None) -> Callable[..., Any]:
    """Boots a recorded host, optionally from an image, with one unit of the charm."""

    @contextmanager
    def booted(
        host: str | dict[str, Any], image: Path | None = None, **config: Any
    ) -> Iterator[Host]:
        recorded_host = recorded.host(host) if isinstance(host, str) else host
        with machine.Machine(recorded_host, charm, image, python) as started:
            yield started, juju.Juju(started, machine.REPOSITORY, **config)

    return booted


@pytest.fixture(scope="session")
def nvidia_deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of NVIDIA's package, branch 570."""
    return packages.build_nvidia(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def ready_image(
    boot: Callable[..., Any], nvidia_deb: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The image of a host with two T4 on which the charm has installed the driver."""
    with boot("t4-fresh") as (host, unit):
        unit.store(nvidia_deb)
        for hook in ("install", "config-changed", "start"):
            assert unit.hook(hook).returncode == 0
        host.reboot()
        unit.hook("start")
        unit.integrate()
        return host.save(tmp_path_factory.mktemp("image") / "t4")


@pytest.fixture
def ready_host(boot: Callable[..., Any], ready_image: Path) -> Iterator[Host]:
    """A host with two T4 that has the driver loaded and the relation created."""
    with boot("t4-fresh", ready_image) as (host, unit):
        yield host, unit
