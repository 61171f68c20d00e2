# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The facts that the charm reads on a host."""

from __future__ import annotations

import shutil

import pytest

import recorded
from host.facts import gather
from nova_compute.release import NovaVersion

# name, cards, parents, package, version of the driver, Nova
HOSTS = [
    ("a10-vendor-vfio", 1, 32, "nvidia-vgpu-ubuntu-570", "570.172.07", (31, 1, 0)),
    ("a100-80-pair", 2, 40, "nvidia-vgpu-ubuntu-aie-550", "550.144.02", (29, 2, 0)),
    ("a100-sriov-off", 1, 0, "nvidia-vgpu-ubuntu-aie-550", "550.144.02", (25, 2, 1)),
    ("a16-board", 4, 64, "nvidia-vgpu-ubuntu-535", "535.161.05", (27, 5, 1)),
    ("a40-mdev", 1, 32, "nvidia-vgpu-ubuntu-550", "550.163.02", (29, 2, 0)),
    ("h200", 1, 32, "nvidia-vgpu-ubuntu-aie-580", "580.105.06", (32, 0, 0)),
    ("l40s-vendor-vfio", 1, 32, "nvidia-vgpu-ubuntu-570", "570.172.07", (31, 1, 0)),
    ("m10-board", 4, 4, "nvidia-vgpu-ubuntu-470", "470.68", (17, 0, 13)),
    ("mixed", 3, 34, "nvidia-vgpu-ubuntu-550", "550.163.02", (29, 2, 0)),
    ("no-gpu", 0, 0, None, None, (25, 2, 1)),
    ("rtx-pro-6000", 1, 48, "nvidia-vgpu-ubuntu-aie-580", "580.159.01", (33, 0, 0)),
    ("t4-fresh", 2, 0, None, None, (25, 2, 1)),
    ("t4-pair", 2, 2, "nvidia-vgpu-ubuntu-535", "535.161.05", (25, 2, 1)),
    ("v100-pair", 2, 2, "nvidia-vgpu-ubuntu-510", "510.47.03", (21, 2, 4)),
    ("whole-cards", 5, 85, "nvidia-vgpu-ubuntu-aie-580", "580.105.06", (32, 0, 0)),
]
UUID = recorded.UUIDS[0]


def test_every_recorded_host_has_its_row():
    assert [row[0] for row in HOSTS] == recorded.host_names()


@pytest.mark.parametrize(
    ("name", "cards", "parents", "package", "loaded", "nova"), HOSTS, ids=[row[0] for row in HOSTS]
)
def test_facts_of_every_recorded_host(host, name, cards, parents, package, loaded, nova):
    facts = gather(host(name))
    assert len(facts.cards) == cards
    assert sum(len(card.parents) for card in facts.cards) == parents
    installed = facts.driver.installed
    assert (installed.name if installed else None) == package
    assert (installed.version if installed else None) == loaded
    assert facts.driver.loaded == loaded
    assert facts.nova == NovaVersion(*nova)
    assert facts.has_vgpu_daemon is (package is not None)
    assert facts.is_paused_by_mask is False
    assert facts.in_use == ()


def test_gathering_starts_no_program_and_changes_nothing(machine):
    simulated = machine("mixed")
    before = sorted(str(path) for path in simulated.root.rglob("*"))
    gather(simulated.root, count=True)
    assert simulated.commands == []
    assert sorted(str(path) for path in simulated.root.rglob("*")) == before


def test_free_instances_are_counted_on_request(host):
    root = host("t4-pair")
    assert gather(root).cards[0].types[0].available_instances is None
    assert gather(root, count=True).cards[0].types[0].available_instances == 16


def test_vgpus_of_all_cards_are_in_use(host):
    root = host("t4-pair")
    recorded.add_mdev(root, "0000:d8:00.0", "nvidia-233", UUID)
    assert gather(root).in_use == (UUID,)
    recorded.remove_mdev(root, UUID)
    assert gather(root).in_use == ()


@pytest.mark.parametrize("state", ["unpacked", "half-configured", "config-files"])
def test_nova_that_is_not_installed_is_ignored(host, state):
    root = host("no-gpu")
    recorded.write_dpkg_status(root, [("nova-common", "3:25.2.1-0ubuntu2.9", state)])
    assert gather(root).nova is None


def test_empty_host_has_no_cards_and_no_software(tmp_path):
    facts = gather(tmp_path)
    assert (facts.cards, facts.nova, facts.has_vgpu_daemon, facts.is_paused_by_mask) == (
        (),
        None,
        False,
        False,
    )
    assert (facts.driver.packages, facts.driver.loaded) == ((), None)


def test_masked_daemon_is_a_pause(machine):
    simulated = machine("t4-pair")
    simulated("systemctl", "mask", "nvidia-vgpu-mgr")
    assert gather(simulated.root).is_paused_by_mask is True


def test_nova_is_missing_without_a_dpkg_status(host):
    root = host("t4-pair")
    shutil.rmtree(root / "var/lib/dpkg")
    assert gather(root).nova is None
