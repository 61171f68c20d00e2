# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Guests keep their vGPUs whatever the operator requests; the request is applied afterwards."""

from __future__ import annotations

from functools import lru_cache
from typing import Callable, NamedTuple

import pytest
from bed import juju, kernel, machine, packages

import recorded

pytestmark = pytest.mark.skipif(bool(kernel.why_sys_is_static()), reason="/sys is static here")

UUID = "6f6d5a5e-1111-4000-8000-000000000001"


class Guest(NamedTuple):
    """A guest: its host, the option's value and a new value, and how it starts and ends."""

    host: str
    mapping: str
    new_mapping: str
    start: Callable[[machine.Machine], object]
    end: Callable[[machine.Machine], object]


def open_function(host: machine.Machine) -> None:
    """Keep the VFIO group of a function open in a process, as QEMU does."""
    folder = (host.driver.root / "sys/bus/pci/devices/0000:3d:00.5").resolve()
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/77")
    host.run("install", "-D", "/dev/null", "/dev/vfio/77")
    host.run("systemd-run", "--unit=guest", "sh", "-c", "exec sleep infinity </dev/vfio/77")


def define(host: machine.Machine) -> None:
    """Define a guest with a function, and do not start it."""
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
    "a mediated device on a virtual function": Guest(
        "a40-mdev",
        "{A40-8Q: ['10de:2235']}",
        "{A40-24Q: ['10de:2235']}",
        lambda host: host.create_mdev("0000:41:00.5", "nvidia-562", UUID),
        lambda host: host.remove_mdev(UUID),
    ),
    "a virtual function open": Guest(
        *L40S, open_function, lambda host: host.run("systemctl", "stop", "guest")
    ),
    "a virtual function in its definition": Guest(
        *L40S, define, lambda host: host.run("rm", "/etc/libvirt/qemu/instance-00000001.xml")
    ),
}


def daemon(host: machine.Machine) -> str:
    return host.run("systemctl", "show", "-P", "MainPID", "nvidia-vgpu-mgr").stdout


def vgpus(host: machine.Machine) -> str:
    """Return the vGPUs of a host: mediated devices, and functions with their types."""
    script = (
        "ls /sys/bus/mdev/devices; cd /sys/bus/pci/devices; "
        "grep -sv '^0$' */nvidia/current_vgpu_type"
    )
    return host.run("sh", "-c", script, check=False).stdout


def versions(host: machine.Machine) -> str:
    arguments = ("${Package} ${db:Status-Abbrev} ${Version}\\n", "nvidia-vgpu*")
    return host.run("dpkg-query", "-W", "-f", *arguments).stdout


def attach(unit: juju.Juju, tmp_path) -> juju.Outcome:
    return unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))


def reinstall(unit: juju.Juju, tmp_path) -> juju.Outcome:
    unit.store(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    return unit.action("reboot-install", i_really_mean_it=True)


def published(unit: juju.Juju) -> str:
    """Return the published sections of nova.conf."""
    return unit.databag["subordinate_configuration"]


# The requests, and where each takes effect once the guest is gone.
EVENTS = {
    "set another type": (
        lambda unit, guest, _: unit.configure(vgpu_device_mappings=guest.new_mapping),
        published,
    ),
    "unset the option": (lambda unit, *_: unit.configure(vgpu_device_mappings=None), published),
    "attach a new package": (lambda unit, _, tmp_path: attach(unit, tmp_path), versions),
    "pause": (lambda unit, *_: unit.action("pause"), daemon),
    "restart-trigger": (lambda unit, *_: unit.trigger("new"), daemon),
    "reboot-install": (lambda unit, _, tmp_path: reinstall(unit, tmp_path), versions),
    "refresh the charm": (lambda unit, *_: unit.hook("upgrade-charm"), None),
}


@pytest.fixture(scope="module")
def image(boot, ready_image, tmp_path_factory):
    """Returns an image of a host before its guest starts."""

    @lru_cache(maxsize=None)
    def build(name: str):
        guest = GUESTS[name]
        host = recorded.host(guest.host)
        with boot(host, ready_image) as (booted, unit):
            booted.install_nova(host["nova"])
            unit.configure(vgpu_device_mappings=guest.mapping)
            unit.hook("start")
            return booted.save(tmp_path_factory.mktemp("image") / "guest")

    return build


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_keeps_its_vgpu_and_the_request_is_applied_afterwards(
    boot, image, tmp_path, fault, name, event
):
    guest = GUESTS[name]
    request, changed = EVENTS[event]
    with boot(guest.host, image(name)) as (host, unit):
        guest.start(host)
        unit.hook("update-status")
        before = {
            query: query(unit if query is published else host)
            for query in (daemon, versions, published)
        }
        vgpus_before = vgpus(host)
        row = fault(f"A guest has {name}; request: {event}")

        outcome = request(unit, guest, tmp_path)
        for hook in ("update-status", "config-changed"):
            assert unit.hook(hook).returncode == 0
        assert (daemon(host), versions(host), vgpus(host)) == (
            before[daemon],
            before[versions],
            vgpus_before,
        )
        assert "run-" not in host.run("systemctl", "list-timers", "--all").stdout
        if outcome.failed:
            row.record_status("the action fails", outcome.failed)
        else:
            row.record(unit)

        guest.end(host)
        if outcome.failed:
            assert request(unit, guest, tmp_path).failed is None
        unit.hook("update-status")
        row.record_end(
            unit, "the guest is gone" + (", and the action is run again" if outcome.failed else "")
        )
        if changed is not None:
            assert changed(unit if changed is published else host) != before[changed]
