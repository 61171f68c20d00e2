# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Mediated devices of guests: recorded while they exist, recreated after a boot."""

from __future__ import annotations

import json
import stat

import pytest

import boot
import recorded
from cards import guest_mdevs
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.facts import gather
from state import boot_result, charm_state
from state.charm_state import CharmState
from state.mapping_history import MappingHistory

CARD = "0000:84:00.0"
FIRST, SECOND = recorded.UUIDS[:2]
RECORD = "var/lib/nova-compute-nvidia-vgpu/mdevs.json"


@pytest.fixture
def t4(machine, monkeypatch):
    """A host with two T4s and one guest on the first, whose device is recorded."""
    host = machine("t4-pair")
    host.create_mdev(CARD, "nvidia-233", FIRST)
    host.define_guest(FIRST)
    guest_mdevs.record_guest_mdevs(host.root, gather(host.root).cards)
    return host


def present(host):
    return {card.in_use: card.guest_type_ids for card in gather(host.root).cards if card.in_use}


def define_to_mdevctl(host, uuid, card=CARD):
    """Define a device in mdevctl, as libvirt does for Nova 30."""
    path = host.root / "etc/mdevctl.d" / card / uuid
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"mdev_type": "nvidia-233", "start": "auto"}')


def boot_now(host, mapping=""):
    """Boot, which loses all devices, and run the boot service."""
    host.reboot()
    state = CharmState(mapping=MappingHistory(requested=mapping))
    charm_state.save(host.root, state)
    return boot.main(host.root, host)


def test_device_of_a_guest_is_recreated_on_its_card_with_its_type(t4):
    assert boot_now(t4) == 0
    assert present(t4) == {(FIRST,): ("nvidia-233",)}
    assert str(gather(t4.root).cards[0].gpu.address) == CARD
    assert gather(t4.root).cards[0].in_use == (FIRST,)


def test_existing_devices_are_left_unchanged(t4):
    assert boot_now(t4) == 0
    assert boot.main(t4.root, t4) == 0
    assert present(t4) == {(FIRST,): ("nvidia-233",)}


def test_devices_without_a_guest_are_not_recreated(t4):
    t4.create_mdev(CARD, "nvidia-233", SECOND)
    guest_mdevs.record_guest_mdevs(t4.root, gather(t4.root).cards)
    boot_now(t4)
    assert present(t4) == {(FIRST,): ("nvidia-233",)}


def test_device_of_a_deleted_guest_is_not_recreated(t4):
    (t4.root / "etc/libvirt/qemu/instance-00000001.xml").unlink()
    guest_mdevs.record_guest_mdevs(t4.root, gather(t4.root).cards)
    assert json.loads((t4.root / RECORD).read_text()) == {}
    boot_now(t4)
    assert present(t4) == {}


def test_device_of_a_stopped_guest_is_recreated(t4):
    t4.remove_mdev(FIRST)
    guest_mdevs.record_guest_mdevs(t4.root, gather(t4.root).cards)
    boot_now(t4)
    assert present(t4) == {(FIRST,): ("nvidia-233",)}


@pytest.mark.parametrize(
    ("nova", "libvirt", "is_kept"),
    [
        ("3:30.0.0-0ubuntu1", "10.0.0-2ubuntu8", True),
        ("3:30.0.0-0ubuntu1", "7.3.0-1", True),
        ("3:30.0.0-0ubuntu1", "7.0.0-3", False),
        ("3:30.0.0-0ubuntu1", "unknown", False),
        ("3:29.2.0-0ubuntu1", "10.0.0-2ubuntu8", False),
    ],
)
def test_nothing_is_recreated_if_nova_does_it(t4, nova, libvirt, is_kept):
    recorded.write_dpkg_status(
        t4.root,
        [
            ("nova-common", nova, "installed"),
            ("libvirt0", libvirt, "installed"),
            ("nvidia-vgpu-ubuntu-535", "535.161.05", "installed"),
        ],
    )
    define_to_mdevctl(t4, FIRST)
    assert gather(t4.root).nova_restores_mdevs is is_kept
    boot_now(t4)
    assert present(t4) == ({} if is_kept else {(FIRST,): ("nvidia-233",)})


def test_devices_created_before_the_upgrade_to_nova_30_are_recreated(t4):
    """Nova 29 wrote to sysfs, so libvirt has no definition from which to start the device."""
    t4.create_mdev("0000:d8:00.0", "nvidia-233", SECOND)
    t4.define_guest(SECOND, name="instance-00000002")
    guest_mdevs.record_guest_mdevs(t4.root, gather(t4.root).cards)
    rows = [("nova-common", "3:30.0.0-0ubuntu1"), ("libvirt0", "10.6.0-1ubuntu3")]
    recorded.write_dpkg_status(
        t4.root,
        [(name, version, "installed") for name, version in rows]
        + [("nvidia-vgpu-ubuntu-535", "535.161.05", "installed")],
    )
    define_to_mdevctl(t4, SECOND, "0000:d8:00.0")
    assert boot_now(t4) == 0
    assert present(t4) == {(FIRST,): ("nvidia-233",)}


def test_card_without_room_is_reported_and_no_other_card_is_used(t4):
    t4.reboot()
    t4.create_mdev(CARD, "nvidia-232", SECOND)
    charm_state.save(t4.root, CharmState())
    assert boot.main(t4.root, t4) == 1
    assert boot_result.failures(t4.root) == (
        Problem(ProblemKind.MDEV_LOST, PciAddress.parse(CARD), vgpu=FIRST, vgpu_type="nvidia-233"),
    )
    assert present(t4) == {(SECOND,): ("nvidia-232", "nvidia-233")}  # one exists, one is lost


def test_record_is_readable_by_root_only(t4):
    assert stat.S_IMODE((t4.root / RECORD).stat().st_mode) == 0o600


def test_record_is_written_at_shutdown(t4):
    t4.create_mdev("0000:d8:00.0", "nvidia-233", SECOND)
    t4.define_guest(SECOND, name="instance-00000002")
    assert boot.record(t4.root) == 0
    boot_now(t4)
    assert set(present(t4)) == {(FIRST,), (SECOND,)}


def test_failure_to_write_the_record_is_reported(t4):
    (t4.root / RECORD).unlink()
    (t4.root / RECORD).mkdir()
    assert boot.record(t4.root) == 1


def test_host_without_guests_gets_no_record(machine):
    host = machine("t4-pair")
    guest_mdevs.record_guest_mdevs(host.root, gather(host.root).cards)
    assert not (host.root / RECORD).exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[["x", "0000:84:00.0", "nvidia-233"]]',
        f'[["{FIRST}", "../../..", "nvidia-233"]]',
        f'[["{FIRST}", "0000:84:00.0", "../../nvidia-233"]]',
        f'[["{FIRST}\\n", "0000:84:00.0", "nvidia-233"]]',
    ],
)
def test_invalid_record_is_never_written_to_sysfs(t4, text):
    (t4.root / RECORD).write_text(text)
    assert boot_now(t4) == 0
    assert present(t4) == {}
