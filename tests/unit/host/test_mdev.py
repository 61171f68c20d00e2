# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards with mediated devices, as sysfs shows them."""

from __future__ import annotations

import pytest

import recorded
from gpu.card import VgpuType

UUIDS = recorded.UUIDS[:2]


def test_parent_is_the_card_itself_without_sriov(cards):
    assert [str(parent) for parent in cards("t4-pair")[0].parents] == ["0000:84:00.0"]


def test_parents_are_the_virtual_functions_with_sriov(cards):
    (card,) = cards("a40-mdev")
    assert card.parents == card.gpu.virtual_functions
    assert str(card.parents[0]) == "0000:41:00.4"


def test_types_are_sorted_by_number(cards):
    ids = [vgpu_type.id for vgpu_type in cards("m10-board")[0].types]
    assert ids[:2] == ["nvidia-35", "nvidia-36"]
    assert ids[-1] == "nvidia-155"


def test_all_attributes_of_a_type_are_read(cards):
    card = cards("t4-pair", count=True)[0]
    assert card.find_type("nvidia-233") == VgpuType(
        id="nvidia-233",
        name="GRID T4-8Q",
        description="num_heads=4, frl_config=60, framebuffer=8192M, "
        "max_resolution=7680x4320, max_instance=2",
        max_instances=2,
        available_instances=2,
    )


def test_free_instances_are_read_only_on_request(cards):
    assert {vgpu_type.available_instances for vgpu_type in cards("t4-pair")[0].types} == {None}


def test_free_instances_are_limited_by_the_card(cards):
    (card,) = cards("a40-mdev", count=True)
    assert card.find_type("NVIDIA A40-1Q").available_instances == 32
    assert card.find_type("NVIDIA A40-2Q").available_instances == 24


@pytest.mark.parametrize(
    "text",
    ["-1\n", "", "junk\n", "\u0662\n", None],
    ids=["-1", "empty", "junk", "\u0662", "absent"],
)
def test_invalid_number_of_free_instances_is_zero(host, text, inspect):
    root = host("t4-pair")
    path = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types/nvidia-233"
    (path / "available_instances").unlink()
    if text is not None:
        (path / "available_instances").write_text(text, encoding="utf-8")
    assert inspect(root, count=True).find_type("nvidia-233").available_instances == 0


def test_id_replaces_a_missing_type_name(host, inspect):
    root = host("t4-pair")
    path = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types/nvidia-233"
    (path / "name").unlink()
    (path / "description").unlink()
    vgpu_type = inspect(root).find_type("nvidia-233")
    assert vgpu_type == VgpuType(id="nvidia-233", name="nvidia-233")
    assert vgpu_type.framebuffer is None


def test_folder_with_an_invalid_name_is_skipped(host, inspect):
    root = host("t4-pair")
    folder = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types"
    (folder / "nvidia-1\nevil = 1").mkdir()
    assert len(inspect(root).types) == 17


def test_mediated_devices_are_vgpus_in_use(host, inspect):
    root = host("t4-pair")
    for uuid in reversed(UUIDS):
        recorded.add_mdev(root, "0000:84:00.0", "nvidia-233", uuid)
    card = inspect(root, count=True)
    assert card.in_use == UUIDS
    assert card.find_type("nvidia-233").available_instances == 0
    assert inspect(root, 1).in_use == ()


def test_mediated_devices_on_virtual_functions_belong_to_the_card(host, inspect):
    root = host("a40-mdev")
    recorded.add_mdev(root, "0000:41:00.5", "nvidia-558", UUIDS[0])
    assert inspect(root).in_use == UUIDS[:1]


def test_type_folders_named_after_another_driver_are_read(host, inspect):
    root = host("a40-mdev")
    devices = root / "sys/bus/pci/devices"
    for types in devices.glob("*/mdev_supported_types"):
        for folder in list(types.iterdir()):
            folder.rename(types / folder.name.replace("nvidia", "vfio-pci"))
    card = inspect(root, count=True)
    for requested in ("A40-24Q", "nvidia-565", "vfio-pci-565"):
        assert card.find_type(requested).id == "vfio-pci-565"
    assert card.find_type("A40-24Q").available_instances == 2
