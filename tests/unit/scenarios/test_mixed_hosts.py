# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Several cards on one host: the problem of one does not affect the others."""

from __future__ import annotations

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from system import sysfs

A100D = "0000:31:00.0"


@pytest.mark.parametrize(
    ("other", "text", "message"),
    [
        (
            "a10-vendor-vfio",
            "{L40S-24Q: ['3d:00.0'], A10-7Q: ['c1:00.0']}",
            "0000:c1:00.0 does not offer A10-7Q; run list-vgpu-types and choose another",
        ),
        (
            "l40s-vendor-vfio",
            "{L40S-24Q: ['3d:00.0'], L40S-8Q: ['c1:00.0']}",
            (
                "Nova cannot distinguish L40S-24Q from L40S-8Q; map one, or set "
                "report-in-placement=true (irreversible)"
            ),
        ),
    ],
)
def test_mapping_rejected_during_preparation_keeps_assigned_types(deploy, other, text, message):
    unit = deploy(
        "l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio", other, enabled=False)
    )
    unit.configure("{L40S-8Q: ['3d:00.0']}")
    before, assigned = unit.databag, unit.assigned_types()
    unit.configure(text)
    assert unit.status == testing.BlockedStatus(message)
    assert (unit.databag, unit.assigned_types()) == (before, assigned)
    unit.assert_converged()
    unit.machine.reboot()
    unit.hook("start")
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_one_invalid_type_leaves_all_cards_unchanged(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure("{L40S-24Q: ['10de:26b9']}")
    before, first, second = unit.databag, unit.assigned_types(), unit.assigned_types(card=1)
    unit.configure("{L40S-8Q: ['3d:00.0'], L40S-9Q: ['c1:00.0']}")
    assert unit.status.name == "blocked"
    assert unit.databag == before
    assert (unit.assigned_types(), unit.assigned_types(card=1)) == (first, second)


def test_card_whose_functions_fail_does_not_affect_others(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    unit.machine.fail("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0", output="NVRM: failed\n")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.status == testing.BlockedStatus(
        "No virtual functions on 0000:3d:00.0: NVRM: failed; fix this, "
        "then run reboot-install (next try 12:04 UTC)"
    )
    assert {address[:7] for address in unit.device_specs()} == {"0000:c1"}
    unit.machine.repair("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0")
    unit.update_status_after(minutes=4)
    assert unit.status.name == "active"


def test_card_that_disappears_during_preparation_does_not_stop_others(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    write = unit.machine.driver.write

    def write_and_disappear(path, text):
        write(path, text)
        devices = unit.machine.root / "sys/bus/pci/devices"
        if (devices / "0000:c1:00.0").is_symlink():
            recorded.remove_function(unit.machine.root, unit.machine.driver.card("0000:c1:00.0"))

    monkeypatch.setattr(sysfs, "write", write_and_disappear)
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    assert len(unit.assigned_types()) == 6


def test_nova_without_variant_driver_gets_the_other_cards(deploy):
    (t4, *_) = recorded.host("mixed")["functions"]
    (l40s,) = recorded.host("l40s-vendor-vfio")["functions"]
    unit = deploy("l40s-vendor-vfio", functions=[t4, l40s], nova="3:29.2.0-0ubuntu1")
    unit.configure("{T4-8Q: ['10de:1eb8'], L40S-8Q: ['10de:26b9']}")
    assert unit.device_addresses("nvidia-233") == ["0000:3b:00.0"]
    assert unit.status == testing.BlockedStatus(
        "0000:3d:00.0 needs Nova 31, but 29.2.0 is installed; "
        "use a kernel with mdev, such as jammy's 5.15"
    )
    unit.assert_converged()


@pytest.mark.parametrize("address", ["0000:03:00.0", "0000:c1:00.0"])
def test_card_unsupported_by_nova_does_not_affect_mig_mode_of_others(deploy, address):
    (l40s,) = recorded.host("l40s-vendor-vfio")["functions"]
    (a100, _) = recorded.host("a100-80-pair")["functions"]
    functions = [a100, {**l40s, "address": address}]
    unit = deploy("a100-80-pair", functions=functions)
    text = f"{{A100D-1-10C: ['31:00.0'], L40S-8Q: ['{address}']}}"
    unit.configure(text)
    assert len(unit.device_addresses("nvidia-699")) == 7
    unit.start_guest("0000:31:00.4", "nvidia-699", UUIDS[1])
    before = unit.databag
    unit.machine.reboot()
    unit.hook("start")
    assert unit.machine.driver.card(A100D)["mig"]["instances"] == [19] * 7
    assert unit.databag == before
    assert unit.status == testing.BlockedStatus(
        f"{address} needs Nova 31, but 29.2.0 is installed; "
        "use a kernel with mdev, such as jammy's 5.15"
    )
    unit.assert_converged()


def test_boards_with_the_same_pci_id_do_not_share_types(deploy):
    """A2 and A16 differ only in their subsystem ID."""
    (a16, *_) = recorded.host("a16-board")["functions"]
    sriov = {"total": 16, "enabled": 16, "offset": 4, "framework": "vendor-vfio"}
    a2 = {**a16, "address": "0000:d8:00.0", "subsystem": "10de:157e", "types": "A2"}
    unit = deploy("l40s-vendor-vfio", functions=[{**a16, "sriov": sriov}, {**a2, "sriov": sriov}])
    unit.configure("{A16-4Q: ['ce:00.0'], A2-8Q: ['d8:00.0']}")
    unit.change(config={"report-in-placement": True, **unit.state.config})
    unit.hook("config_changed")
    cards = unit.machine.facts.cards
    names = [{vgpu_type.name.split("-")[0] for vgpu_type in card.types} for card in cards]
    assert names == [{"NVIDIA A16"}, {"NVIDIA A2"}]
    unit.configure("{A16-4Q: ['10de:25b6']}")
    assert unit.status == testing.BlockedStatus(
        "0000:d8:00.0 does not offer A16-4Q; run list-vgpu-types and choose another"
    )
