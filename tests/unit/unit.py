# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit of the charm, for tests: Juju's part is played by ops' own testing framework."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ops import testing
from simulated import Machine


class Unit:
    """One unit of the charm on a simulated machine; it keeps its state from event to event."""

    def __init__(self, machine: Machine, context: testing.Context[Any]) -> None:
        self.machine = machine
        self.context = context
        self.relation = testing.SubordinateRelation("nova-vgpu")
        # Charmhub's own revision of the resource is an empty file.
        empty = machine.root / "empty.deb"
        empty.touch()
        resource = testing.Resource(name="nvidia-vgpu-software", path=empty)
        self.state = testing.State(relations={self.relation}, resources={resource})

    def change(self, **changes: Any) -> None:
        self.state = dataclasses.replace(self.state, **changes)

    def configure(self, text: str) -> None:
        self.change(config={"vgpu-device-mappings": text})
        self.hook("config_changed")

    def attach(self, path: Path) -> None:
        resource = testing.Resource(name="nvidia-vgpu-software", path=path)
        self.change(resources={resource})
        self.hook("upgrade_charm")

    def hook(self, name: str) -> None:
        self.state = self.context.run(getattr(self.context.on, name)(), self.state)

    def relation_hook(self, name: str, **changes: Any) -> None:
        known = self.state.get_relation(self.relation.id)
        relation = dataclasses.replace(known, **changes)
        self.change(relations={relation})
        event = getattr(self.context.on, f"relation_{name}")(relation)
        self.state = self.context.run(event, self.state)

    def action(self, name: str, **params: Any) -> dict[str, Any]:
        given = {key.replace("_", "-"): value for key, value in params.items()}
        self.state = self.context.run(self.context.on.action(name, params=given), self.state)
        return dict(self.context.action_results or {})

    @property
    def status(self) -> Any:
        return self.state.unit_status

    @property
    def databag(self) -> dict[str, str]:
        data = self.state.get_relation(self.relation.id).local_unit_data
        added_by_juju = ("egress-subnets", "ingress-address", "private-address")
        return {key: data[key] for key in data if key not in added_by_juju}

    @property
    def sections(self) -> dict[str, Any]:
        text = self.databag["subordinate_configuration"]
        return dict(json.loads(text)["nova"]["/etc/nova/nova.conf"]["sections"])
