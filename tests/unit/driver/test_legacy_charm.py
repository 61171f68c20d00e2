# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A refresh from the legacy charm of this name: its files, pause and published data."""

from __future__ import annotations

import dataclasses
import json

import pytest
from ops import testing

from recorded import UUIDS
from unit import PAUSED

NOUVEAU = "blacklist nouveau\noptions nouveau modeset=0\n"
BLACKLIST = "etc/modprobe.d/nova-compute-nvidia-vgpu.conf"
LEGACY_BLACKLIST = "etc/modprobe.d/disable-nouveau.conf"
LEGACY_FILES = (
    "opt/initialise_nova_mdevs.sh",
    "opt/remediate-nova-mdevs",
    "etc/systemd/system/systemd-mdev-workaround.service",
)
UNSET = "Unit is ready: 2 NVIDIA GPUs, vgpu-device-mappings is not set"


@pytest.fixture
def refreshed(deploy):
    """A host that the legacy charm configured."""
    unit = deploy("t4-pair")
    for name in (*LEGACY_FILES, LEGACY_BLACKLIST):
        path = unit.machine.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOUVEAU if name == LEGACY_BLACKLIST else "#!/bin/sh\n")
    return unit


def has(unit, name):
    return (unit.machine.root / name).exists()


@pytest.mark.parametrize("hook", ["upgrade_charm", "install"])
def test_legacy_boot_service_and_scripts_are_replaced(refreshed, hook):
    refreshed.hook(hook)
    assert [name for name in LEGACY_FILES if has(refreshed, name)] == []
    assert refreshed.machine.did("systemctl disable systemd-mdev-workaround.service")
    assert has(refreshed, "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service")


def test_nouveau_stays_blacklisted(refreshed):
    refreshed.hook("upgrade_charm")
    assert not has(refreshed, LEGACY_BLACKLIST)
    assert NOUVEAU in (refreshed.machine.root / BLACKLIST).read_text()
    assert refreshed.machine.did("update-initramfs") == []


def test_changed_blacklist_file_is_kept(refreshed):
    (refreshed.machine.root / LEGACY_BLACKLIST).write_text(NOUVEAU + "options nvidia NVreg_X=1\n")
    refreshed.hook("upgrade_charm")
    assert has(refreshed, LEGACY_BLACKLIST)
    assert not has(refreshed, BLACKLIST)


def test_legacy_blacklist_file_is_kept_if_the_new_one_cannot_be_written(refreshed):
    (refreshed.machine.root / BLACKLIST).mkdir()
    refreshed.hook("upgrade_charm")
    assert has(refreshed, LEGACY_BLACKLIST)


def test_legacy_scripts_in_a_folder_are_removed(refreshed):
    (refreshed.machine.root / LEGACY_FILES[1]).unlink()
    (refreshed.machine.root / LEGACY_FILES[1]).mkdir()
    (refreshed.machine.root / LEGACY_FILES[1] / "remediate.py").touch()
    refreshed.hook("upgrade_charm")
    assert not has(refreshed, LEGACY_FILES[1])


def test_failing_systemctl_does_not_prevent_the_refresh(refreshed):
    refreshed.machine.fail("systemctl disable", returncode=None)
    refreshed.hook("upgrade_charm")
    assert [name for name in LEGACY_FILES if has(refreshed, name)] == []


def stored(content):
    return testing.StoredState(
        name="_stored", owner_path="NovaComputeNvidiaVgpuCharm", content=content
    )


@pytest.mark.parametrize(
    ("is_paused", "status"),
    [(True, PAUSED), (False, testing.ActiveStatus(UNSET))],
)
def test_legacy_pause_is_kept(refreshed, is_paused, status):
    content = {"is_started": True, "is_paused": is_paused, "series_upgrade": False}
    refreshed.change(stored_states={stored(content)})
    if is_paused:
        refreshed.machine("systemctl", "mask", "nvidia-vgpu-mgr")
    refreshed.hook("upgrade_charm")
    assert refreshed.status == status


def test_legacy_pause_does_not_return_after_resume(refreshed):
    refreshed.change(stored_states={stored({"is_paused": True})})
    refreshed.hook("upgrade_charm")
    refreshed.action("resume")
    refreshed.hook("upgrade_charm")
    assert refreshed.status.name == "active"


def test_legacy_data_stays_published_until_a_mapping_is_valid(refreshed):
    legacy_data = {
        "nova": {
            "/etc/nova/nova.conf": {
                "sections": {
                    "devices": [["enabled_mdev_types", "nvidia-233"]],
                    "mdev_nvidia-233": [["device_addresses", "0000:84:00.0"]],
                }
            }
        }
    }
    data = {
        "subordinate_configuration": json.dumps(legacy_data),
        "services": '["nvidia-vgpu-mgr"]',
    }
    relation = dataclasses.replace(refreshed.relation, local_unit_data=data)
    refreshed.change(relations={relation})
    refreshed.change(config={"vgpu-device-mappings": "{nvidia-233: 'no list'}"})
    refreshed.hook("upgrade_charm")
    assert refreshed.status.name == "blocked"
    assert refreshed.sections == legacy_data["nova"]["/etc/nova/nova.conf"]["sections"]
    refreshed.configure("{nvidia-233: ['0000:84:00.0']}")
    assert refreshed.sections == legacy_data["nova"]["/etc/nova/nova.conf"]["sections"]
    assert refreshed.status.name == "active"


def test_mediated_devices_of_guests_are_recorded(refreshed):
    refreshed.machine.create_mdev("0000:84:00.0", "nvidia-233", UUIDS[0])
    refreshed.machine.define_guest(UUIDS[0])
    refreshed.change(config={"vgpu-device-mappings": "{nvidia-233: ['0000:84:00.0']}"})
    refreshed.hook("upgrade_charm")
    refreshed.machine.reboot()
    assert (refreshed.machine.root / "sys/bus/mdev/devices" / UUIDS[0]).exists()
