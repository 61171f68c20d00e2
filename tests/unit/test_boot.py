# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The boot service prepares the mapped cards, and only those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boot
import recorded
from gpu.card import Framework
from gpu.problems import ProblemKind
from host.facts import gather
from state import boot_result, charm_state
from state.charm_state import CharmState
from state.mapping_history import MappingHistory

CHARM = Path("/var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm")
UNIT_FILE = "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service"
RESULT = "run/nova-compute-nvidia-vgpu/result.json"
MAPPING = "{A40-8Q: ['10de:2235']}"


@pytest.fixture
def a40(machine):
    """An A40 just after a boot."""
    return machine(recorded.without_functions("a40-mdev"))


def run_at_boot(host, mapping, **state):
    history = MappingHistory(requested=mapping)
    charm_state.save(host.root, CharmState(mapping=history, **state))
    return boot.main(host.root, host)


def test_requested_type_name_enables_virtual_functions(a40):
    assert run_at_boot(a40, MAPPING) == 0
    (card,) = gather(a40.root).cards
    assert (card.framework, len(card.parents)) == (Framework.MDEV, 32)
    assert json.loads((a40.root / RESULT).read_text()) == {"failures": []}


def test_second_run_changes_nothing(a40):
    run_at_boot(a40, MAPPING)
    before = len(a40.commands)
    assert run_at_boot(a40, MAPPING) == 0
    assert len(a40.commands) == before


@pytest.mark.parametrize(
    "mapping",
    ["", "{A40-8Q: ['0000:99:00.0']}", "{T4-8Q: ['10de:1eb8']}"],
    ids=["empty-mapping", "card-of-another-host", "another-model"],
)
def test_card_that_is_not_mapped_is_left_unchanged(a40, mapping):
    assert run_at_boot(a40, mapping) == 0
    assert a40.commands == []


def test_paused_unit_changes_no_card(a40):
    assert run_at_boot(a40, MAPPING, paused=True) == 0
    assert a40.commands == []


def test_cards_are_prepared_before_nova_is_installed(machine):
    host = machine({**recorded.without_functions("a40-mdev"), "nova": None})
    assert run_at_boot(host, MAPPING) == 0
    assert len(gather(host.root).cards[0].parents) == 32


def test_card_without_sriov_needs_no_preparation(machine):
    host = machine("t4-pair")
    assert run_at_boot(host, "{T4-8Q: ['10de:1eb8']}") == 0
    assert host.commands == []


def test_card_bound_to_another_driver_is_left_unchanged(machine):
    data = recorded.without_functions("a40-mdev")
    data["functions"] = [{**card, "driver": "vfio-pci"} for card in data["functions"]]
    host = machine(data)
    assert run_at_boot(host, MAPPING) == 0
    assert host.commands == []


def test_invalid_mapping_of_another_revision_is_reported(a40):
    assert run_at_boot(a40, "[") == 1
    assert [problem.kind for problem in boot_result.failures(a40.root)] == [
        ProblemKind.OPTION_SYNTAX
    ]


@pytest.mark.parametrize(
    "text", ["", "{", "[[]]", '{"failures": [["unknown", "", {}], 1, []]}', '{"failures": 1}']
)
def test_unreadable_result_reports_no_failures(a40, text):
    path = a40.root / RESULT
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert boot_result.failures(a40.root) == ()
