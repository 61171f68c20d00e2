# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The preparation of cards, one after the other."""

from __future__ import annotations

import sys

import pytest

import recorded
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.facts import gather

MAPPING = "{A40-8Q: ['10de:2235']}"


def test_failing_card_does_not_stop_the_others(machine):
    data = recorded.without_functions("a40-mdev")
    second = {**data["functions"][0], "address": "0000:c1:00.0"}
    data["functions"] = [data["functions"][0], second]
    host = machine(data)
    host.fail("/usr/lib/nvidia/sriov-manage -e 0000:41:00.0", output="Cannot obtain unbindLock\n")
    problems = host.prepare_cards(MAPPING)
    assert problems == (
        Problem(
            ProblemKind.VFS_FAILED,
            PciAddress.parse("0000:41:00.0"),
            reason="Cannot obtain unbindLock",
        ),
    )
    assert [len(card.parents) for card in gather(host.root).cards] == [0, 32]


def test_types_are_awaited_after_functions_are_enabled(machine, monkeypatch):
    """Without types, mdev and vendor-specific VFIO look the same; nvidia-vgpud runs again."""
    data = recorded.without_functions("a40-mdev")
    data["functions"] = [
        {**card, "sriov": {**card["sriov"], "framework": None}} for card in data["functions"]
    ]
    host = machine(data)
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    problems = host.prepare_cards(MAPPING)
    assert problems == (
        Problem(ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:41:00.0"), vgpu_type="A40-8Q"),
    )
    assert host.did("systemctl restart") == [("systemctl", "restart", "nvidia-vgpud")]
    assert len(pauses) == 20


class _SysfsReads:
    """Counts the files and folders below /sys of a host that are opened, while it is active."""

    def __init__(self, root):
        self.folder = str(root / "sys")
        self.count = 0
        self.is_active = False
        sys.addaudithook(self._note)  # which cannot be removed again

    def _note(self, event, arguments):
        is_read = event in ("open", "os.listdir", "os.scandir")
        if self.is_active and is_read and str(arguments[0]).startswith(self.folder):
            self.count += 1


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_reads_grow_with_the_functions_and_not_with_their_square(machine, monkeypatch, number):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    cards = [{**card, "address": f"0000:{16 * index:02x}:00.0"} for index in range(1, number + 1)]
    host = machine("l40s-vendor-vfio", functions=cards)
    reads = _SysfsReads(host.root)
    simulated = host.driver.write

    def write(path, text):
        """Exclude the reads of the simulated driver."""
        reads.is_active = False
        simulated(path, text)
        reads.is_active = True

    monkeypatch.setattr("system.sysfs.write", write)
    reads.is_active = True
    assert host.prepare_cards("{L40S-1Q: ['10de:26b9']}") == ()
    reads.is_active = False
    assert [len(host.assigned_types(index)) for index in range(number)] == [32] * number
    assert reads.count <= 500 * number
