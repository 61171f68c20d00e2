# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The profiles for fuzzing: the same few examples each time, or many new ones.

A failure prints a minimal example, and the line that reproduces it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Iterator

import examples
import pytest
import trees
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from cards import prepare
from driver import daemon
from system import sysfs

# `examples` limits the processor time of an example. The deadline only ends an example that hangs,
# since the machine may be busy with other work.
COMMON: dict[str, Any] = {
    "database": None,
    "deadline": timedelta(seconds=60),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("short", max_examples=50, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=1000, print_blob=True, **COMMON)
settings.load_profile("short")
set_hypothesis_home_dir(str(Path(__file__).parents[2] / "build/hypothesis"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--at-least",
        type=int,
        default=0,
        help="fail unless at least this many examples passed in total",
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if sum(examples.passed.values()) < session.config.getoption("--at-least"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for name, number in sorted(examples.passed.items()):
        terminalreporter.write_line(f"{number:7} {name}")
    total, least = sum(examples.passed.values()), config.getoption("--at-least")
    terminalreporter.write_line(f"{total:7} examples in total, of at least {least}")


@pytest.fixture(autouse=True, scope="session")
def _simulated_host() -> Iterator[None]:
    """A simulated daemon fails at once, nothing waits for the driver, and sysfs refuses writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemon, "START_CHECK_DELAY", 0)
        patch.setattr(prepare.time, "sleep", lambda _: None)
        patch.setattr(sysfs, "write", _refuse)
        yield


def _refuse(path: Path, text: str) -> None:
    raise OSError(5, "Input/output error")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="session")
def hosts(folder: Path) -> dict[str, Path]:
    """The roots of small recorded hosts, by name; each example restores them."""
    return {name: trees.build(folder / name, name) for name in trees.MAPPINGS}
