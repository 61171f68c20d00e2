# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The state of a host after a boot, before Nova starts and before any hook runs."""

from __future__ import annotations

import re

import pytest
from bed import machine, principal

import recorded

MAPPING = "{A40-8Q: ['10de:2235']}"
READY = ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
# Of these, the boot service can write to the last three.
FOLDERS = [
    *("/", "/etc", "/usr/local", "/var/lib", "/var/lib/juju", "/run", "/run/systemd/system"),
    *("/dev", "/run/nova-compute-nvidia-vgpu", "/var/lib/nova-compute-nvidia-vgpu"),
]
COUNT_PARENTS = (
    "ls -d /sys/bus/pci/devices/0000:41:00.0/virtfn*/mdev_supported_types 2>/dev/null | wc -l"
)


def count(host) -> int:
    return int(host.run("sh", "-c", COUNT_PARENTS).stdout)


def count_at_nova_start(host) -> int:
    return int(host.nova_start_output()[0])


@pytest.fixture
def a40(boot, nvidia_deb):
    """A host with an A40, NVIDIA's package in Juju's store, and Nova's service."""
    with boot("a40-mdev") as (host, unit):
        host.install_nova_compute(COUNT_PARENTS)
        unit.store(nvidia_deb)
        unit.hook("install")
        unit.integrate()
        yield host, unit


def test_virtual_functions_exist_before_nova_starts_at_every_boot(a40):
    host, unit = a40
    assert count(host) == 0
    unit.configure(vgpu_device_mappings=MAPPING)
    assert count(host) == 32
    assert unit.status == READY
    sections, _ = principal.read(unit.databag)
    assert len(sections["mdev_nvidia-562"][0][1].split(",")) == 6

    before = unit.databag
    for _ in range(2):
        host.reboot()
        assert count_at_nova_start(host) == 32
    unit.hook("start")
    assert unit.databag == before
    assert unit.status == READY
    journal = host.run("journalctl", "-u", "nova-compute-nvidia-vgpu", "-o", "cat").stdout
    assert "0000:41:00.0 has 32 virtual functions" in journal
    assert "all cards are prepared" in journal


def test_the_first_boot_after_install_and_configuration_needs_no_hook(boot, nvidia_deb, fault):
    """The boot service resolves type names, because the driver first reports its types then."""
    cards = [{**card, "driver": "nouveau"} for card in recorded.host("a40-mdev")["functions"]]
    with boot(recorded.host("a40-mdev", functions=cards)) as (host, unit):
        unit.store(nvidia_deb)
        unit.hook("install")
        unit.integrate()
        unit.configure(vgpu_device_mappings=MAPPING)
        assert unit.status[1].startswith("Reboot needed: nouveau is bound to 0000:41:00.0")
        row = fault("The cards are bound to nouveau")
        row.record(unit)
        host.reboot()
        assert count(host) == 32
        unit.hook("start")
        assert unit.status == READY
        row.record_end(unit, "the host is rebooted")


def test_a_failure_at_boot_does_not_delay_nova_and_is_reported(a40, fault):
    host, unit = a40
    row = fault("sriov-manage fails at boot; the published data is kept")
    unit.configure(vgpu_device_mappings=MAPPING)
    before = unit.databag
    broken = host.bed / "sriov-fault"
    broken.write_text("echo 'Cannot obtain unbindLock' >&2; exit 1\n")
    host.reboot()
    assert count_at_nova_start(host) == 0
    assert host.run("systemctl", "is-failed", "nova-compute-nvidia-vgpu").stdout == "failed\n"
    unit.hook("start")
    assert unit.status == (
        "blocked",
        (
            "No virtual functions on 0000:41:00.0: Cannot obtain unbindLock; fix this, "
            "then run reboot-install (next try HH:MM UTC)"
        ),
    )
    assert unit.databag == before
    row.record(unit)
    broken.unlink()
    unit.hook_after_delay("update-status")
    assert unit.status == READY
    row.record_end(unit, "sriov-manage works again")


def test_sriov_manage_is_run_again_if_it_succeeds_without_effect(a40, fault):
    host, unit = a40
    unit.configure(vgpu_device_mappings=MAPPING)
    counter = "n=$(cat /bed/tries 2>/dev/null || echo 0); echo $((n + 1)) >/bed/tries; "
    again = "[ $n -lt 1 ] && exit 0; rm /bed/sriov-fault; /usr/lib/nvidia/sriov-manage -e $1\n"
    (host.bed / "sriov-fault").write_text(counter + again)
    host.reboot()
    unit.hook("start")
    assert host.run("cat", "/bed/tries").stdout == "2\n"
    assert unit.status == READY
    fault("sriov-manage succeeds without effect, once").record(unit)


def test_a_hook_waits_for_the_boot_service(a40, fault):
    """Juju's agent starts while the boot service is still preparing the cards."""
    host, unit = a40
    unit.configure(vgpu_device_mappings=MAPPING)
    slow = (
        "echo >>/bed/tries; sleep 2; rm /bed/sriov-fault; exec /usr/lib/nvidia/sriov-manage -e $1"
    )
    host.driver.sriov_manage("-d", "0000:41:00.0")
    (host.bed / "sriov-fault").write_text(slow)
    host.run("systemctl", "restart", "--no-block", "nova-compute-nvidia-vgpu")
    while host.run("test", "-e", "/bed/tries", check=False).returncode:
        pass
    unit.hook("start")
    assert host.run("cat", "/bed/tries").stdout == "\n"
    assert unit.status == READY
    fault("A hook runs while the boot service prepares the cards").record(unit)


def test_the_boot_service_is_sandboxed(a40):
    """Its work is the other tests' subject: they all run it with this sandbox."""
    host, unit = a40
    (host.bed / "sriov-fault").write_text(
        f"for folder in {' '.join(FOLDERS)}; do\n"
        "  { touch $folder/probe && echo $folder; } 2>/dev/null\n"
        "done >/bed/writable\n"
        "rm /bed/sriov-fault; exec /usr/lib/nvidia/sriov-manage -e $1\n"
    )
    unit.configure(vgpu_device_mappings=MAPPING)
    assert unit.status == READY
    assert (host.bed / "writable").read_text().split() == FOLDERS[-3:]
    report = host.run("systemd-analyze", "security", "nova-compute-nvidia-vgpu", "--no-pager")
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report.stdout)
    assert exposure is not None
    assert float(exposure[1]) < 3.5


@pytest.mark.parametrize(("verb", "state"), [("disable", "disabled"), ("mask", "masked")])
def test_a_boot_service_that_an_administrator_turns_off_stays_off(a40, fault, verb, state):
    host, unit = a40
    unit.configure(vgpu_device_mappings=MAPPING)
    row = fault(f"An administrator runs `systemctl {verb}` on the boot service")
    host.run("systemctl", verb, "nova-compute-nvidia-vgpu")
    host.reboot()
    for hook in ("start", "update-status", "upgrade-charm"):
        unit.hook(hook)
        assert unit.status[1].startswith(f"The boot service is {state}; run systemctl ")
    assert count(host) == 0
    row.record(unit)
    host.run("systemctl", "unmask" if verb == "mask" else "enable", "nova-compute-nvidia-vgpu")
    unit.hook("update-status")
    assert count(host) == 32
    assert unit.status == READY
    row.record_end(unit, "the administrator turns it on again")


def test_the_boot_service_does_nothing_where_its_unit_is_gone(a40):
    """As after `juju remove-unit --force`."""
    host, unit = a40
    unit.configure(vgpu_device_mappings=MAPPING)
    host.run("rm", "-r", f"/{machine.CHARM}/src")
    host.reboot()
    assert count(host) == 0
    status = host.run("systemctl", "show", "-p", "ConditionResult", "nova-compute-nvidia-vgpu")
    assert status.stdout == "ConditionResult=no\n"


def test_a_host_without_a_card_has_no_boot_service(boot, fault):
    with boot("no-gpu") as (host, unit):
        unit.hook("install")
        unit.configure(vgpu_device_mappings="{nvidia-35: ['0000:84:00.0']}")
        assert host.run("systemctl", "cat", "nova-compute-nvidia-vgpu", check=False).returncode
        unit.integrate()
        fault("The host has no card, so the charm installs no boot service").record(unit)


def test_removal_deletes_the_charms_files_and_keeps_the_driver(a40):
    host, unit = a40
    unit.configure(vgpu_device_mappings=MAPPING)
    for hook in ("nova-vgpu-relation-departed", "stop", "remove"):
        assert unit.hook(hook).returncode == 0
    charm_files = ["-name", "*nova-compute-nvidia-vgpu*", "-not", "-path", "*/juju/*"]
    assert host.run("find", "/etc", "/run", "/var/lib", "-xdev", *charm_files).stdout == ""
    assert "install ok" in host.run("dpkg-query", "-s", "nvidia-vgpu-ubuntu-570").stdout
    assert principal.read(unit.databag) == ({}, set())
