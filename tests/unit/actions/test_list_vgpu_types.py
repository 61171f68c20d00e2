# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The result of the action list-vgpu-types."""

from __future__ import annotations

import json

import pytest

import recorded
from actions import list_vgpu_types


def test_line_format_of_the_legacy_charm_is_kept(cards):
    functions = [recorded.host("mixed")["functions"][2]]
    lines = list_vgpu_types.types_text(cards("mixed", functions=functions)).splitlines()
    assert lines[0].startswith("nvidia-105, 0000:c1:00.0, GRID V100-1Q, num_heads=4, ")
    assert lines[3] == (
        "nvidia-108, 0000:c1:00.0, GRID V100-8Q, num_heads=4, frl_config=60, "
        "framebuffer=8192M, max_resolution=7680x4320, max_instance=2"
    )
    assert len(lines) == 17


def test_every_type_of_every_card_has_a_line(cards):
    lines = list_vgpu_types.types_text(cards("m10-board")).splitlines()
    assert len(lines) == 4 * 12
    assert [line.split(", ")[1] for line in lines[::12]] == [
        "0000:84:00.0",
        "0000:85:00.0",
        "0000:86:00.0",
        "0000:87:00.0",
    ]


def test_line_without_a_description_ends_with_the_name(cards):
    lines = list_vgpu_types.types_text(cards("l40s-vendor-vfio")).splitlines()
    assert lines[0] == "nvidia-1145, 0000:3d:00.0, NVIDIA L40S-1B"


@pytest.mark.parametrize("name", ["no-gpu", "t4-fresh", "a100-sriov-off"])
def test_host_without_types_has_no_lines(cards, name):
    cards_of_host = cards(name)
    assert (
        list_vgpu_types.types_text(cards_of_host),
        list_vgpu_types.types_json(cards_of_host),
    ) == ("", "[]")


def test_json_has_free_and_maximum(cards):
    rows = json.loads(list_vgpu_types.types_json(cards("t4-pair", count=True)))
    assert rows[11] == {
        "id": "nvidia-233",
        "address": "0000:84:00.0",
        "name": "GRID T4-8Q",
        "framebuffer": 8192,
        "framework": "mdev",
        "mig_backed": False,
        "free": 2,
        "maximum": 2,
    }
    assert len(rows) == 2 * 17


def test_json_of_vendor_vfio_has_unknown_counts(cards):
    rows = json.loads(list_vgpu_types.types_json(cards("l40s-vendor-vfio", count=True)))
    assert rows[3] == {
        "id": "nvidia-1148",
        "address": "0000:3d:00.0",
        "name": "NVIDIA L40S-2Q",
        "framebuffer": 2048,
        "framework": "vendor-vfio",
        "mig_backed": False,
        "free": None,
        "maximum": None,
    }
