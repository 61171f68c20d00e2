# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A refresh from the legacy charm, or from another revision of this charm."""

from __future__ import annotations

import json

import pytest
from bed import principal

MAPPING = "{T4-8Q: ['10de:1eb8']}"
READY = ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")
STATE_FILE = "var/lib/nova-compute-nvidia-vgpu/state.json"
LEGACY_FILES = {
    "opt/initialise_nova_mdevs.sh": "#!/bin/sh\n",
    "opt/remediate-nova-mdevs/remediate.py": "#!/usr/bin/env python3\n",
    "etc/systemd/system/systemd-mdev-workaround.service": (
        "[Service]\nType=oneshot\nExecStart=/opt/initialise_nova_mdevs.sh\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    "etc/modprobe.d/disable-nouveau.conf": "blacklist nouveau\noptions nouveau modeset=0\n",
}


@pytest.fixture
def legacy_host(ready_host):
    """A host that the legacy charm has prepared; nova.conf contains what that charm published."""
    host, unit = ready_host
    host.run("rm", "-r", f"/{STATE_FILE}", "/etc/modprobe.d/nova-compute-nvidia-vgpu.conf")
    for name, text in LEGACY_FILES.items():
        (host.root / name).parent.mkdir(exist_ok=True)
        (host.root / name).write_text(text)
        (host.root / name).chmod(0o755)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "systemd-mdev-workaround")
    return host, unit


def test_the_legacy_charms_files_are_removed_and_nouveau_stays_blacklisted(legacy_host, fault):
    host, unit = legacy_host
    row = fault("The legacy charm left its service, its scripts and its blacklist of nouveau")
    unit.configure(vgpu_device_mappings=MAPPING)
    unit.hook("upgrade-charm")
    assert [name for name in LEGACY_FILES if (host.root / name).exists()] == []
    workaround = host.run("systemctl", "cat", "systemd-mdev-workaround", check=False)
    assert workaround.returncode == 1
    assert "blacklist nouveau" in host.run("modprobe", "-c").stdout
    assert unit.status == READY
    row.record(unit)
    host.reboot()
    unit.hook("start")
    row.record_end(unit, "the host is rebooted")


def test_the_legacy_charms_data_is_kept_until_the_option_is_valid(legacy_host, fault):
    _, unit = legacy_host
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    unit.configure(vgpu_device_mappings="{T4-99Q: ['10de:1eb8']}")
    unit.hook("upgrade-charm")
    assert unit.databag == before
    row = fault("The legacy charm's option has an invalid value; the published data is kept")
    row.record(unit)
    unit.configure(vgpu_device_mappings=MAPPING)
    assert unit.databag == before
    row.record_end(unit, "the option is corrected")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is of a later revision", None),
        ("is damaged", '{"paused": tru'),
        ("is missing", ""),
    ],
)
def test_an_unusable_state_file_changes_nothing(ready_host, fault, name, text):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    path = host.root / STATE_FILE
    if text is None:
        state = {
            **json.loads(path.read_text()),
            "an_unknown_entry": ["x"],
            "installation": {"problem": ["unknown"]},
        }
        path.write_text(json.dumps(state))
    elif text:
        path.write_text(text)
    else:
        path.unlink()
    assert unit.hook("upgrade-charm").returncode == 0
    assert unit.databag == before
    assert unit.status == READY
    assert json.loads(path.read_text())["mapping"]["requested"] == MAPPING
    fault(f"The charm's state file {name}").record(unit)


def test_a_boot_service_of_another_revision_is_replaced(ready_host, fault):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    path = host.root / "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service"
    content = path.read_text()
    path.write_text(content.replace("[Service]", "[Service]\nExecStartPre=/bin/false"))
    host.run("systemctl", "daemon-reload")
    unit.hook("upgrade-charm")
    assert path.read_text() == content
    show = ["systemctl", "show", "-P", "NeedDaemonReload", "nova-compute-nvidia-vgpu"]
    assert host.run(*show).stdout == "no\n"
    host.reboot()
    unit.hook("start")
    assert principal.read(unit.databag)[0]["devices"] == [["enabled_mdev_types", "nvidia-233"]]
    fault("The boot service is of another revision").record(unit)
