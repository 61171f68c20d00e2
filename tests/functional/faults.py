# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The table of faults and outcomes in docs/faults.md: tests make its rows, and are held to them.

A test that causes a fault notes what the unit then says, and what it says once the fault is over.
Without `--write-faults` each row has to stand in the table as it is; with it the rows are written.
"""

from __future__ import annotations

import re
from typing import Iterator, NamedTuple

import pytest
from bed import juju, machine

TABLE = machine.REPOSITORY / "docs/faults.md"
# The modules whose tests make rows, in the order of the table.
SECTIONS = {
    "test_package": "Host software",
    "test_boot": "Boot",
    "test_guests": "Guests that run",
    "test_crash": "Crashes and losses of power",
    "test_bad_input": "Hostile input",
    "test_refresh": "Upgrades of the charm",
}
_INTRODUCTION = """\
# What may go wrong, and what comes of it

Written by `make faults`: each row is made on a booted host by a test of tests/functional, and
`make functional` holds the charm to it. No hook fails in any of them, and no guest is disturbed.
"""
_HEAD = "| fault | the unit then says | until | and then |\n|---|---|---|---|\n"


class Row(NamedTuple):
    """One fault: what it is, what the unit says, until when, and what it says from then on."""

    fault: str
    says: str
    until: str = ""
    then: str = ""

    def __str__(self) -> str:
        return "| " + " | ".join(self) + " |\n"


class Fault:
    """A fault under way."""

    def __init__(self, name: str) -> None:
        self.row = Row(name, "")

    def seen(self, unit: juju.Juju) -> None:
        """Note what the unit says while it lasts."""
        self.seen_as(*unit.status)

    def seen_as(self, level: str, message: str) -> None:
        """Note what a unit has said."""
        self.row = self.row._replace(says=_said(level, message))

    def over(self, unit: juju.Juju, until: str) -> None:
        """Note what the unit says when something has ended it."""
        self.row = self.row._replace(until=until, then=_said(*unit.status))


def _said(level: str, message: str) -> str:
    message = re.sub(r"linux-headers-\S+", "linux-headers-KERNEL", message)
    return f"{level}: {message}".replace("|", "\\|")


def _documented() -> str:
    return TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""


def _rows(title: str) -> list[Row]:
    """Return the rows that are documented below a heading."""
    part = _documented().partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [Row(*line[2:-2].split(" | ")) for line in lines[1:]]


class Table:
    """The rows of a run, by the modules of their tests."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {name: [] for name in SECTIONS}

    def missing(self) -> list[str]:
        """Return the faults that are documented and were not caused."""
        made = {row.fault for rows in self.rows.values() for row in rows}
        lines = _documented().splitlines()
        faults = [line.split(" | ")[0][2:] for line in lines if line.startswith("| ")]
        return [fault for fault in faults if fault not in {*made, "fault"}]

    def write(self) -> None:
        """Write the document anew; the rows of what was not caused stay."""
        text = _INTRODUCTION
        for name, title in SECTIONS.items():
            rows = {row.fault: row for row in (*_rows(title), *self.rows[name])}
            text += f"\n## {title}\n\n{_HEAD}" + "".join(map(str, sorted(rows.values())))
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")


_TABLE: pytest.StashKey[Table] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-faults", action="store_true", help="bring docs/faults.md up to what happens"
    )
    text = "crash at every step of the longest events too"
    parser.addoption("--every-crash", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()
    config.pluginmanager.register(Collector(config.stash[_TABLE]))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[object]:
    """Begins faults, by their names in the table; each row has to stand in it."""
    begun: list[Fault] = []

    def begin(name: str) -> Fault:
        begun.append(Fault(name))
        return begun[-1]

    yield begin
    for row in (each.row for each in begun if each.row.says):  # without words its test has failed
        request.node.user_properties.append((request.path.stem, tuple(row)))
        if not request.config.getoption("--write-faults"):
            assert str(row) in _documented(), f"docs/faults.md lacks, see `make faults`: {row}"


class Collector:
    """Takes the rows of tests, also of those that ran in another process."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for module, row in report.user_properties:
                self._table.rows[module].append(Row(*row))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workerinput"):  # it knows its own tests only
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
        text = f"{number} rows of docs/faults.md, {len(missing)} not caused in this run"
        terminalreporter.write_line(text)
        for name in missing if config.getoption("--write-faults") else ():
            terminalreporter.write_line(f"kept as it was: {name}")
