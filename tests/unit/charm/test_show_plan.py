# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The action show-plan."""

from __future__ import annotations

import json

import pytest

import recorded
from unit import T4_MAPPING


def test_proposed_mapping_changes_nothing(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    before = unit.databag
    output = unit.action("show-plan", mappings="{T4-4Q: ['d8:00.0'], A40-2Q: ['10de:2235']}")
    assert output["output"] == (
        "nova:     25.2.1 (yoga)\n"
        "package:  nvidia-vgpu-ubuntu-535 535.161.05\n"
        "driver:   535.161.05 loaded\n"
        "kernel:   5.15.0-173-generic\n"
        "\n"
        "CARD          PCI ID     DRIVER  FRAMEWORK  FUNCTIONS  IN USE  WOULD OFFER "
        "             VGPUS  FREE\n"
        "0000:84:00.0  10de:1eb8  nvidia  mdev       -          0       nvidia-232 "
        "(GRID T4-4Q)  4      4\n"
        "0000:d8:00.0  10de:1eb8  nvidia  mdev       -          0       nvidia-232 "
        "(GRID T4-4Q)  4      4\n"
        "\n"
        "nova.conf (as tried):\n"
        "  [devices]\n"
        "  enabled_mdev_types = nvidia-232\n"
        "\n"
        "  [mdev_nvidia-232]\n"
        "  device_addresses = 0000:d8:00.0\n"
        "\n"
        "Flavor properties:\n"
        "  resources:VGPU=1  vGPU type nvidia-232 (GRID T4-4Q)\n"
        "\n"
        "Notes:\n"
        "  - Nova 25.2.1 offers nvidia-232 on every card that supports it, mapped "
        "or not\n"
        "\n"
        "Requests for other hosts:\n"
        "  - A40-2Q: 10de:2235"
    )
    assert unit.databag == before


def test_mapping_problems_are_reported(deploy):
    unit = deploy("t4-pair")
    plan = json.loads(unit.action("show-plan", mappings="[", format="json")["output"])
    assert plan["keeps_published"] is True
    assert [problem["kind"] for problem in plan["problems"]] == ["option-syntax"]


def test_controller_settings_are_shown(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    output = l40s.action("show-plan")["output"]
    assert (
        "Required on nova-cloud-controller:\n"
        "  scheduler-default-filters includes PciPassthroughFilter\n"
        "  pci-alias is a JSON list that includes:\n"
        '    {"name": "L40S-24Q", "device_type": "type-VF", "vendor_id": "10de", '
        '"product_id": "26b9"}\n'
        "\n"
        "Flavor properties:\n"
        "  pci_passthrough:alias=L40S-24Q:1  vGPU type nvidia-1155 (NVIDIA L40S-24Q)"
    ) in output


def test_controller_settings_for_placement_are_shown(l40s):
    l40s.change(
        config={"vgpu-device-mappings": "{L40S-24Q: ['10de:26b9']}", "report-in-placement": True}
    )
    l40s.hook("config_changed")
    output = l40s.action("show-plan")["output"]
    assert (
        '    {"name": "L40S-24Q", "device_type": "type-VF", "vendor_id": "10de", '
        '"product_id": "26b9", "resource_class": "CUSTOM_L40S_24Q"}\n'
        "  /etc/nova/nova.conf.d/pci-in-placement.conf exists on each unit, and contains:\n"
        "    [filter_scheduler]\n"
        "    pci_in_placement = true\n"
        "  then the unit's Nova services are restarted\n"
    ) in output


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("l40s-vendor-vfio", "{L40S-24Q: ['10de:26b9']}"),
        ("rtx-pro-6000", "{DC-48Q: {devices: ['10de:2bb5'], max-instances: 1}}"),
        ("h200", "{H200X-1-18C: ['10de:2335']}"),
        ("rtx-pro-6000", "{DC-1-2Q: ['10de:2bb5']}"),
        ("a100-80-pair", "{A100D-1-10C: ['31:00.0'], A100D-20C: ['b1:00.0']}"),
        ("two L40S", "{L40S-8Q: {devices: ['10de:26b9'], max-instances: 8}}"),
        ("two L40S", "{L40S-8Q: {devices: ['3d:01.0', 'c1:00.0'], max-instances: 4}}"),
        ("a40-mdev", "{A40-2Q: ['41:00.4', '41:00.5'], A40-8Q: ['41:00.6']}"),
    ],
)
def test_proposed_plan_matches_the_applied_plan(deploy, host, text):
    """The plan and the preparation agree on every function."""
    if host == "two L40S":
        cards = recorded.card_pair("l40s-vendor-vfio")
        host = recorded.host("l40s-vendor-vfio", functions=cards)
    unit = deploy(host)
    before = json.loads(unit.action("show-plan", mappings=text, format="json")["output"])
    unit.configure(text)
    after = json.loads(unit.action("show-plan", format="json")["output"])
    assert before["pending_changes"]
    assert after["pending_changes"] == []
    shared = ("sections", "aliases", "cards", "problems", "keeps_published")
    assert [before[key] for key in shared] == [after[key] for key in shared]
    assert after["published"] == after["sections"] == unit.sections


def test_leaving_mig_mode_is_a_pending_change(deploy):
    unit = deploy("h200")
    unit.configure("{H200X-1-18C: ['10de:2335']}")
    text = "{H200X-141C: ['10de:2335']}"
    before = json.loads(unit.action("show-plan", mappings=text, format="json")["output"])
    assert before["pending_changes"] == [
        "switch 0000:18:00.0 out of MIG mode",
        "assign nvidia-1428 (H200X-141C) to virtual functions of 0000:18:00.0",
    ]
    unit.configure(text)
    assert before["sections"] == unit.sections
