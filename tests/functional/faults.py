# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The table of faults and outcomes: tests produce the rows of the document and check them.

A test that causes a fault records the unit's status, and the status after the fault has ended.
With `--write-faults` the rows are written; without it, each row must be in the table.
"""

from __future__ import annotations

import platform
from typing import Iterator, NamedTuple

import pytest
from bed import juju, machine

TABLE = machine.REPOSITORY / "docs/reference/faults.md"
# The modules whose tests produce rows, in the order of the document.
SECTIONS = {
    "test_package": "Host software",
    "test_cards": "Cards",
    "test_whole_cards": "Whole cards",
    "test_boot": "Boot",
    "test_guests": "Running guests",
    "test_crash": "Crashes and power failures",
    "test_bad_input": "Hostile input",
    "test_refresh": "Charm upgrades",
}
_INTRODUCTION = """\
# Faults and their outcomes

`make faults` writes this document. A test in tests/functional produces each row on a booted host,
and `make functional` checks the rows. In every case no hook fails and no guest is disturbed.
"""
_HEAD = "| fault | unit status | until | status afterwards |\n|---|---|---|---|\n"


class Row(NamedTuple):
    """One fault: its name, the unit's status, what ends it, and the status afterwards."""

    fault: str
    status: str
    until: str = ""
    afterwards: str = ""

    def __str__(self) -> str:
        return "| " + " | ".join(self) + " |\n"


class Fault:
    """A fault that a test causes."""

    def __init__(self, name: str) -> None:
        self.row = Row(name, "")

    def record(self, unit: juju.Juju) -> None:
        """Record the unit's status during the fault."""
        self.record_status(*unit.status)

    def record_status(self, level: str, message: str) -> None:
        """Record a status during the fault."""
        self.row = self.row._replace(status=_format(level, message))

    def record_end(self, unit: juju.Juju, until: str) -> None:
        """Record what ended the fault, and the unit's status afterwards."""
        self.row = self.row._replace(until=until, afterwards=_format(*unit.status))


def _format(level: str, message: str) -> str:
    message = message.replace(platform.release(), "KERNEL")
    return f"{level}: {message}".replace("|", "\\|")


def _documented() -> str:
    return TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""


def _rows(title: str) -> list[Row]:
    """Return the rows that are documented in a section."""
    section = _documented().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [Row(*line[2:-2].split(" | ")) for line in lines[1:]]


class Table:
    """The rows of a test run, by the modules of their tests."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {name: [] for name in SECTIONS}

    def missing(self) -> list[str]:
        """Return the faults that are documented but were not caused in this run."""
        caused = {row.fault for rows in self.rows.values() for row in rows}
        lines = _documented().splitlines()
        faults = [line.split(" | ")[0][2:] for line in lines if line.startswith("| ")]
        return [fault for fault in faults if fault not in {*caused, "fault"}]

    def write(self) -> None:
        """Rewrite the document; keep the rows of faults that were not caused in this run."""
        text = _INTRODUCTION
        for name, title in SECTIONS.items():
            rows = {row.fault: row for row in (*_rows(title), *self.rows[name])}
            text += f"\n## {title}\n\n{_HEAD}" + "".join(map(str, sorted(rows.values())))
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")


_TABLE: pytest.StashKey[Table] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-faults",
        action="store_true",
        help="update the document with the outcomes",
    )
    text = "crash at every step of the longest events, too"
    parser.addoption("--every-crash", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()
    config.pluginmanager.register(Collector(config.stash[_TABLE]))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[object]:
    """Creates faults by their names; each completed row must be in the table."""
    faults: list[Fault] = []

    def create(name: str) -> Fault:
        faults.append(Fault(name))
        return faults[-1]

    yield create
    for row in (fault.row for fault in faults if fault.row.status):  # else the test has failed
        request.node.user_properties.append((request.path.stem, tuple(row)))
        if not request.config.getoption("--write-faults"):
            assert str(row) in _documented(), f"not in {TABLE.name}, see `make faults`: {row}"


class Collector:
    """Collects the rows of all tests, including those that ran in another process."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for module, row in report.user_properties:
                self._table.rows[module].append(Row(*row))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):  # a worker knows only its own tests
        return
    table = session.config.stash[_TABLE]
    if exitstatus == pytest.ExitCode.OK and session.config.getoption("--write-faults"):
        table.write()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash[_TABLE]
    number = sum(map(len, table.rows.values()))
    if number:
        missing = table.missing()
        text = f"{number} rows of {TABLE.name}, {len(missing)} not caused in this run"
        terminalreporter.write_line(text)
        for name in missing if config.getoption("--write-faults") else ():
            terminalreporter.write_line(f"kept unchanged: {name}")
