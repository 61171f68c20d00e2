# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cloud suite's tests for hosts without a card, run on a booted host instead of a cloud.

This shows that the suite's expectations match the charm. Only `target.fleet`, which calls Juju, is
replaced.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import types
import unittest
from typing import Any, Iterator

import pytest
from bed import juju, principal
from target import nova

BUNDLED = "{'nvidia-108': ['0000:c1:00.0']}"


class Fleet(types.ModuleType):
    """One compute host instead of a model's hosts, with the interface of `target.fleet`."""

    def __init__(self, host: Any, unit: juju.Juju) -> None:
        super().__init__("target.fleet")
        self._host, self._unit = host, unit
        self._conf = ""
        self._mappings = BUNDLED
        self._is_related = True

    def units(self) -> list[str]:
        return [juju.UNIT] if self._is_related else []

    def principals(self) -> list[str]:
        return [juju.PRINCIPAL]

    def run(self, unit: str, command: str) -> str:
        return self._host.run("sh", "-c", command).stdout.strip()

    def act(self, unit: str, name: str, **parameters: Any) -> dict[str, str]:
        outcome = self._unit.action(name, **parameters)
        assert outcome.failed is None
        return outcome.results

    def plan(self, unit: str, **parameters: Any) -> dict[str, Any]:
        return json.loads(self.act(unit, "show-plan", format="json", **parameters)["output"])

    @contextlib.contextmanager
    def configured(self, mappings: str | None) -> Iterator[None]:
        self._unit.configure(vgpu_device_mappings=mappings)
        try:
            yield
        finally:
            self._unit.configure(vgpu_device_mappings=self._mappings)

    def remove_relation(self) -> None:
        self.nova_conf(juju.PRINCIPAL)  # nova-compute keeps the last published data
        for hook in ("nova-vgpu-relation-departed", "nova-vgpu-relation-broken", "stop", "remove"):
            assert self._unit.hook(hook).returncode == 0
        shutil.rmtree(self._host.bed / "juju/relations" / juju.RELATION)
        self._is_related = False

    def integrate(self) -> None:
        self._is_related = True
        for hook in ("install", "config-changed", "start"):
            assert self._unit.hook(hook).returncode == 0
        self._unit.integrate()

    def settle(self) -> None:
        """Do nothing: every hook has run when the call that caused it returns."""

    def await_status(self, unit: str, level: str, pattern: str) -> None:
        current_level, message = self._unit.status
        assert current_level == level
        assert re.fullmatch(pattern, message)

    def nova_conf(self, unit: str) -> nova.Sections:
        if self._is_related:
            self._conf = principal.render(principal.read(self._unit.databag)[0])
        return nova.sections(self._conf)

    def await_nova_conf(self, condition: Any, description: str) -> None:
        assert condition(self.nova_conf(juju.PRINCIPAL)), description

    def boot_id(self, unit: str) -> str:
        return self.run(unit, "cat /proc/sys/kernel/random/boot_id")


@pytest.fixture
def plain_hosts(boot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The suite's module, connected to a host without a card."""
    with boot("no-gpu") as (host, unit):
        host.run("systemd-run", "--unit=nova-compute", "sleep", "infinity")
        for hook in ("install", "config-changed", "start"):
            unit.hook(hook)
        unit.integrate()
        unit.configure(vgpu_device_mappings=BUNDLED)
        fleet = Fleet(host, unit)
        monkeypatch.setitem(sys.modules, "target.fleet", fleet)
        monkeypatch.setattr("target.fleet", fleet, raising=False)
        monkeypatch.delitem(sys.modules, "target.plain_hosts", raising=False)
        import target.plain_hosts

        yield target.plain_hosts


def test_the_cloud_suite_passes_on_a_booted_host(plain_hosts):
    suite = unittest.TestLoader().loadTestsFromTestCase(plain_hosts.PlainHostTest)
    output = io.StringIO()
    result = unittest.TextTestRunner(stream=output, verbosity=2).run(suite)
    assert result.wasSuccessful(), output.getvalue()
    assert (result.testsRun, result.skipped) == (10, [])
