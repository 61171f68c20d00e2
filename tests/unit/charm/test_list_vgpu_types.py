# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The action list-vgpu-types."""

from __future__ import annotations

import json

import recorded
from recorded import UUIDS


def test_host_without_a_gpu_has_no_types(deploy):
    unit = deploy("no-gpu")
    assert unit.action("list-vgpu-types") == {
        "output": "No vGPU types: no supported NVIDIA GPU found"
    }


def test_driver_that_is_not_loaded_is_reported(deploy):
    assert deploy("t4-fresh").action("list-vgpu-types") == {
        "output": "No vGPU types: NVIDIA's driver is not loaded; see the unit's status"
    }


def test_cards_without_types_are_reported(deploy):
    functions = [{**card, "types": None} for card in recorded.host("t4-pair")["functions"]]
    assert deploy("t4-pair", functions=functions).action("list-vgpu-types") == {
        "output": "No vGPU types: the cards report none; see journalctl -u nvidia-vgpud"
    }


def test_types_are_listed_before_virtual_functions_are_enabled(deploy):
    """Operators need the list before they can map a type."""
    unit = deploy("a100-sriov-off")
    lines = unit.action("list-vgpu-types")["output"].splitlines()
    assert "nvidia-471, 0000:41:00.0, GRID A100-10C, framebuffer=10240M, max_instance=4" in lines
    assert any(line.startswith("nvidia-474, 0000:41:00.0, GRID A100-1-5C") for line in lines)


def test_json_counts_free_vgpus(deploy):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    rows = json.loads(unit.action("list-vgpu-types", format="json")["output"])
    assert [
        (row["address"], row["free"], row["maximum"]) for row in rows if row["id"] == "nvidia-233"
    ] == [("0000:84:00.0", 1, 2), ("0000:d8:00.0", 2, 2)]
