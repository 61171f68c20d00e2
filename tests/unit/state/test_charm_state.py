# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm's state: what is saved is loaded, and nothing of another revision is lost."""

from __future__ import annotations

import json
import stat

import pytest

from state import charm_state
from state.backoff import Backoff
from state.charm_state import CharmState
from state.mapping_history import MappingHistory

FULL = CharmState(
    paused=True,
    mapping=MappingHistory(
        requested="{T4-8Q: ['10de:1eb8']}",
        requested_report_in_placement=True,
        published="{T4-4Q: ['10de:1eb8']}",
    ),
    handled_restart_trigger="1d0b1a52-6ac5-4dd5-8d1e-4c9f1b3d5f0a",
    restart_pending=True,
    requested_passthrough="{t4: ['10de:1eb8']}",
    validated_mapping_digest="ab12",
    validated_passthrough_digest="ab34",
    reported_in_placement=True,
    is_related=True,
    workload_version="570.172.07",
    published_digest="cd34",
    has_published=True,
    resource_path="/var/lib/juju/agents/a/resources/nvidia-vgpu-software/nvidia-vgpu.deb",
    resource_stamp="12 34",
    resource_inspection=("package", "nvidia-vgpu-ubuntu-570", "570.172.07", ""),
    installation=Backoff("ef56", 2, 1790000000, 480, ("dpkg-locked", "", {})),
    preparation=Backoff("ab78", 1, 1790000000, 240, ("reboot-refused", "", {})),
    undone=Backoff("9f12", 1, 1790000000, 240, ("paused", "", {})),
)


def path_below(root):
    return root / "var/lib/nova-compute-nvidia-vgpu/state.json"


def write(root, text):
    path_below(root).parent.mkdir(parents=True)
    path_below(root).write_bytes(text)


def test_everything_that_is_saved_is_loaded(tmp_path):
    assert all(value != empty for value, empty in zip(FULL, CharmState()))
    for group in (FULL.mapping, FULL.installation, FULL.preparation, FULL.undone):
        assert all(value != empty for value, empty in zip(group, type(group)()))
    charm_state.save(tmp_path, FULL)
    assert charm_state.load(tmp_path) == FULL


def test_only_root_can_read_the_state(tmp_path):
    charm_state.save(tmp_path, FULL)
    assert stat.S_IMODE(path_below(tmp_path).stat().st_mode) == 0o600


def test_unchanged_state_is_not_written_again(tmp_path):
    charm_state.save(tmp_path, FULL)
    before = path_below(tmp_path).stat()
    charm_state.save(tmp_path, charm_state.load(tmp_path))
    assert path_below(tmp_path).stat().st_ino == before.st_ino


def test_fresh_host_has_an_empty_state(tmp_path, caplog):
    assert charm_state.load(tmp_path) == CharmState()
    assert not charm_state.load(tmp_path).paused
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b'{"paused": tru'],
    ids=["empty", "bracket", "binary", "truncated"],
)
def test_damaged_file_is_an_empty_state_and_is_logged(tmp_path, caplog, text):
    write(tmp_path, text)
    assert charm_state.load(tmp_path) == CharmState()
    assert "state.json is damaged; reading the copy" in caplog.text


@pytest.mark.parametrize("data", [[], None, 7, "paused"], ids=["list", "null", "number", "text"])
def test_file_of_another_shape_is_an_empty_state(tmp_path, data):
    write(tmp_path, json.dumps(data).encode())
    assert charm_state.load(tmp_path) == CharmState()


def test_fields_of_another_type_are_ignored(tmp_path):
    data = {
        "paused": 1,
        "mapping": {"requested": "{}", "published": 1, "later": 1},
        "preparation": ["x"],
        "published_digest": None,
        "installation": {"problem": [1, "x"], "failed_at": "x"},
        "later": True,
        "resource_path": "/a",
    }
    write(tmp_path, json.dumps(data).encode())
    assert charm_state.load(tmp_path) == CharmState(
        mapping=MappingHistory(requested="{}"),
        installation=Backoff(problem=(1, "x")),
        resource_path="/a",
    )


def test_downgrade_keeps_what_a_later_revision_has_saved(tmp_path):
    later = {"paused_since": 1790000000, "mapping": {"history": ["a"]}}
    write(tmp_path, json.dumps(later).encode())
    charm_state.save(tmp_path, FULL)
    data = json.loads(path_below(tmp_path).read_text())
    assert data["paused_since"] == 1790000000
    assert data["mapping"]["history"] == ["a"]
    assert charm_state.load(tmp_path) == FULL


@pytest.mark.parametrize("depth", [30, 1000, 1400, 5000])
def test_deep_nesting_is_damage_that_the_next_save_repairs(tmp_path, depth):
    """Python reads deeper lists than it can write again."""
    write(tmp_path, b'{"x": ' + b"[" * depth + b"]" * depth + b"}")
    assert charm_state.load(tmp_path) == CharmState()
    charm_state.save(tmp_path, FULL)
    assert charm_state.load(tmp_path) == FULL


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_copy_is_read_where_the_state_is_damaged(tmp_path, damage):
    charm_state.save(tmp_path, FULL)
    path_below(tmp_path).write_text(damage)
    assert charm_state.load(tmp_path) == FULL


def test_copy_does_not_outlive_a_state_that_was_deleted(tmp_path):
    """As by an operator who starts again."""
    charm_state.save(tmp_path, FULL)
    path_below(tmp_path).unlink()
    assert not charm_state.load(tmp_path).paused
