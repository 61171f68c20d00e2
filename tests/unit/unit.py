# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit of the charm for tests: ops' own testing framework takes the place of Juju."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ops import testing
from simulated import Machine

T4_MAPPING = "{T4-8Q: ['10de:1eb8']}"
PAUSED = testing.MaintenanceStatus("Paused. Use 'resume' action to resume normal service.")
PAUSED_BY_PRINCIPAL = testing.MaintenanceStatus(
    "Paused by nova-compute. Use its 'resume' action to resume normal service."
)


def ready(message: str) -> testing.ActiveStatus:
    return testing.ActiveStatus(f"Unit is ready: {message}")


class Clock:
    """A clock that shows 12:00 UTC until it is set forward; it replaces `time.time`."""

    def __init__(self) -> None:
        self.now = 1790596800.0

    def __call__(self) -> float:
        return self.now


class Unit:
    """One unit of the charm on a simulated machine; it keeps its state from event to event."""

    def __init__(self, machine: Machine, context: testing.Context[Any], clock: Clock) -> None:
        self.machine = machine
        self.clock = clock
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

    def set_resource(self, path: Path) -> None:
        """Attach a resource whose hook has not run yet."""
        resource = testing.Resource(name="nvidia-vgpu-software", path=path)
        self.change(resources={resource})

    def attach(self, path: Path) -> None:
        self.set_resource(path)
        self.hook("upgrade_charm")

    def start_guest(self, parent: str, type_id: str, uuid: str) -> None:
        """Start a guest that has one mediated device."""
        self.machine.create_mdev(parent, type_id, uuid)
        self.machine.define_guest(uuid, name=f"instance-{uuid[-8:]}")
        self.hook("update_status")

    def hook(self, name: str) -> None:
        self.state = self.context.run(getattr(self.context.on, name)(), self.state)

    def update_status_after(self, *, minutes: int) -> None:
        """Set the clock forward, as far as a failure needs to be tried again."""
        self.clock.now += 60 * minutes
        self.hook("update_status")

    def relation_hook(self, name: str, **changes: Any) -> None:
        current = self.state.get_relation(self.relation.id)
        relation = dataclasses.replace(current, **changes)
        self.change(relations={relation})
        of_unit = {"remote_unit": 0} if name in ("joined", "changed") else {}
        event = getattr(self.context.on, f"relation_{name}")(relation, **of_unit)
        self.state = self.context.run(event, self.state)

    def action(self, name: str, **params: Any) -> dict[str, Any]:
        given = {key.replace("_", "-"): value for key, value in params.items()}
        self.state = self.context.run(self.context.on.action(name, params=given), self.state)
        return self.results

    @property
    def results(self) -> dict[str, Any]:
        """The results of the last action, also of one that has failed."""
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

    def device_specs(self) -> list[str]:
        """Return the addresses of the published device_spec options."""
        pairs = self.sections["pci"]
        return [json.loads(value)["address"] for name, value in pairs if name == "device_spec"]

    def device_addresses(self, type_id: str) -> list[str]:
        """Return the addresses that are published for a type of mediated devices."""
        return list(dict(self.sections[f"mdev_{type_id}"])["device_addresses"].split(","))

    def assigned_types(self, card: int = 0) -> dict[str, str]:
        """Return the types that the charm assigned to the virtual functions of a card."""
        return self.machine.assigned_types(card)

    def assert_converged(self) -> None:
        """Check that further hooks restart no daemon and publish the same bytes."""
        before = self.databag
        self.machine.commands.clear()
        for _ in range(2):
            self.hook("update_status")
        assert self.databag == before
        assert self.machine.did("systemctl restart") == []
