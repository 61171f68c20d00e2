# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the charm must remember because the host cannot show it: state.json.

`paused`, `handled_restart_trigger`, `mapping`, `requested_passthrough` and
`reported_in_placement` matter; the other fields save time or repeat an earlier answer, and may be
lost at any time.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from state.backoff import Backoff
from state.folders import IN_PLACEMENT, KEPT
from state.mapping_history import MappingHistory
from system.files import ensure_contents, read_json

__all__ = ["CharmState", "load", "save"]

_PATH = KEPT / "state.json"
_COPY = KEPT / "state-copy.json"  # read only if the other one is damaged
_IN_PLACEMENT_TEXT = "This compute node reports PCI devices to placement permanently.\n"

logger = logging.getLogger(__name__)


class CharmState(NamedTuple):
    """The charm's state on one host.

    Attributes:
        paused: whether the action `pause` is in effect.
        mapping: what became of the mappings on this host.
        handled_restart_trigger: the principal's last restart-trigger that was handled.
        restart_pending: whether the restart for it waits until no vGPU is in use.
        requested_passthrough: the last valid value of the option passthrough-devices, which the
            boot service applies.
        validated_mapping_digest: digest of the mapping that last passed the schema.
        validated_passthrough_digest: the same of the option passthrough-devices.
        reported_in_placement: whether nova.conf has ever had report_in_placement; Nova then
            requires it.
        is_related: whether the relation to nova-compute existed at the last event.
        workload_version: the driver's version that was reported to Juju.
        published_digest: digest of the data that was last read back from the relation.
        has_published: whether any section of nova.conf was published then.
        resource_path: path of the resource's file when Juju was last asked for it.
        resource_stamp: its size and time of change when it was inspected.
        resource_inspection: the result of that; see `driver.resource`.
        installation: the failures of the host software.
        preparation: the failures of the boot service.
        undone: the upgrade that failed and was undone, under what it depends on.
    """

    paused: bool = False
    mapping: MappingHistory = MappingHistory()
    handled_restart_trigger: str = ""
    restart_pending: bool = False
    requested_passthrough: str = ""
    validated_mapping_digest: str = ""
    validated_passthrough_digest: str = ""
    reported_in_placement: bool = False
    is_related: bool = False
    workload_version: str = ""
    published_digest: str = ""
    has_published: bool = False
    resource_path: str = ""
    resource_stamp: str = ""
    resource_inspection: tuple[Any, ...] = ()
    installation: Backoff = Backoff()
    preparation: Backoff = Backoff()
    undone: Backoff = Backoff()

    def with_restart_trigger(self, trigger: str) -> CharmState:
        """Return the state after the principal's restart-trigger was read, if it has one."""
        if not trigger or trigger == self.handled_restart_trigger:
            return self
        return self._replace(handled_restart_trigger=trigger, restart_pending=True)

    def without_cached_answers(self) -> CharmState:
        """Return the state with which everything is read, asked and tried again."""
        return self._replace(
            resource_path="",
            published_digest="",
            installation=Backoff(),
            preparation=Backoff(),
        )


def load(root: Path) -> CharmState:
    """Read the state; without a readable file it is empty."""
    data = read_json(root / _PATH)
    if not data and (root / _PATH).exists():
        logger.warning("%s is damaged; reading the copy", root / _PATH)
        data = read_json(root / _COPY)
    state = CharmState(**_fields(CharmState._field_defaults, data))
    in_placement = state.reported_in_placement or (root / IN_PLACEMENT).exists()
    return state._replace(reported_in_placement=in_placement)


def save(root: Path, state: CharmState) -> None:
    """Write the state if it has changed; keys that another revision wrote are kept.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    if state.reported_in_placement:
        ensure_contents(root / IN_PLACEMENT, _IN_PLACEMENT_TEXT)
    data = _merged(read_json(root / _PATH), state._asdict())
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    ensure_contents(root / _COPY, text, mode=0o600)
    ensure_contents(root / _PATH, text, mode=0o600)


def _merged(before: object, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON data, with the keys that only the data before has."""
    kept = before if isinstance(before, dict) else {}
    return {
        **kept,
        **{
            name: _merged(kept.get(name), value._asdict()) if _is_record(value) else value
            for name, value in fields.items()
        },
    }


def _fields(defaults: dict[str, Any], data: object) -> dict[str, Any]:
    """Return the values that have the type of their field."""
    fields = {}
    for name, default in defaults.items():
        value = data.get(name) if isinstance(data, dict) else None
        if _is_record(default):
            fields[name] = default._replace(**_fields(default._field_defaults, value))
            continue
        if isinstance(value, list):
            value = tuple(value)
        if type(value) is type(default):
            fields[name] = value
    return fields


def _is_record(value: object) -> bool:
    """Whether a value is a group of fields of its own."""
    return hasattr(value, "_field_defaults")
