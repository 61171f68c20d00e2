# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm deployed with nova-compute: turns a recorded host and an option into a nova.conf."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Sequence

import pytest
from bed import principal
from ops import testing
from simulated import Machine

import recorded
from charm import NovaComputeNvidiaVgpuCharm
from driver import daemon
from system import sysfs


class Unit:
    """One unit of the charm on a host whose programs are simulated.

    Attributes:
        root: the host's tree, which the charm changes.
        pci: what the operator has set on nova-compute; see `principal.render`.
    """

    pci: Sequence[tuple[str, str]] = ()

    def __init__(self, folder: Path, host: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
        machine = Machine(recorded.build(folder / "host", host), host)
        self.root = machine.root
        patch.setattr(NovaComputeNvidiaVgpuCharm, "root", machine.root)
        patch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(machine))
        patch.setattr(daemon, "START_CHECK_DELAY", 0)  # a simulated daemon fails at once
        patch.setattr(sysfs, "write", machine.driver.write)
        self._relation = testing.SubordinateRelation("nova-vgpu")
        # Charmhub's own revision of the resource is an empty file.
        empty = folder / "empty.deb"
        empty.touch()
        resource = testing.Resource(name="nvidia-vgpu-software", path=empty)
        self._state = testing.State(relations={self._relation}, resources={resource})
        self._context = testing.Context(NovaComputeNvidiaVgpuCharm)

    def configure(self, mapping: str, **options: Any) -> None:
        config = {**self._state.config, "vgpu-device-mappings": mapping, **options}
        self._state = dataclasses.replace(self._state, config=config)
        self._state = self._context.run(self._context.on.config_changed(), self._state)

    @property
    def message(self) -> str:
        return self._state.unit_status.message

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The sections that nova-compute reads from the relation."""
        databag = self._state.get_relation(self._relation.id).local_unit_data
        return principal.read(databag)[0]

    @property
    def nova_conf(self) -> str:
        """The nova.conf that nova-compute writes."""
        return principal.render(self.sections, self.pci)
