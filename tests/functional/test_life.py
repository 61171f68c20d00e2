# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of a unit on a booted host, from an unprepared card to what Nova reads."""

from __future__ import annotations

import json
import subprocess

import pytest
from bed import packages, principal

import recorded

MAPPING = "{T4-8Q: ['10de:1eb8']}"
NEEDS_REBOOT = (
    "blocked",
    ("Reboot needed: nouveau is bound to 0000:84:00.0; run reboot-install i-really-mean-it=true"),
)
UUID = "6f6d5a5e-1111-4000-8000-000000000001"


def test_from_an_unprepared_card_to_the_nova_conf_that_nova_reads(boot, nvidia_deb):
    with boot("t4-fresh") as (host, unit):
        unit.store(nvidia_deb)

        for hook in ("install", "config-changed", "start"):
            assert unit.hook(hook).returncode == 0
        assert unit.status == NEEDS_REBOOT

        host.reboot()
        unit.hook("start")
        unit.integrate()
        assert unit.status == (
            "active",
            "Unit is ready: 2 NVIDIA GPUs, vgpu-device-mappings is not set",
        )
        assert unit.workload_version == "570.172.07"

        unit.configure(vgpu_device_mappings=MAPPING)
        assert unit.status == ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")
        sections, services = principal.read(unit.databag)
        assert principal.nova_reads(principal.render(sections), 24) == {
            "devices": {"enabled_mdev_types": ["nvidia-233"]},
            "mdev_nvidia-233": {
                "device_addresses": ["0000:84:00.0", "0000:d8:00.0"],
                "mdev_class": "VGPU",
            },
        }
        assert services == {"nvidia-vgpu-mgr"}
        assert principal.read_packages(unit.databag, "yoga") == ({"nvidia-vgpu-ubuntu-570"}, set())


def test_packages_for_the_kernel_are_installed_from_the_archive(ready_host):
    host, _ = ready_host
    kernel = host.run("uname", "-r").stdout.strip()
    for name in (f"linux-headers-{kernel}", f"linux-modules-extra-{kernel}", "dkms"):
        assert "install ok installed" in host.run("dpkg-query", "-s", name).stdout


def test_nouveau_is_blacklisted_in_the_initramfs_too(ready_host):
    host, _ = ready_host
    kernel = host.run("uname", "-r").stdout.strip()
    files = host.run("lsinitramfs", f"/boot/initrd.img-{kernel}").stdout
    assert "etc/modprobe.d/nova-compute-nvidia-vgpu.conf" in files
    assert "blacklist nouveau" in host.run("modprobe", "-c").stdout


def test_nothing_is_installed_twice(ready_host, nvidia_deb):
    host, unit = ready_host
    before = host.text("var/log/dpkg.log")
    for hook in ("config-changed", "start", "update-status", "upgrade-charm"):
        unit.hook(hook)
    unit.attach(nvidia_deb)
    assert host.text("var/log/dpkg.log") == before


def test_on_a_host_without_a_card_only_the_mapping_is_published(boot, nvidia_deb):
    with boot("no-gpu") as (host, unit):
        unit.store(nvidia_deb)
        for hook in ("install", "config-changed", "start"):
            unit.hook(hook)
        unit.integrate()
        unit.configure(vgpu_device_mappings="{nvidia-35: ['0000:84:00.0', '0000:85:00.0']}")

        assert unit.status == ("active", "Unit is ready: no supported NVIDIA GPU found")
        assert host.run("dpkg-query", "-s", "nvidia-vgpu-ubuntu-570", check=False).returncode == 1
        sections, services = principal.read(unit.databag)
        assert sections == {
            "devices": [["enabled_mdev_types", "nvidia-35"]],
            "mdev_nvidia-35": [["device_addresses", "0000:84:00.0,0000:85:00.0"]],
        }
        assert services == set()


def test_force_install_installs_the_package_without_a_card(boot, nvidia_deb):
    with boot("no-gpu", **{"force-install-nvidia-vgpu": True}) as (host, unit):
        unit.store(nvidia_deb)
        unit.hook("install")
        assert "install ok" in host.run("dpkg-query", "-s", "nvidia-vgpu-ubuntu-570").stdout


def test_a_restart_trigger_does_not_change_the_published_data(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    for number in range(3):
        outcome = unit.trigger(f"uuid-{number}")
        assert "relation-set -r" not in outcome.calls
    assert unit.databag == before


def test_a_restart_trigger_restarts_the_daemon_once(ready_host):
    host, unit = ready_host
    first = _main_pid(host)
    unit.trigger("a")
    second = _main_pid(host)
    unit.hook("nova-vgpu-relation-changed")
    assert first != second
    assert _main_pid(host) == second


def test_a_restart_trigger_waits_for_the_guests(ready_host):
    host, unit = ready_host
    before = _main_pid(host)
    host.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    unit.trigger("a")
    assert _main_pid(host) == before
    assert unit.status[1].endswith("; restart of nvidia-vgpu-mgr waits until no vGPU is in use")

    host.remove_mdev(UUID)
    unit.hook("update-status")
    assert _main_pid(host) != before
    assert "waits" not in unit.status[1]


def test_unsetting_the_option_withdraws_all_sections(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    unit.configure(vgpu_device_mappings=None)
    assert principal.read(unit.databag)[0] == {}


def test_the_published_release_follows_an_openstack_upgrade(ready_host):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    host.install_nova("3:29.2.0-0ubuntu1~cloud0")
    unit.trigger("after-the-upgrade")
    assert list(json.loads(unit.databag["releases-packages-map"])) == ["caracal"]
    unit.configure(vgpu_device_mappings="{T4-8Q: {devices: ['10de:1eb8'], max-instances: 4}}")
    reads = principal.nova_reads(principal.render(principal.read(unit.databag)[0]), 29)
    assert reads["mdev_nvidia-233"]["max_instances"] == 4


def test_pause_stops_and_masks_the_daemon_and_survives_a_reboot(ready_host):
    host, unit = ready_host
    assert unit.action("pause").failed is None
    assert unit.status == ("maintenance", "Paused. Use 'resume' action to resume normal service.")
    assert json.loads(unit.databag["services"]) == []
    assert host.run("systemctl", "is-enabled", "nvidia-vgpu-mgr", check=False).stdout == "masked\n"

    host.reboot()
    for hook in ("start", "config-changed", "update-status"):
        unit.hook(hook)
    unit.trigger("while-paused")
    assert host.run("systemctl", "is-active", "nvidia-vgpu-mgr", check=False).returncode != 0
    assert unit.status[0] == "maintenance"

    assert unit.action("resume").failed is None
    assert unit.status[0] == "active"
    assert json.loads(unit.databag["services"]) == ["nvidia-vgpu-mgr"]
    assert host.run("systemctl", "is-active", "nvidia-vgpu-mgr").stdout == "active\n"
    assert host.run("systemctl", "is-enabled", "nvidia-vgpu-mgr").stdout == "enabled\n"


def test_pause_is_refused_while_a_guest_uses_a_vgpu(ready_host):
    host, unit = ready_host
    host.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    outcome = unit.action("pause")
    assert outcome.failed == (
        f"vGPU {UUID} is in use; delete or migrate its guest; if it has none, remove the device"
    )
    assert host.run("systemctl", "is-active", "nvidia-vgpu-mgr").stdout == "active\n"


def test_a_pause_by_the_principal_is_recognised_and_not_undone(ready_host):
    host, unit = ready_host
    for verb in ("stop", "disable", "mask"):
        host.run("systemctl", verb, "nvidia-vgpu-mgr")
    for hook in ("update-status", "config-changed", "start"):
        unit.hook(hook)
        assert unit.status == (
            "maintenance",
            "Paused by nova-compute. Use its 'resume' action to resume normal service.",
        )
    assert json.loads(unit.databag["services"]) == ["nvidia-vgpu-mgr"]
    assert unit.action("resume").failed == unit.status[1]
    assert unit.action("reboot-install").failed == unit.status[1]
    assert host.run("systemctl", "is-enabled", "nvidia-vgpu-mgr", check=False).stdout == "masked\n"


def test_reboot_install_reboots_only_if_confirmed_and_needed(boot, nvidia_deb):
    with boot("t4-fresh") as (host, unit):
        unit.hook("install")
        assert unit.status == (
            "blocked",
            (
                "No host software; run juju attach-resource nova-compute-nvidia-vgpu "
                "nvidia-vgpu-software=FILE.deb"
            ),
        )
        unit.store(nvidia_deb)
        outcome = unit.action("reboot-install")
        assert outcome.failed is None
        assert outcome.results["reboot"] == "needed; run again with i-really-mean-it=true"
        assert "reboot" not in host.run("systemctl", "list-timers", "--all").stdout

        outcome = unit.action("reboot-install", i_really_mean_it=True)
        assert outcome.results["reboot"] == "in 30 seconds"
        timers = host.run("systemctl", "list-timers", "--all").stdout
        assert "run-" in timers

        host.reboot()
        outcome = unit.action("reboot-install", i_really_mean_it=True)
        assert outcome.results["reboot"] == "not needed"


def test_reboot_install_is_refused_while_a_guest_uses_a_vgpu(ready_host, tmp_path):
    host, unit = ready_host
    host.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    unit.store(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    outcome = unit.action("reboot-install")
    assert outcome.failed == (
        f"vGPU {UUID} is in use; delete or migrate its guest, remove the device, or use force=true"
    )
    assert host.run("dpkg-query", "-W", "-f", "${Version}", "nvidia-vgpu-ubuntu-570").stdout == (
        "570.172.07"
    )


def test_a_stopped_daemon_is_started_by_update_status(ready_host):
    host, unit = ready_host
    host.run("systemctl", "stop", "nvidia-vgpu-mgr")
    unit.hook("update-status")
    assert host.run("systemctl", "is-active", "nvidia-vgpu-mgr").stdout == "active\n"
    assert unit.status[0] == "active"


def test_a_daemon_that_does_not_stay_running_is_reported(ready_host):
    host, unit = ready_host
    host.run("systemctl", "stop", "nvidia-vgpu-mgr")
    (host.root / "usr/bin/nvidia-vgpu-mgr").write_text("#!/bin/sh\nexit 1\n")
    unit.hook("update-status")
    host.run("sleep", "0.2")
    unit.hook("update-status")
    assert unit.status == (
        "blocked",
        "nvidia-vgpu-mgr is down; see journalctl -u nvidia-vgpu-mgr; fix this, "
        "then run reboot-install (next try HH:MM UTC)",
    )


def test_a_refused_module_is_reported_with_the_reason_and_loaded_later(boot, nvidia_deb):
    with boot("t4-fresh") as (host, unit):
        unit.store(nvidia_deb)
        unit.hook("install")
        host.reboot()
        reason = "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n"
        (host.bed / "refuse-module").write_text(reason)
        host.run("rm", "-r", "/sys/module/nvidia")
        unit.hook("start")
        assert unit.status == (
            "blocked",
            (
                "Secure Boot rejects the driver; run mokutil --import "
                "/var/lib/shim-signed/mok/MOK.der, then reboot"
            ),
        )
        (host.bed / "refuse-module").unlink()
        unit.hook_after_delay("update-status")
        assert "Secure Boot" not in unit.status[1]


def test_departing_withdraws_the_published_data(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    unit.hook("nova-vgpu-relation-departed")
    assert principal.read(unit.databag) == ({}, set())
    assert json.loads(unit.databag["releases-packages-map"]) == {}


@pytest.mark.parametrize("output_format", ["text", "json"])
def test_show_plan_changes_nothing(ready_host, output_format):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    outcome = unit.action("show-plan", mappings="{T4-4Q: ['84:00.0']}", format=output_format)
    assert "nvidia-232" in outcome.results["output"]
    assert unit.databag == before
    assert not {"relation-set -r", "resource-get nvidia-vgpu-software"} & set(outcome.calls)


def test_list_vgpu_types_keeps_its_line_format(ready_host):
    _, unit = ready_host
    lines = unit.action("list-vgpu-types").results["output"].splitlines()
    assert lines[0] == (
        "nvidia-222, 0000:84:00.0, GRID T4-1B, num_heads=4, frl_config=60, framebuffer=1024M, "
        "max_resolution=7680x4320, max_instance=16"
    )
    rows = json.loads(unit.action("list-vgpu-types", format="json").results["output"])
    assert rows[0]["free"] == rows[0]["maximum"] == 16


def _main_pid(host) -> str:
    return host.run("systemctl", "show", "-P", "MainPID", "nvidia-vgpu-mgr").stdout


def test_lspci_lists_the_cards_of_every_recorded_host(tmp_path):
    for name in recorded.host_names():
        root = recorded.build(tmp_path / name, recorded.host(name))
        path = f"sysfs.path={root}/sys/bus/pci"
        command = ["lspci", "-A", "linux-sysfs", "-O", path, "-Dn", "-d", "10de:"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        shown = {line.split()[0] for line in lines.splitlines() if " 030" in line}
        folder = root / "sys/bus/pci/devices"
        cards = {address for address in shown if not (folder / address / "physfn").exists()}
        expected = {
            function["address"]
            for function in recorded.host(name)["functions"]
            if function["id"].startswith("10de:") and function["class"].startswith("030")
        }
        assert cards == expected
