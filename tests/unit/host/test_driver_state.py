# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The state of the driver: packages, loaded version and nouveau."""

from __future__ import annotations

import os

import pytest

import recorded
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host import driver_state, gpus
from host.driver_state import DriverState
from system.dpkg import Package

KERNEL = "5.15.0-173-generic"
OLD, NEW = "nvidia-vgpu-ubuntu-535", "nvidia-vgpu-ubuntu-570"


def test_installed_and_loaded_driver_is_found(host):
    root = host("t4-pair")
    state = driver_state.query(root, gpus.scan(root).gpus)
    installed = Package("nvidia-vgpu-ubuntu-535", "535.161.05", "installed")
    assert state == DriverState((installed,), "535.161.05", (), KERNEL)
    assert state.installed == installed
    assert state.reboot_reason() is None


def test_fresh_host_has_no_driver_and_its_cards_use_nouveau(host):
    root = host("t4-fresh")
    state = driver_state.query(root, gpus.scan(root).gpus)
    cards = (PciAddress(0, 0x84, 0, 0), PciAddress(0, 0xD8, 0, 0))
    assert state == DriverState((), None, cards, KERNEL)
    assert state.installed is None
    assert state.reboot_reason() is None


def test_kernel_defaults_to_the_running_one(tmp_path):
    assert driver_state.query(tmp_path, ()).kernel == os.uname().release


@pytest.mark.parametrize(
    ("packages", "is_installed"),
    [
        ([(OLD, "535.161.05", "installed")], True),
        ([(OLD, "535.161.05", "half-configured")], False),
        ([(OLD, "535.161.05", "config-files")], False),
        ([(OLD, "535.161.05", "config-files"), (NEW, "570.172.07", "installed")], True),
        ([(OLD, "535.161.05", "installed"), (NEW, "570.172.07", "installed")], False),
        ([("nvidia-vgpu-ubuntu-535-dbg", "535.161.05", "installed")], False),
    ],
    ids=["installed", "half-configured", "removed", "one of two", "two branches", "other name"],
)
def test_driver_is_installed_if_exactly_one_package_is_complete(host, packages, is_installed):
    root = host("no-gpu")
    recorded.write_dpkg_status(root, packages)
    assert (driver_state.query(root, ()).installed is not None) is is_installed


@pytest.mark.parametrize(
    ("installed", "loaded", "reason"),
    [
        ("570.172.07", "570.172.07", None),
        ("570.172.07", None, None),
        ("1:570.172.07-0ubuntu1", "570.172.07", None),
        ("570.172.07~22.04", "570.172.07", None),
        (
            "570.172.07",
            "535.161.05",
            Problem(ProblemKind.OTHER_VERSION_LOADED, loaded="535.161.05", installed="570.172.07"),
        ),
    ],
    ids=["same", "not loaded", "repackaged", "backported", "other"],
)
def test_other_loaded_version_needs_a_reboot(installed, loaded, reason):
    state = DriverState((Package(NEW, installed, "installed"),), loaded)
    assert state.reboot_reason() == reason
