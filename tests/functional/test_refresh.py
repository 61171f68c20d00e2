# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What another charm of this name, or another revision of ours, left on the host."""

from __future__ import annotations

import json

import pytest
from bed import principal

MAPPING = "{T4-8Q: ['10de:1eb8']}"
READY = ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")
MEMORY = "var/lib/nova-compute-nvidia-vgpu/memory.json"
THEIRS = {
    "opt/initialise_nova_mdevs.sh": "#!/bin/sh\n",
    "opt/remediate-nova-mdevs/remediate.py": "#!/usr/bin/env python3\n",
    "etc/systemd/system/systemd-mdev-workaround.service": (
        "[Service]\nType=oneshot\nExecStart=/opt/initialise_nova_mdevs.sh\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    "etc/modprobe.d/disable-nouveau.conf": "blacklist nouveau\noptions nouveau modeset=0\n",
}


@pytest.fixture
def left(ready_host):
    """A host on which the charm in use before was at work; nova.conf has what it published."""
    host, unit = ready_host
    host.run("rm", "-r", f"/{MEMORY}", "/etc/modprobe.d/nova-compute-nvidia-vgpu.conf")
    for name, text in THEIRS.items():
        (host.root / name).parent.mkdir(exist_ok=True)
        (host.root / name).write_text(text)
        (host.root / name).chmod(0o755)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "systemd-mdev-workaround")
    return host, unit


def test_the_charm_in_use_before_makes_way_and_nouveau_stays_away(left, fault):
    host, unit = left
    row = fault("The charm in use before left its service, its scripts and its file on nouveau")
    unit.configure(vgpu_device_mappings=MAPPING)
    unit.hook("upgrade-charm")
    assert [name for name in THEIRS if (host.root / name).exists()] == []
    workaround = host.run("systemctl", "cat", "systemd-mdev-workaround", check=False)
    assert workaround.returncode == 1
    assert "blacklist nouveau" in host.run("modprobe", "-c").stdout
    assert unit.status == READY
    row.seen(unit)
    host.reboot()
    unit.hook("start")
    row.over(unit, "the host is rebooted")


def test_what_it_published_stays_until_ours_is_good(left, fault):
    _, unit = left
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    unit.configure(vgpu_device_mappings="{T4-99Q: ['10de:1eb8']}")
    unit.hook("upgrade-charm")
    assert unit.databag == before
    row = fault("Its option has a value that we refuse; what was published stays")
    row.seen(unit)
    unit.configure(vgpu_device_mappings=MAPPING)
    assert unit.databag == before
    row.over(unit, "the option is mended")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("is of a later revision", None),
        ("is damaged", '{"paused": tru'),
        ("is gone", ""),
    ],
)
def test_a_memory_that_is_not_ours_costs_nothing(ready_host, fault, name, text):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    path = host.root / MEMORY
    if text is None:
        memory = {
            **json.loads(path.read_text()),
            "an_option_to_come": ["x"],
            "failure": ["unheard"],
        }
        path.write_text(json.dumps(memory))
    elif text:
        path.write_text(text)
    else:
        path.unlink()
    assert unit.hook("upgrade-charm").returncode == 0
    assert unit.databag == before
    assert unit.status == READY
    assert json.loads(path.read_text())["wish"] == MAPPING
    fault(f"What a revision of ours remembers {name}").seen(unit)


def test_a_boot_service_of_another_revision_is_replaced(ready_host, fault):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    path = host.root / "etc/systemd/system/nova-compute-nvidia-vgpu.service"
    ours = path.read_text()
    path.write_text(ours.replace("[Service]", "[Service]\nExecStartPre=/bin/false"))
    host.run("systemctl", "daemon-reload")
    unit.hook("upgrade-charm")
    assert path.read_text() == ours
    show = ["systemctl", "show", "-P", "NeedDaemonReload", "nova-compute-nvidia-vgpu"]
    assert host.run(*show).stdout == "no\n"
    host.reboot()
    unit.hook("start")
    assert principal.read(unit.databag)[0]["devices"] == [["enabled_mdev_types", "nvidia-233"]]
    fault("The boot service is that of another revision").seen(unit)
