# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards under vendor-specific VFIO, which Nova calls the kernel variant driver."""

from __future__ import annotations

import json

from ops import testing

from unit import ready


def test_only_functions_with_a_type_are_published(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert l40s.sections == {
        "pci": [
            *(
                ["device_spec", json.dumps({"address": function, "managed": "no"})]
                for function in ("0000:3d:00.4", "0000:3d:00.5")
            ),
            [
                "alias",
                '{"name": "L40S-24Q", "device_type": "type-VF", '
                '"vendor_id": "10de", "product_id": "26b9"}',
            ],
        ]
    }


def test_functions_have_the_resource_class_of_their_type_in_placement(l40s):
    l40s.change(
        config={"report-in-placement": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    )
    l40s.hook("config_changed")
    assert l40s.sections == {
        "pci": [
            ["report_in_placement", "true"],
            [
                "device_spec",
                '{"address": "0000:3d:00.4", "managed": "no", '
                '"resource_class": "CUSTOM_L40S_48Q"}',
            ],
            [
                "alias",
                '{"name": "L40S-48Q", "device_type": "type-VF", "vendor_id": "10de", '
                '"product_id": "26b9", "resource_class": "CUSTOM_L40S_48Q"}',
            ],
        ]
    }


def test_report_in_placement_cannot_be_undone(l40s):
    """Nova refuses to start without the option on a node that has reported its devices once."""
    options = {"report-in-placement": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    l40s.change(config=options)
    l40s.hook("config_changed")
    l40s.change(config={**options, "report-in-placement": False})
    l40s.hook("config_changed")
    assert l40s.sections["pci"][0] == ["report_in_placement", "true"]
    assert l40s.status == testing.ActiveStatus(
        "Unit is ready: 1 NVIDIA GPU, 1 vGPU type; "
        "report-in-placement cannot be unset; set it to true"
    )
    l40s.configure("")
    assert l40s.sections == {"pci": [["report_in_placement", "true"]]}
    l40s.relation_hook("departed")
    assert l40s.sections == {"pci": [["report_in_placement", "true"]]}


def test_report_in_placement_can_be_undone_until_it_is_published(l40s):
    relation, mapping = l40s.relation, {"vgpu-device-mappings": "{L40S-24Q: ['10de:26b9']}"}
    l40s.change(relations=set())
    l40s.change(config={"report-in-placement": True, **mapping})
    l40s.hook("config_changed")
    l40s.change(config=mapping)
    l40s.hook("config_changed")
    l40s.change(relations={relation})
    l40s.relation_hook("joined")
    assert "report_in_placement" not in l40s.databag["subordinate_configuration"]
    assert l40s.status == testing.ActiveStatus("Unit is ready: 1 NVIDIA GPU, 1 vGPU type")


def test_resource_class_without_placement_is_refused(l40s):
    l40s.configure("{L40S-24Q: {devices: ['10de:26b9'], resource-class: CUSTOM_X}}")
    assert l40s.status == testing.BlockedStatus(
        "resource-class of L40S-24Q needs report-in-placement=true (irreversible); "
        "set it or remove the class"
    )


def test_rejected_mapping_is_not_applied_at_the_next_boot(l40s):
    l40s.configure("{L40S-8Q: ['10de:26b9']}")
    before = l40s.databag
    l40s.configure("{L40S-9Q: ['10de:26b9']}")
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.databag == before
    assert l40s.status == testing.BlockedStatus(
        "0000:3d:00.0 does not offer L40S-9Q; run list-vgpu-types and choose another"
    )


def test_types_are_assigned_again_after_a_boot(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    before = l40s.databag
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.databag == before
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_functions_without_a_type_are_never_published(l40s, monkeypatch):
    l40s.configure("{L40S-8Q: ['10de:26b9']}")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("system.sysfs.write", refuse)
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.sections == {}


def test_type_refused_by_the_driver_is_shown(l40s, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("system.sysfs.write", refuse)
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    assert l40s.status == testing.BlockedStatus(
        "No nvidia-1155 on 0000:3d:00.4: the driver rejects it; fix this, "
        "then run reboot-install (next try 12:04 UTC)"
    )


def test_variant_driver_is_refused_before_epoxy(deploy):
    unit = deploy("l40s-vendor-vfio", nova="3:29.2.0-0ubuntu1")
    unit.configure("{L40S-24Q: ['10de:26b9']}")
    assert unit.status == testing.BlockedStatus(
        "0000:3d:00.0 needs Nova 31, but 29.2.0 is installed; "
        "use a kernel with mdev, such as jammy's 5.15"
    )
    assert "subordinate_configuration" not in unit.databag
