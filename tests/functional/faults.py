# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The table of faults and outcomes in docs/faults.md: tests make its rows, and are held to them.

A test that causes a fault notes what the unit then says, and what it says once the fault is over.
Without `--write-faults` each row has to stand in the table as it is; with it the table is written
anew, and only a run of all tests can do that.
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


class Table:
    """The rows of a run, by section."""

    def __init__(self, is_written: bool) -> None:
        self.is_written = is_written
        self.rows: dict[str, dict[str, Row]] = {name: {} for name in SECTIONS}
        self._documented = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""

    def add(self, module: str, row: Row) -> None:
        """Take a row; it has to be documented.

        Raises:
            AssertionError: it is not, or it is there twice.
        """
        assert row.fault not in self.rows[module], f"two tests make the row: {row.fault}"
        self.rows[module][row.fault] = row
        if not self.is_written:
            assert str(row) in self._documented, f"docs/faults.md lacks, see `make faults`: {row}"

    def missing(self) -> list[str]:
        """Return the faults that are documented and were not caused."""
        made = {fault for rows in self.rows.values() for fault in rows}
        rows = self._documented.split("|---|---|---|---|\n")[1:]
        faults = [line.split(" | ")[0][2:] for part in rows for line in part.splitlines() if line]
        return [fault for fault in faults if not fault.startswith("#") and fault not in made]

    def write(self) -> None:
        """Write the document anew."""
        text = _INTRODUCTION
        for name, title in SECTIONS.items():
            text += f"\n## {title}\n\n{_HEAD}" + "".join(map(str, self.rows[name].values()))
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")


_TABLE: pytest.StashKey[Table] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-faults", action="store_true", help="write docs/faults.md; needs all tests"
    )

    text = "crash at every step of the longest events too"
    parser.addoption("--every-crash", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table(config.getoption("--write-faults"))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[object]:
    """Begins faults, by their names in the table."""
    begun: list[Fault] = []

    def begin(name: str) -> Fault:
        begun.append(Fault(name))
        return begun[-1]

    yield begin
    table = request.config.stash[_TABLE]
    for each in begun:
        if each.row.says:  # else the test has failed
            table.add(request.module.__name__, each.row)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    table = session.config.stash[_TABLE]
    if exitstatus != pytest.ExitCode.OK:
        return
    if table.is_written:
        table.write()
    elif _is_whole(session) and table.missing():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_whole(session: pytest.Session) -> bool:
    """Whether every test that makes rows was run."""
    modules = {item.path.stem for item in session.items}
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    left_out = reporter.stats.keys() & {"skipped", "deselected"} if reporter else {"all"}
    return modules >= SECTIONS.keys() and not left_out


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash[_TABLE]
    number = sum(map(len, table.rows.values()))
    if number:
        terminalreporter.write_line(f"{number} rows of docs/faults.md")
    if number and not table.is_written:
        for fault in table.missing():
            terminalreporter.write_line(f"not caused in this run: {fault}")
