# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Causes that the host shows for a card without the requested types, and their fixes."""

from __future__ import annotations

import json

import pytest
from ops import testing

import recorded

APP = "nova-compute-nvidia-vgpu"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.161.05  Release Build\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.05  Tue May  5\n"
NEEDS_CLOSED = (
    "0000:84:00.0 needs the closed module: dkms remove nvidia/535.161.05-open --all, "
    "install nvidia/535.161.05, reboot"
)


# Some servers show this capability on a T4; its vGPUs do not use it.
SRIOV = {"total": 16, "enabled": 0, "offset": 4, "framework": "card"}


def t4_pair(**changes):
    """Return the functions of a host with two T4s, with the cards changed."""
    return [
        {**card, **changes} if card.get("types") else card
        for card in recorded.host("t4-pair")["functions"]
    ]


@pytest.fixture
def t4_without_types(deploy):
    """A host whose driver is loaded, but whose cards report no types."""
    return deploy("t4-pair", functions=t4_pair(types=None))


def load(unit, module):
    path = unit.machine.root / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text(module)


@pytest.mark.parametrize("text", ["{T4-8Q: ['0000:84:00.0']}", "{nvidia-233: ['0000:84:00.0']}"])
def test_open_module_offers_nothing_on_turing(t4_without_types, text):
    load(t4_without_types, OPEN)
    t4_without_types.configure(text)
    assert t4_without_types.status == testing.BlockedStatus(NEEDS_CLOSED)


def test_closed_module_is_not_reported_as_the_cause(t4_without_types):
    load(t4_without_types, CLOSED)
    t4_without_types.configure("{T4-8Q: ['0000:84:00.0']}")
    assert t4_without_types.status == testing.WaitingStatus(
        "Waiting for 0000:84:00.0 to report type T4-8Q; see journalctl -u nvidia-vgpud"
    )


def test_t4_with_sriov_capability_offers_vgpus_on_the_card(deploy):
    unit = deploy("t4-pair", functions=t4_pair(sriov=SRIOV))
    unit.configure("{T4-8Q: ['84:00.0'], T4-4Q: ['d8:00.0']}")
    assert unit.sections["mdev_nvidia-233"] == [["device_addresses", "0000:84:00.0"]]
    assert unit.sections["mdev_nvidia-232"] == [["device_addresses", "0000:d8:00.0"]]
    assert unit.status == testing.ActiveStatus("Unit is ready: 2 NVIDIA GPUs, 2 vGPU types")
    assert not unit.machine.did("sriov-manage")


def test_t4_with_sriov_capability_is_not_reported_to_lack_functions(deploy):
    unit = deploy("t4-pair", functions=t4_pair(types=None, sriov=SRIOV))
    load(unit, OPEN)
    unit.configure("{T4-8Q: ['0000:84:00.0']}")
    assert unit.status == testing.BlockedStatus(NEEDS_CLOSED)
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert not unit.machine.did("systemctl restart")


@pytest.mark.parametrize("name", ["A40-8C", "A40-1-6C"])
def test_compute_types_come_with_another_package(deploy, name):
    (card,) = recorded.host("a40-mdev")["functions"]
    unit = deploy("a40-mdev", functions=[{**card, "mig": {}}])  # nvidia-smi lists the types
    unit.configure(f"{{{name}: ['10de:2235']}}")
    assert unit.status == testing.BlockedStatus(
        f"{name} on 0000:41:00.0 needs package nvidia-vgpu-ubuntu-aie; attach it"
    )


@pytest.mark.parametrize(
    ("host", "requested"),
    [("a100-80-pair", "A100D-6C"), ("a10-vendor-vfio", "A10-5C"), ("a40-mdev", "A40-5Q")],
    ids=["compute-package", "other-compute-types", "graphics-type"],
)
def test_type_in_no_package_is_reported_as_not_offered(deploy, host, requested):
    unit = deploy(host)
    card = unit.machine.host["functions"][0]["address"]
    unit.configure(f"{{{requested}: ['{card}']}}")
    assert unit.status == testing.BlockedStatus(
        f"{card} does not offer {requested}; run list-vgpu-types and choose another"
    )


def test_secure_boot_is_reported_as_the_cause(deploy, tmp_path):
    unit = deploy(recorded.without_driver("t4-pair"))
    unit.machine.fail(
        "modprobe nvidia",
        output="modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n",
    )
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.status == testing.BlockedStatus(
        "Secure Boot rejects the driver; run mokutil --import "
        "/var/lib/shim-signed/mok/MOK.der, then reboot"
    )


def notes(unit):
    lines = unit.action("show-plan")["output"].splitlines()
    titles = [line for line in lines if line in ("Problems:", "Notes:")]
    noted = lines[lines.index(titles[0]) + 1 :] if titles else []
    return [line[4:] for line in noted if line.startswith("  - ")]


def test_plan_explains_why_a_card_reports_no_types(deploy):
    unit = deploy("a100-sriov-off")
    assert notes(unit) == [
        "0000:41:00.0 has no virtual functions enabled; map the card to enable them"
    ]


def test_plan_shows_a_card_passed_through_to_a_guest(deploy):
    data = recorded.host("mixed")
    cards = [{**card, "driver": "vfio-pci"} for card in data["functions"][:1]]
    unit = deploy("mixed", functions=[*cards, *data["functions"][1:]])
    assert notes(unit) == ["0000:3b:00.0 uses vfio-pci; bind it to nvidia to offer vGPUs"]


def test_plan_names_the_open_module_or_no_cause(t4_without_types):
    assert notes(t4_without_types)[0] == (
        "0000:84:00.0 reports no types; see journalctl -u nvidia-vgpud"
    )
    load(t4_without_types, OPEN)
    assert notes(t4_without_types)[0] == NEEDS_CLOSED


def test_driver_output_is_shown_as_one_printable_line(deploy, tmp_path):
    """A hook fails if it passes a NUL to one of Juju's tools."""
    unit = deploy(recorded.without_driver("t4-pair"))
    unit.machine.fail("modprobe nvidia", output="modprobe: ERROR: no\x00 \x1b[31mdriver\n")
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.status == testing.BlockedStatus(
        "Driver not loaded: no? ?[31mdriver; fix this, "
        "then run reboot-install (next try 12:04 UTC)"
    )


# Types that only nvidia-smi lists


def test_types_without_gpu_instances_are_listed(deploy):
    unit = deploy("a100-80-pair")
    lines = unit.action("list-vgpu-types")["output"].splitlines()
    assert (
        "nvidia-699, 0000:31:00.0, GRID A100D-1-10C, framebuffer=10240M, max_instance=7" in lines
    )
    rows = json.loads(unit.action("list-vgpu-types", format="json")["output"])
    (row,) = [row for row in rows if row["id"] == "nvidia-699" and "31" in row["address"]]
    assert (row["mig_backed"], row["free"], row["maximum"]) == (True, 0, 7)


def free_of(unit):
    """Return the free and the maximum number of vGPUs of each type name."""
    rows = json.loads(unit.action("list-vgpu-types", format="json")["output"])
    return {row["name"]: (row["free"], row["maximum"]) for row in rows}


def test_idle_functions_with_a_type_are_free(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    free = free_of(unit)
    assert free["NVIDIA L40S-8Q"] == (6, 6)
    assert free["NVIDIA L40S-24Q"] == (0, 2)


def test_functions_that_can_change_to_a_type_are_free(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 2}}")
    free = free_of(unit)
    assert free["NVIDIA L40S-8Q"] == (6, 6)
    assert free["NVIDIA L40S-8A"] == (4, 6)
    assert free["NVIDIA L40S-24Q"] == (0, 2)


@pytest.mark.parametrize(("host", "number"), [("a100-80-pair", 14), ("l40s-vendor-vfio", 23)])
@pytest.mark.parametrize("returncode", [9, None], ids=["failed", "missing"])
def test_failing_nvidia_smi_does_not_hide_other_types(deploy, host, number, returncode):
    unit = deploy(host)
    unit.machine.fail("nvidia-smi", returncode=returncode)
    assert len(unit.action("list-vgpu-types")["output"].splitlines()) == number


# Versions of libvirt and QEMU


def with_versions(unit, libvirt, qemu, architecture="x86"):
    unit.machine.add_package("libvirt0", libvirt)
    unit.machine.add_package(f"qemu-system-{architecture}", qemu)


@pytest.mark.parametrize("architecture", ["x86", "arm"])
def test_live_migration_is_offered_if_requested_and_supported(deploy, architecture):
    unit = deploy("l40s-vendor-vfio")
    with_versions(unit, "10.0.0-2ubuntu8.5", "1:8.2.2+ds-0ubuntu1.7", architecture)
    unit.change(
        config={"live-migratable": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    )
    unit.hook("config_changed")
    assert unit.sections["pci"] == [
        [
            "device_spec",
            '{"address": "0000:3d:00.4", "managed": "no", "live_migratable": "yes"}',
        ],
        [
            "alias",
            '{"name": "L40S-48Q", "device_type": "type-VF", "vendor_id": "10de", '
            '"product_id": "26b9", "live_migratable": "yes"}',
        ],
    ]
    assert unit.status == testing.ActiveStatus("Unit is ready: 1 NVIDIA GPU, 1 vGPU type")


@pytest.mark.parametrize(
    ("libvirt", "qemu", "shown"),
    [
        ("9.6.0-1ubuntu1", "1:8.2.2+ds-0ubuntu1", "(here 9.6.0) and QEMU 8.2.2 (here 8.2.2)"),
        ("10.0.0-2ubuntu8", "1:8.1.0+ds-1", "(here 10.0.0) and QEMU 8.2.2 (here 8.1.0)"),
        ("unknown", "1:8.2.2+ds-0ubuntu1", "(here none) and QEMU 8.2.2 (here 8.2.2)"),
    ],
)
def test_unsupported_live_migration_is_not_offered(deploy, libvirt, qemu, shown):
    unit = deploy("l40s-vendor-vfio")
    with_versions(unit, libvirt, qemu)
    unit.change(
        config={"live-migratable": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    )
    unit.hook("config_changed")
    assert "live_migratable" not in unit.databag["subordinate_configuration"]
    assert unit.status == testing.ActiveStatus(
        f"Unit is ready: 1 NVIDIA GPU, 1 vGPU type; live-migratable needs libvirt 10.0 {shown}"
    )


@pytest.mark.parametrize(
    ("host", "libvirt", "is_installed"),
    [
        ("a40-mdev", "8.0.0-1ubuntu7", True),
        ("a40-mdev", "6.0.0-0ubuntu8", False),
        ("l40s-vendor-vfio", "10.0.0-2ubuntu8", False),
        ("no-gpu", "8.0.0-1ubuntu7", False),
    ],
)
def test_mdevctl_is_installed_if_libvirt_uses_it(deploy, host, libvirt, is_installed):
    unit = deploy(host)
    with_versions(unit, libvirt, "1:6.2+dfsg-2ubuntu6")
    unit.machine.archive.add("mdevctl")
    for _ in range(2):
        unit.hook("start")
    assert len(unit.machine.did("apt-get install mdevctl")) == int(is_installed)


def test_archive_without_mdevctl_is_not_an_error(deploy):
    unit = deploy("a40-mdev")
    with_versions(unit, "8.0.0-1ubuntu7", "1:6.2+dfsg-2ubuntu6")
    unit.hook("start")
    assert unit.status.name == "active"
