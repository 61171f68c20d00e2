# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Preparation of the cards, by a hook or by the boot service."""

from __future__ import annotations

from ops import testing

import recorded
from recorded import UUIDS
from unit import T4_MAPPING, ready


def test_virtual_functions_are_enabled_on_mapped_cards(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert len(unit.device_addresses("nvidia-562")) == 6
    history = [status.message for status in unit.context.unit_status_history]
    assert "Preparing the cards; this may take a few minutes" in history


def test_virtual_functions_are_enabled_at_boot_without_a_hook(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.configure("{A40-8Q: ['10de:2235']}")
    before = unit.databag
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_unmapped_cards_get_no_virtual_functions(deploy):
    unit = deploy(recorded.without_functions("mixed"))
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    assert unit.machine.did("/usr/lib/nvidia/sriov-manage") == []


def test_failure_to_enable_virtual_functions_is_shown_and_keeps_published_data(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.configure("{A40-8Q: ['10de:2235']}")
    before = unit.databag
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    unit.machine.reboot()
    for hook in ("start", "update_status", "config_changed"):
        unit.hook(hook)
        assert unit.status == testing.BlockedStatus(
            "No virtual functions on 0000:41:00.0: Cannot obtain unbindLock; fix this, "
            "then run reboot-install (next try 12:04 UTC)"
        )
        assert unit.databag == before
    unit.machine.repair("/usr/lib/nvidia/sriov-manage")
    unit.update_status_after(minutes=4)
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_functions_lost_at_boot_keep_their_mapping_published(deploy):
    unit = deploy("a40-mdev")
    unit.configure("{nvidia-558: ['0000:41:00.4', '0000:41:00.5']}")
    before = unit.databag
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before
    unit.machine.repair("/usr/lib/nvidia/sriov-manage")
    unit.update_status_after(minutes=4)
    assert unit.databag == before
    assert unit.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_failure_to_enable_the_boot_service_is_shown(deploy):
    unit = deploy(recorded.without_functions("a40-mdev"))
    unit.machine.fail("systemctl enable")
    unit.configure("{A40-8Q: ['10de:2235']}")
    assert unit.status == testing.BlockedStatus(
        "Boot service failed: systemctl enable failed; fix this, then run reboot-install"
    )


def test_card_without_a_driver_is_bound_again(deploy):
    data = recorded.without_functions("a40-mdev")
    unit = deploy({**data, "functions": [{**card, "driver": None} for card in data["functions"]]})
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="x\n")
    unit.configure("{nvidia-562: ['0000:41:00.0']}")
    assert unit.machine.driver.card("0000:41:00.0")["driver"] == "nvidia"


def test_card_without_types_is_registered_again(deploy):
    """nvidia-vgpud may have run before the card was there."""
    unit = deploy("t4-pair")
    folder = unit.machine.root / "sys/bus/pci/devices/0000:d8:00.0/mdev_supported_types"
    folder.rename(folder.with_name("gone"))
    folder.mkdir()
    unit.configure(T4_MAPPING)
    assert unit.machine.did("systemctl restart nvidia-vgpud")
    assert unit.status == ready("2 NVIDIA GPUs, 1 vGPU type")


def test_lost_mediated_device_of_a_guest_is_shown(deploy):
    unit = deploy("t4-pair")
    unit.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    guest = unit.machine.define_guest(UUIDS[0])
    unit.configure(T4_MAPPING)
    guest.unlink()
    unit.machine.reboot()
    unit.machine.define_guest(UUIDS[0])
    unit.machine.create_mdev("0000:84:00.0", "nvidia-232", UUIDS[1])
    unit.hook("update_status")
    assert unit.status.message.startswith(
        f"Guest vGPU {UUIDS[0]} (nvidia-233) cannot be recreated"
    )
