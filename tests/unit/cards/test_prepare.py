# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The preparation of cards, one after the other."""

from __future__ import annotations

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
