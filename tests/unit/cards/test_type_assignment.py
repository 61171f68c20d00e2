# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Assignment of vGPU types to virtual functions, with the simulated driver."""

from __future__ import annotations

import errno
import json
import os
from unittest import mock

import pytest

import recorded
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.facts import gather
from system import sysfs

CARD = "0000:3d:00.0"


@pytest.fixture
def l40s(machine):
    """A host with an L40S under the vendor-specific VFIO framework."""
    return machine("l40s-vendor-vfio")


def functions(first, number):
    return [f"0000:3d:{first // 8:02x}.{first % 8}" for first in range(first, first + number)]


def open_vfio(host, function):
    """Let a guest open the VFIO device of a function."""
    path = host.root / "sys/bus/pci/devices" / function
    (path / "iommu_group").symlink_to("../../../../kernel/iommu_groups/77")
    descriptors = host.root / "proc/4711/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "23").symlink_to("/dev/vfio/77")


def test_type_is_assigned_up_to_the_capacity_of_the_card(l40s):
    assert l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}") == ()
    assert list(l40s.assigned_types().items()) == [
        (function, "nvidia-1152") for function in functions(4, 6)
    ]


def test_max_instances_limits_assigned_functions(l40s):
    l40s.prepare_cards("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 2}}")
    assert list(l40s.assigned_types().items()) == [
        (function, "nvidia-1152") for function in functions(4, 2)
    ]


def test_mapped_functions_get_the_type(l40s):
    l40s.prepare_cards("{nvidia-1152: ['3d:00.6', '3d:01.0']}")
    assert list(l40s.assigned_types()) == ["0000:3d:00.6", "0000:3d:01.0"]


def test_assigned_types_are_not_written_again(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")

    def write(path, text):
        raise AssertionError(f"{path} {text}")

    with mock.patch("system.sysfs.write", write):
        problems = l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert problems == ()


def test_types_of_a_full_card_stay_known(l40s):
    l40s.prepare_cards("{L40S-48Q: ['10de:26b9']}")
    (card,) = gather(l40s.root).cards
    assert card.creatable == frozenset()
    assert card.find_type("L40S-8Q").id == "nvidia-1152"
    assert len(card.types) == 23


def test_unused_type_is_replaced(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert l40s.prepare_cards("{L40S-24Q: ['10de:26b9']}") == ()
    assert list(l40s.assigned_types().items()) == [
        (function, "nvidia-1155") for function in functions(4, 2)
    ]


def test_type_of_a_running_guest_is_kept(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    open_vfio(l40s, "0000:3d:00.5")
    problems = l40s.prepare_cards("{L40S-24Q: ['10de:26b9']}")
    assert list(l40s.assigned_types().items()) == [
        (function, "nvidia-1152") for function in functions(4, 6)
    ]
    assert problems == (
        Problem(
            ProblemKind.TYPE_REFUSED,
            PciAddress.parse(CARD),
            vgpu_type="nvidia-1155",
            reason="no room on the card",
        ),
    )


def in_use(host):
    return gather(host.root).in_use


def test_type_assigned_by_the_charm_is_not_in_use(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert in_use(l40s) == ()
    open_vfio(l40s, "0000:3d:00.5")
    l40s.define_guest("0000:3d:00.7")
    assert in_use(l40s) == ("0000:3d:00.5", "0000:3d:00.7")


def test_all_functions_of_an_iommu_group_are_in_use(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    open_vfio(l40s, "0000:3d:00.5")
    devices = l40s.root / "sys/bus/pci/devices"
    link = devices / "0000:3d:00.6/iommu_group"
    link.symlink_to(os.readlink(devices / "0000:3d:00.5/iommu_group"))
    assert in_use(l40s) == ("0000:3d:00.5", "0000:3d:00.6")


def test_type_assigned_by_somebody_else_is_in_use(l40s):
    path = l40s.root / "sys/bus/pci/devices/0000:3d:00.6/nvidia/current_vgpu_type"
    path.write_text("1152\n")
    assert in_use(l40s) == ("0000:3d:00.6",)


@pytest.mark.parametrize("text", ["", "[]", "[1]", "{"])
def test_types_are_not_a_guests_because_their_record_is_damaged(l40s, text):
    l40s.prepare_cards("{L40S-48Q: ['10de:26b9']}")
    path = l40s.root / "var/lib/nova-compute-nvidia-vgpu/assigned-types.json"
    path.write_text(text)
    assert in_use(l40s) == ()
    l40s.prepare_cards("{L40S-48Q: ['10de:26b9']}")
    assert json.loads(path.read_text()) == {"0000:3d:00.4": "nvidia-1156"}


def test_type_of_a_stopped_guest_is_kept(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    l40s.define_guest("0000:3d:00.5")
    l40s.prepare_cards("{L40S-24Q: ['10de:26b9']}")
    assert l40s.assigned_types()["0000:3d:00.5"] == "nvidia-1152"


def test_functions_of_defined_guests_come_first_after_a_boot(l40s):
    l40s.define_guest("0000:3d:01.1")
    l40s.prepare_cards("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    assert l40s.assigned_types() == {"0000:3d:01.1": "nvidia-1152"}


def test_max_instances_is_split_across_cards(machine):
    host = machine("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    for _ in range(2):
        assert host.prepare_cards("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 8}}") == ()
        assert [len(card.assigned_types) for card in gather(host.root).cards] == [6, 2]
    assert host.prepare_cards("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}") == ()
    assert [len(card.assigned_types) for card in gather(host.root).cards] == [6, 0]


def test_no_type_is_assigned_without_its_record(l40s):
    """It would count as a guest's after the next event."""
    (l40s.root / "var/lib/nova-compute-nvidia-vgpu").write_text("not a folder")
    problems = l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert ProblemKind.DISK_WRITE_FAILED in {problem.kind for problem in problems}
    assert l40s.assigned_types() == {}


def test_unused_types_beyond_the_limit_are_removed(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    path = l40s.root / "sys/bus/pci/devices/0000:3d:01.1"
    (path / "vfio-dev/vfio5").mkdir(parents=True)
    descriptors = l40s.root / "proc/4711/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "7").symlink_to("/dev/vfio/devices/vfio5")
    l40s.prepare_cards("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    assert list(l40s.assigned_types()) == ["0000:3d:01.1"]


def test_refused_type_is_reported_and_the_function_stays_free(l40s):
    def write(path, text):
        raise OSError(errno.EIO, "Input/output error")

    with mock.patch("system.sysfs.write", write):
        problems = l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert problems == (
        Problem(
            ProblemKind.TYPE_REFUSED,
            PciAddress.parse("0000:3d:00.4"),
            vgpu_type="nvidia-1152",
            reason="the driver rejects it",
        ),
    )
    assert l40s.assigned_types() == {}


def test_write_without_effect_is_detected(l40s):
    with mock.patch("system.sysfs.write"):
        problems = l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    assert [problem.kind for problem in problems] == [ProblemKind.TYPE_REFUSED]


def test_unmapped_cards_keep_their_types(l40s):
    l40s.prepare_cards("{L40S-8Q: ['10de:26b9']}")
    before = l40s.assigned_types()
    assert l40s.prepare_cards("{L40S-24Q: ['0000:99:00.0']}") == ()
    assert l40s.assigned_types() == before


@pytest.mark.parametrize("nova", ["3:30.1.0-0ubuntu1", None], ids=["too-old", "not-there"])
def test_no_type_is_assigned_without_support_in_nova(machine, nova):
    host = machine("l40s-vendor-vfio", nova=nova)
    assert host.prepare_cards("{L40S-8Q: ['10de:26b9']}") == ()
    assert host.assigned_types() == {}


def test_functions_and_types_are_restored_after_a_boot(machine):
    host = machine(recorded.without_functions("l40s-vendor-vfio"))
    assert host.prepare_cards("{L40S-8Q: ['10de:26b9']}") == ()
    assert len(host.assigned_types()) == 6


def test_attribute_is_written(tmp_path):
    path = tmp_path / "current_vgpu_type"
    path.write_text("")
    sysfs.write(path, "1152")
    assert path.read_text() == "1152"


def test_missing_attribute_is_an_error(tmp_path):
    with pytest.raises(OSError):
        sysfs.write(tmp_path / "missing", "0")
    assert os.listdir(tmp_path) == []


def test_slow_cards_leave_the_rest_to_the_next_run(machine, monkeypatch):
    """systemd kills a run of more than ten minutes, and the status would not show why."""
    data = recorded.without_functions("a16-board")
    host = machine(data)
    clock = iter(range(0, 10_000, 150))
    monkeypatch.setattr("cards.prepare.time.monotonic", lambda: next(clock))
    problems = host.prepare_cards("{A16-4Q: ['10de:25b6']}", budget=360)
    late = [str(card.gpu.address) for card in gather(host.root).cards][2:]
    assert problems == tuple(
        Problem(
            ProblemKind.VFS_FAILED, PciAddress.parse(address), reason="no time left in this run"
        )
        for address in late
    )
