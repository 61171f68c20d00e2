# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows of a host itself: its units, its journal, the clean-up by hand."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import documents
import pytest
import run_examples
from bed import juju, machine
from session import ActionError, Session

PATHS = [
    path
    for path in documents.paths()
    if f"<!-- {run_examples.BOOTED}:" in path.read_text(encoding="utf-8")
]


class BootedHost:
    """A unit on a booted host; it implements the Host of a session."""

    def __init__(self, host: machine.Machine, unit: juju.Juju) -> None:
        self._host = host
        self._unit = unit

    def configure(self, **options: Any) -> None:
        assert self._unit.configure(**options).returncode == 0

    def action(self, name: str, **params: Any) -> dict[str, Any]:
        outcome = self._unit.action(name, **params)
        if outcome.failed is not None:
            raise ActionError(outcome.failed)
        return dict(outcome.results)

    def reboot(self) -> None:
        self._host.reboot()

    @property
    def status(self) -> tuple[str, str]:
        return self._unit.status


@pytest.mark.parametrize("path", PATHS, ids=documents.name)
def test_commands_on_the_host_print_what_the_document_shows(
    path: Path, boot: Any, nvidia_deb: Path
) -> None:
    @contextmanager
    def start(host: str) -> Iterator[Session]:
        with boot(host) as (booted, unit):
            unit.store(nvidia_deb)
            for hook in ("install", "config-changed", "start"):
                unit.hook(hook)
            unit.integrate()
            yield Session(BootedHost(booted, unit), lambda *argv: booted.run(*argv).stdout)

    text = path.read_text(encoding="utf-8")
    differing = [
        done
        for done in run_examples.run_document(text, run_examples.BOOTED, start)
        if not documents.agrees(done.shown, done.printed)
    ]
    assert differing == []
