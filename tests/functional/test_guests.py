# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Guests that have a vGPU keep it, whatever Juju is told; what was asked for comes after them."""

from __future__ import annotations

from functools import lru_cache
from typing import Callable, NamedTuple

import pytest
from bed import juju, kernel, machine, packages

import recorded

pytestmark = pytest.mark.skipif(bool(kernel.why_still()), reason="no /sys reacts here")

UUID = "6f6d5a5e-1111-4000-8000-000000000001"


class Guest(NamedTuple):
    """A guest: on which host, what the option says and is to say, how it comes and goes."""

    host: str
    option: str
    other: str
    comes: Callable[[machine.Machine], object]
    goes: Callable[[machine.Machine], object]


def holds_open(host: machine.Machine) -> None:
    """Let a process hold the VFIO group of a function, as QEMU does."""
    folder = (host.driver.root / "sys/bus/pci/devices/0000:3d:00.5").resolve()
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/77")
    host.run("install", "-D", "/dev/null", "/dev/vfio/77")
    host.run("systemd-run", "--unit=guest", "sh", "-c", "exec sleep infinity </dev/vfio/77")


def is_defined(host: machine.Machine) -> None:
    """Define a guest with a function; it is off."""
    text = (
        "<domain><devices><hostdev mode='subsystem' type='pci' managed='no'><source>"
        "<address domain='0x0000' bus='0x3d' slot='0x00' function='0x5'/>"
        "</source></hostdev></devices></domain>\n"
    )
    path = host.root / "etc/libvirt/qemu/instance-00000001.xml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


L40S = ("l40s-vendor-vfio", "{L40S-8Q: ['10de:26b9']}", "{L40S-24Q: ['10de:26b9']}")
GUESTS = {
    "a mediated device on a card": Guest(
        "t4-pair",
        "{T4-8Q: ['10de:1eb8']}",
        "{T4-4Q: ['10de:1eb8']}",
        lambda host: host.create_mdev("0000:84:00.0", "nvidia-233", UUID),
        lambda host: host.remove_mdev(UUID),
    ),
    "a mediated device on a function": Guest(
        "a40-mdev",
        "{A40-8Q: ['10de:2235']}",
        "{A40-24Q: ['10de:2235']}",
        lambda host: host.create_mdev("0000:41:00.5", "nvidia-562", UUID),
        lambda host: host.remove_mdev(UUID),
    ),
    "a function that it holds open": Guest(
        *L40S, holds_open, lambda host: host.run("systemctl", "stop", "guest")
    ),
    "a function that it is defined with": Guest(
        *L40S, is_defined, lambda host: host.run("rm", "/etc/libvirt/qemu/instance-00000001.xml")
    ),
}


def daemon(host: machine.Machine) -> str:
    return host.run("systemctl", "show", "-P", "MainPID", "nvidia-vgpu-mgr").stdout


def vgpus(host: machine.Machine) -> str:
    """Return the vGPUs of a host: mediated devices, and functions with their types."""
    look = (
        "ls /sys/bus/mdev/devices; cd /sys/bus/pci/devices; "
        "grep -sv '^0$' */nvidia/current_vgpu_type"
    )
    return host.run("sh", "-c", look, check=False).stdout


def versions(host: machine.Machine) -> str:
    words = ("${Package} ${db:Status-Abbrev} ${Version}\\n", "nvidia-vgpu*")
    return host.run("dpkg-query", "-W", "-f", *words).stdout


def attached(unit: juju.Juju, tmp_path) -> juju.Outcome:
    return unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))


def reinstalled(unit: juju.Juju, tmp_path) -> juju.Outcome:
    unit.store(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    return unit.action("reboot-install", i_really_mean_it=True)


def told(unit: juju.Juju) -> str:
    """Return what nova-compute is told for nova.conf."""
    return unit.databag["subordinate_configuration"]


# What Juju is told, and where it shows once the guest is gone.
EVENTS = {
    "another type": (
        lambda unit, guest, _: unit.configure(vgpu_device_mappings=guest.other),
        told,
    ),
    "the option unset": (lambda unit, *_: unit.configure(vgpu_device_mappings=None), told),
    "a new package": (lambda unit, _, tmp_path: attached(unit, tmp_path), versions),
    "pause": (lambda unit, *_: unit.action("pause"), daemon),
    "a restart-trigger": (lambda unit, *_: unit.trigger("anew"), daemon),
    "reboot-install": (lambda unit, _, tmp_path: reinstalled(unit, tmp_path), versions),
    "a refresh of the charm": (lambda unit, *_: unit.hook("upgrade-charm"), None),
}


@pytest.fixture(scope="module")
def image(boot, ready_image, tmp_path_factory):
    """Returns what a host is like before its guest comes."""

    @lru_cache(maxsize=None)
    def made(name: str):
        guest = GUESTS[name]
        host = recorded.host(guest.host)
        with boot(host, ready_image) as (booted, unit):
            booted.install_nova(host["nova"])
            unit.configure(vgpu_device_mappings=guest.option)
            unit.hook("start")
            return booted.save(tmp_path_factory.mktemp("image") / "guest")

    return made


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_keeps_its_vgpu_and_what_was_asked_for_comes_after_it(
    boot, image, tmp_path, fault, name, event
):
    guest = GUESTS[name]
    tell, changed = EVENTS[event]
    with boot(guest.host, image(name)) as (host, unit):
        guest.comes(host)
        unit.hook("update-status")
        before = {look: look(unit if look is told else host) for look in (daemon, versions, told)}
        carried = vgpus(host)
        row = fault(f"A guest has {name}; then: {event}")

        outcome = tell(unit, guest, tmp_path)
        for hook in ("update-status", "config-changed"):
            assert unit.hook(hook).returncode == 0
        assert (daemon(host), versions(host), vgpus(host)) == (
            before[daemon],
            before[versions],
            carried,
        )
        assert "run-" not in host.run("systemctl", "list-timers", "--all").stdout
        if outcome.failed:
            row.seen_as("the action fails", outcome.failed)
        else:
            row.seen(unit)

        guest.goes(host)
        if outcome.failed:
            assert tell(unit, guest, tmp_path).failed is None
        unit.hook("update-status")
        row.over(unit, "the guest is gone" + (", and it is told again" if outcome.failed else ""))
        if changed is not None:
            assert changed(unit if changed is told else host) != before[changed]
