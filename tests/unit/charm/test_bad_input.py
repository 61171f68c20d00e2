# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Input, sysfs and disks that are not as expected: no hook fails."""

from __future__ import annotations

import pytest
from ops import testing

from recorded import UUIDS
from unit import T4_MAPPING


@pytest.mark.parametrize("value", ['{nvidia-35: ["\\UFFFFFFFF"]}', "%YAML 1." + "9" * 5000])
def test_invalid_yaml_is_not_a_hook_error(deploy, value):
    unit = deploy("t4-pair")
    unit.configure(value)
    assert unit.status == testing.BlockedStatus(
        "vgpu-device-mappings: the value: a character that YAML does not allow; "
        "example: {nvidia-35: ['0000:84:00.0']}"
    )


def test_broken_link_affects_one_virtual_function(deploy):
    unit = deploy("a40-mdev")
    link = unit.machine.root / "sys/bus/pci/devices/0000:41:00.0/virtfn7"
    link.unlink()
    link.write_text("")
    unit.configure("{A40-1Q: ['10de:2235']}")
    assert len(unit.device_addresses("nvidia-557")) == 31


def make_unreadable(unit, address, attribute="class"):
    path = unit.machine.root / "sys/bus/pci/devices" / address / attribute
    path.unlink()
    path.mkdir()


def test_unreadable_card_does_not_keep_the_other_from_being_offered(deploy):
    unit = deploy("t4-pair")
    make_unreadable(unit, "0000:d8:00.0")
    unit.configure(T4_MAPPING)
    assert unit.device_addresses("nvidia-233") == ["0000:84:00.0"]
    assert unit.status == testing.BlockedStatus(
        "Cannot read 0000:d8:00.0; see dmesg, then reboot the host"
    )


@pytest.mark.parametrize("address", ["0000:84:00.0", "0000:d8:00.0"])
def test_unreadable_card_of_a_guest_keeps_published_data(deploy, address):
    unit = deploy("t4-pair")
    unit.configure(T4_MAPPING)
    unit.start_guest(address, "nvidia-233", UUIDS[0])
    before = unit.databag
    make_unreadable(unit, address)
    unit.hook("config_changed")
    assert unit.databag == before


def test_card_without_readable_types_is_not_a_hook_error(deploy):
    unit = deploy("t4-pair")
    folder = unit.machine.root / "sys/bus/pci/devices/0000:d8:00.0/mdev_supported_types"
    folder.rename(folder.with_name("gone"))
    folder.mkdir()
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.configure(T4_MAPPING)
    assert unit.status == testing.WaitingStatus(
        "Waiting for 0000:d8:00.0 to report type T4-8Q; see journalctl -u nvidia-vgpud"
    )


def test_full_disk_is_not_a_hook_error(deploy):
    unit = deploy("t4-pair")
    folder = unit.machine.root / "var/lib/nova-compute-nvidia-vgpu"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("not a folder")
    unit.configure(T4_MAPPING)
    assert unit.status.message.startswith("Cannot write ")
    assert unit.status.message.endswith("; fix this, then run reboot-install")
    assert "mdev_nvidia-233" in unit.sections
