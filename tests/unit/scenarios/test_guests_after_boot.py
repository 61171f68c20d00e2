# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Guests that are defined, running or not, keep their vGPUs after a boot or a change."""

from __future__ import annotations

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import ready

A100D = "0000:31:00.0"


def test_functions_of_defined_guests_keep_their_type_if_another_is_requested(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:00.5")
    unit.configure("{L40S-24Q: ['10de:26b9']}")
    waiting = testing.WaitingStatus(
        "Guests on 0000:3d:00.0 use nvidia-1152 (L40S-8Q); delete or migrate them, "
        "or map the type to the card again"
    )
    assert unit.status == waiting
    assert len(unit.device_specs()) == 6
    unit.machine.reboot()
    unit.hook("start")
    assert unit.assigned_types()["0000:3d:00.5"] == "nvidia-1152"
    assert (unit.status, len(unit.device_specs())) == (waiting, 6)
    unit.assert_converged()

    unit.machine.define_guest()
    unit.hook("update_status")
    assert set(unit.assigned_types().values()) == {"nvidia-1155"}
    assert len(unit.device_specs()) == 2


def test_functions_of_defined_guests_are_restored_after_the_option_is_unset(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:00.5")
    unit.configure("")
    assert unit.sections == {}
    unit.machine.reboot()
    unit.hook("start")
    assert unit.assigned_types() == {"0000:3d:00.5": "nvidia-1152"}
    assert unit.status == ready(
        "1 NVIDIA GPU, vgpu-device-mappings is not set; "
        "guests keep nvidia-1152 (L40S-8Q) on 0000:3d:00.0"
    )
    unit.assert_converged()

    unit.machine.define_guest()
    unit.machine.reboot()
    unit.hook("start")
    assert unit.assigned_types() == {}


def test_typing_error_in_a_pci_id_does_not_withdraw_what_guests_have(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:00.5")
    before = unit.databag
    unit.configure("{L40S-8Q: ['10de:26b8']}")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before
    assert unit.status == testing.WaitingStatus(
        "Guests on 0000:3d:00.0 use nvidia-1152 (L40S-8Q); delete or migrate them, "
        "or map the type to the card again"
    )
    unit.machine.define_guest()
    unit.hook("update_status")
    assert unit.status == ready("1 NVIDIA GPU, none selected by vgpu-device-mappings")
    assert unit.sections == {}
    unit.assert_converged()


@pytest.mark.parametrize("mapping", ["{T4-8Q: ['10de:1eb9']}", "{T4-8Q: ['d8:00.0']}"])
def test_mapping_does_not_withdraw_what_guests_have_on_a_card_of_another_driver(deploy, mapping):
    unit = deploy("t4-pair")
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    before = unit.databag
    unit.machine.driver.bind("0000:84:00.0", "vfio-pci")
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.configure(mapping)
    assert unit.databag == before


def test_typing_error_does_not_withdraw_what_guests_have_if_the_state_is_lost(deploy):
    unit = deploy("t4-pair")
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    before = unit.sections
    for path in (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu").glob("state*.json"):
        path.unlink()
    unit.configure("{T4-8Q: ['10de:1eb9']}")
    assert unit.sections == before


def test_mediated_device_of_another_kind_does_not_keep_a_mapping_from_being_applied(deploy):
    """Such as the sample driver mtty, which has no PCI device."""
    unit = deploy("t4-pair")
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    device = unit.machine.root / "sys/devices/virtual/mtty/mtty" / UUIDS[0]
    device.mkdir(parents=True)
    link = unit.machine.root / "sys/bus/mdev/devices" / UUIDS[0]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(device)
    unit.configure("{T4-4Q: ['10de:1eb8']}")
    assert "mdev_nvidia-232" in unit.sections


def test_mediated_devices_that_nova_was_never_offered_do_not_concern_the_charm(deploy):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert unit.status == ready("2 NVIDIA GPUs, none selected by vgpu-device-mappings")
    assert unit.sections == {}


def test_function_whose_type_cannot_be_restored_is_shown(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:00.5")
    unit.configure("")
    unit.machine.driver.refused.add(1152)
    unit.machine.reboot()
    unit.hook("start")
    assert unit.status == testing.BlockedStatus(
        "No nvidia-1152 on 0000:3d:00.5: not restored after the boot; "
        "fix this, then run reboot-install (next try 12:04 UTC)"
    )
    unit.machine.driver.refused.clear()
    unit.update_status_after(minutes=4)
    assert unit.assigned_types() == {"0000:3d:00.5": "nvidia-1152"}
    assert unit.status.name == "active"


def test_mediated_devices_of_defined_guests_are_restored_on_unmapped_cards(deploy):
    unit = deploy("a40-mdev", nova="3:25.2.1-0ubuntu2.9")
    unit.configure("{A40-8Q: ['10de:2235']}")
    type_id = unit.machine.facts.cards[0].find_type("A40-8Q").id
    unit.machine.create_mdev("0000:41:00.4", type_id, UUIDS[1])
    unit.machine.define_guest(UUIDS[1])
    unit.configure("")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.machine.facts.cards[0].in_use == (UUIDS[1],)
    assert unit.sections == {}
    unit.assert_converged()


@pytest.mark.parametrize("others", [(), (9,)])
def test_only_gpu_instances_of_defined_guests_are_restored_on_unmapped_cards(deploy, others):
    """Other GPU instances may belong to somebody else, and stay as they are."""
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    parent = unit.device_addresses("nvidia-699")[0]
    unit.start_guest(parent, "nvidia-699", UUIDS[1])
    unit.configure("")
    unit.machine.reboot(starts=False)
    driver = unit.machine.driver
    driver.sriov_manage("-e", A100D)
    for profile in others:
        driver.nvidia_smi("mig", "-i", A100D, "-cgi", str(profile), "-C")
    unit.machine.commands.clear()
    unit.hook("start")
    assert not unit.machine.did("nvidia-smi -mig")
    assert sorted(driver.card(A100D)["mig"]["instances"]) == sorted((19, *others))
    assert unit.machine.facts.cards[0].in_use == (UUIDS[1],)
    assert unit.status == ready(
        "2 NVIDIA GPUs, vgpu-device-mappings is not set; "
        "guests keep nvidia-699 (A100D-1-10C) on 0000:31:00.0"
    )
    unit.assert_converged()


@pytest.mark.parametrize("text", ["{A100D-1-10C: ['31:00.4']}", ""])
def test_gpu_instances_of_guests_are_restored_whatever_is_requested(deploy, text):
    unit = deploy("a100-80-pair", nova="3:25.2.1-0ubuntu2.9")
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    for uuid, parent in zip(UUIDS, unit.device_addresses("nvidia-699")[1:4]):
        unit.start_guest(parent, "nvidia-699", uuid)
    unit.configure(text)
    for _ in range(2):
        unit.machine.reboot()
        unit.hook("start")
        assert len(unit.machine.facts.cards[0].in_use) == 3
        assert unit.status.name == "active"
        unit.assert_converged()


def test_gpu_instances_of_defined_guests_are_restored_beyond_a_lower_limit(deploy):
    unit = deploy("rtx-pro-6000")
    unit.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 4}}")
    guests = list(unit.assigned_types())[:3]
    unit.machine.define_guest(*guests)
    unit.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 1}}")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.assigned_types() == dict.fromkeys(guests, "nvidia-1561")
    assert (unit.status.name, unit.device_specs()) == ("active", guests)
    unit.assert_converged()


def test_gpu_instances_are_added_beside_those_of_guests(deploy):
    unit = deploy("rtx-pro-6000")
    unit.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 2}}")
    unit.machine.define_guest(*unit.assigned_types())
    unit.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 4}}")
    assert len(unit.device_specs()) == 4
    assert not unit.machine.did("-dgi")
    unit.assert_converged()


@pytest.mark.parametrize(
    ("host", "text", "narrower"),
    [
        ("l40s-vendor-vfio", "{L40S-8Q: ['3d:00.0']}", "{L40S-8Q: ['3d:00.4']}"),
        ("l40s-vendor-vfio", "{L40S-8Q: ['3d:00.0']}", "{L40S-8Q: ['3d:01.0']}"),
    ],
)
def test_function_of_a_guest_stays_published_if_no_longer_mapped(deploy, host, text, narrower):
    unit = deploy(host)
    unit.configure(text)
    unit.machine.define_guest("0000:3d:00.5")
    unit.configure(narrower)
    mapped = f"0000:{narrower[12:19]}"
    assert unit.device_specs() == sorted(["0000:3d:00.5", mapped])
    assert set(unit.assigned_types()) == {"0000:3d:00.5", mapped}
    unit.assert_converged()
    unit.machine.define_guest()
    unit.hook("update_status")
    assert unit.device_specs() == [mapped]


def test_parent_of_a_guest_device_stays_published_if_no_longer_mapped(deploy):
    unit = deploy("a40-mdev")
    unit.configure("{A40-2Q: ['10de:2235']}")
    unit.start_guest("0000:41:00.4", "nvidia-558", UUIDS[1])
    unit.configure("{A40-2Q: ['41:00.5']}")
    assert unit.device_addresses("nvidia-558") == ["0000:41:00.4", "0000:41:00.5"]


def test_functions_of_defined_guests_are_restored_beyond_a_lower_limit(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    unit.machine.define_guest("0000:3d:00.4", "0000:3d:00.6")
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    unit.machine.reboot()
    unit.hook("start")
    assert sorted(unit.assigned_types()) == ["0000:3d:00.4", "0000:3d:00.6"]
    assert sorted(unit.device_specs()) == ["0000:3d:00.4", "0000:3d:00.6"]
    unit.assert_converged()


def test_lower_limit_leaves_room_for_devices_of_defined_guests(deploy):
    """With fewer GPU instances or addresses than guests, some guests would lose their device."""
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-1-10C: {devices: ['31:00.0'], max-instances: 7}}")
    uuids = UUIDS[:5]
    for uuid, parent in zip(uuids, unit.device_addresses("nvidia-699")):
        unit.machine.create_mdev(parent, "nvidia-699", uuid)
    unit.machine.define_guest(*uuids)
    unit.configure("{A100D-1-10C: {devices: ['31:00.0'], max-instances: 3}}")
    unit.machine.reboot()
    unit.hook("start")
    assert len(unit.machine.facts.cards[0].in_use) == 5
    assert len(unit.device_addresses("nvidia-699")) == 5
    assert dict(unit.sections["mdev_nvidia-699"])["max_instances"] == "5"


def test_card_whose_functions_failed_at_boot_is_kept_for_its_guests(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['31:00.0']}")
    unit.start_guest("0000:31:00.4", "nvidia-696", UUIDS[1])
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    unit.machine.reboot()
    unit.machine.repair("/usr/lib/nvidia/sriov-manage")
    unit.configure("{A100D-1-10C: ['31:00.0']}")
    assert unit.machine.driver.card(A100D)["mig"].get("enabled", False) is False
    assert unit.machine.facts.cards[0].in_use == (UUIDS[1],)


def test_functions_of_defined_guests_stay_published_if_not_enabled(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:00.5")
    before = unit.databag
    unit.machine.fail("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0", output="NVRM: failed\n")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before


def test_guest_started_while_another_card_is_partitioned_is_noticed(deploy):
    unit = deploy("a100-80-pair")
    sriov_manage = unit.machine.driver.sriov_manage

    def start_a_guest(verb, address):
        if address == A100D and verb == "-d":
            unit.machine.create_mdev("0000:b1:00.4", "nvidia-696", UUIDS[1])
        return sriov_manage(verb, address)

    unit.machine.driver.sriov_manage = start_a_guest
    unit.configure("{A100D-1-10C: ['10de:20b5']}")
    assert unit.machine.facts.cards[1].in_use == (UUIDS[1],)


def test_guest_in_another_pci_domain_keeps_its_function(deploy):
    unit = deploy("rtx-pro-6000")
    unit.configure("{DC-48Q: ['10de:2bb5']}")
    unit.machine.define_guest("0001:c8:00.3")
    unit.configure("{DC-8Q: ['10de:2bb5']}")
    assert unit.machine.facts.in_use == ("0001:c8:00.3",)
    assert unit.assigned_types()["0001:c8:00.3"] == "nvidia-1540"


def test_type_assigned_by_somebody_else_is_kept(deploy):
    unit = deploy("l40s-vendor-vfio")
    path = unit.machine.root / "sys/bus/pci/devices/0000:3d:00.6/nvidia/current_vgpu_type"
    unit.machine.driver.write(path, "1152")
    unit.configure("{L40S-8A: ['10de:26b9']}")
    assert unit.assigned_types() == {"0000:3d:00.6": "nvidia-1152"}
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    assert unit.machine.facts.cards[0].in_use == ("0000:3d:00.6",)


def test_idle_types_of_an_unmapped_card_are_not_in_use(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.configure("{L40S-24Q: ['3d:00.0']}")
    assert unit.machine.facts.in_use == ()


def test_limit_counts_functions_of_guests_first(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    unit.machine.define_guest("0000:3d:01.1")
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 2}}")
    assert unit.device_specs() == ["0000:3d:00.4", "0000:3d:01.1"]
    unit.assert_converged()


def test_limit_counts_guests_on_later_cards(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure("{L40S-8Q: {devices: ['c1:00.0'], max-instances: 2}}")
    unit.machine.define_guest(*unit.assigned_types(card=1))
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    assert (len(unit.assigned_types()), len(unit.assigned_types(card=1))) == (4, 2)
    assert len(unit.device_specs()) == 6
    unit.assert_converged()
