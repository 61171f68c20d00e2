# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Data that the unit publishes in the relation, and withdraws."""

from __future__ import annotations

import json

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import T4_MAPPING


@pytest.mark.parametrize(
    ("nova", "prefix"), [("2:21.2.4-0ubuntu2", "vgpu"), ("3:25.2.1-0ubuntu2.9", "mdev")]
)
def test_type_ids_and_addresses_are_published_unchanged_without_a_card(deploy, nova, prefix):
    unit = deploy("no-gpu", nova=nova)
    unit.configure("{nvidia-35: ['0000:84:00.0', '0000:85:00.0'], nvidia-36: ['0000:86:00.0']}")
    assert unit.sections == {
        "devices": [[f"enabled_{prefix}_types", "nvidia-35, nvidia-36"]],
        f"{prefix}_nvidia-35": [["device_addresses", "0000:84:00.0,0000:85:00.0"]],
        f"{prefix}_nvidia-36": [["device_addresses", "0000:86:00.0"]],
    }


def test_no_addresses_are_published_for_queens(deploy):
    unit = deploy("m10-board")
    unit.configure("{M10-4Q: ['10de:13bd']}")
    assert unit.sections == {"devices": [["enabled_vgpu_types", "nvidia-43"]]}


def test_card_address_expands_to_its_virtual_functions(deploy):
    unit = deploy("a40-mdev")
    unit.configure("{A40-2Q: ['41:00.0']}")
    addresses = unit.device_addresses("nvidia-558")
    assert (len(addresses), addresses[0], addresses[-1]) == (24, "0000:41:00.4", "0000:41:03.3")


def test_openstack_upgrade_changes_option_names(deploy):
    unit = deploy("t4-pair", nova="2:23.2.2-0ubuntu1")
    unit.configure(T4_MAPPING)
    assert "vgpu_nvidia-233" in unit.sections
    recorded.write_dpkg_status(
        unit.machine.root,
        [
            ("nova-common", "3:25.2.1-0ubuntu2.9", "installed"),
            ("nvidia-vgpu-ubuntu-535", "535.161.05", "installed"),
        ],
    )
    unit.hook("update_status")
    assert "mdev_nvidia-233" in unit.sections


def test_invalid_mapping_keeps_published_data(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    before = unit.databag
    unit.configure('{nvidia-233: ["0000:84:00.0\\nvirt_type=qemu"]}')
    assert unit.databag == before
    assert unit.status == testing.BlockedStatus(
        "vgpu-device-mappings: nvidia-233, device 1: "
        "expected a PCI address (0000:84:00.0) or a PCI ID (10de:1eb8)"
    )


def test_type_in_use_is_kept_for_its_guests(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    before = unit.databag
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.configure("{T4-4Q: ['10de:1eb8']}")
    assert unit.databag == before
    plan = unit.action("show-plan")["output"]
    assert [row.split()[6:8] for row in plan.splitlines() if row.startswith("0000:")] == [
        ["as", "published"],
        ["as", "published"],
    ]
    assert unit.status == testing.WaitingStatus(
        "Guests on 0000:84:00.0 use nvidia-233 (T4-8Q); delete or migrate them, "
        "or map the type to the card again"
    )
    unit.machine.remove_mdev(UUIDS[0])
    unit.hook("update_status")
    assert "mdev_nvidia-232" in unit.sections


def test_unset_option_withdraws_published_data(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.configure("")
    assert unit.sections == {}


def test_no_codename_is_published_for_an_unknown_release(deploy):
    unit = deploy("t4-pair", nova="3:36.0.0-0ubuntu1")
    unit.configure(T4_MAPPING)
    assert json.loads(unit.databag["releases-packages-map"]) == {}
    assert unit.sections["devices"] == [["enabled_mdev_types", "nvidia-233"]]


def test_departing_relation_withdraws_everything(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.relation_hook("departed")
    assert unit.sections == {}
    assert unit.databag["services"] == "[]"


def test_stop_withdraws_everything(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.hook("stop")
    assert unit.sections == {}


def test_new_relation_receives_everything_again(deploy):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.hook("update_status")
    unit.relation_hook("departed")
    unit.relation = testing.SubordinateRelation("nova-vgpu")
    unit.change(relations={unit.relation})
    unit.relation_hook("created")
    assert "mdev_nvidia-233" in unit.sections
