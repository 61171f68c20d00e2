# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""lspci compared with sysfs: they agree on every recorded host, and differences are logged."""

from __future__ import annotations

import shutil

import pytest

import recorded
from host import gpus, lspci
from system.commands import run

T4 = {"address": "0000:84:00.0", "id": "10de:1eb8", "class": "030200", "types": "T4"}


def compare(root, run):
    lspci.compare(root, run, gpus.scan(root).gpus)


@pytest.mark.parametrize("name", recorded.host_names())
def test_lspci_agrees_on_every_recorded_host(machine, caplog, name):
    simulated = machine(name)
    compare(simulated.root, simulated)
    assert caplog.messages == []


def test_lspci_reads_the_same_tree(machine):
    simulated = machine("t4-pair")
    compare(simulated.root, simulated)
    path = f"sysfs.path={simulated.root}/sys/bus/pci"
    assert simulated.commands == [
        ("lspci", "-A", "linux-sysfs", "-O", path, "-Dvmmn", "-d", "10de:")
    ]


@pytest.mark.skipif(shutil.which("lspci") is None, reason="pciutils is not installed")
@pytest.mark.parametrize("name", recorded.host_names())
def test_real_lspci_agrees_on_every_recorded_host(host, caplog, name):
    compare(host(name), run)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        ("", "only sysfs shows 0000:84:00.0 as an NVIDIA GPU"),
        (
            "Slot:\t0000:84:00.0\nClass:\t0302\n\nSlot:\t0000:99:00.0\nClass:\t0300\n\n",
            "only lspci shows 0000:99:00.0 as an NVIDIA GPU",
        ),
    ],
    ids=["lspci shows fewer", "lspci shows more"],
)
def test_difference_between_sysfs_and_lspci_is_logged(machine, caplog, stdout, message):
    simulated = machine("t4-pair", functions=[T4])
    simulated.fail("lspci", returncode=0, stdout=stdout)
    compare(simulated.root, simulated)
    assert caplog.messages == [message]


@pytest.mark.parametrize(
    "failure",
    [
        {"output": "lspci: Cannot open vendor: No such file or directory"},
        {"returncode": None},
        {"returncode": 0, "stdout": "Slot:\tjunk\nClass:\t0302\n\n"},
    ],
    ids=["one device without a vendor", "missing", "junk"],
)
def test_failure_of_lspci_is_logged(machine, caplog, failure):
    simulated = machine("t4-pair")
    simulated.fail("lspci", **failure)
    compare(simulated.root, simulated)
    assert "lspci failed, using sysfs alone" in caplog.text
