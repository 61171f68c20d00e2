# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards with vendor-specific VFIO, as sysfs shows them."""

from __future__ import annotations

from gpu.card import Framework, VgpuType


def test_virtual_function_with_a_type_is_a_vgpu_in_use(host, inspect):
    root = host("l40s-vendor-vfio")
    folder = root / "sys/bus/pci/devices/0000:3d:00.5/nvidia"
    (folder / "current_vgpu_type").write_text("1148\n")
    assert inspect(root).in_use == ("0000:3d:00.5",)


def test_type_is_offered_if_one_function_can_create_it(host, inspect):
    root = host("l40s-vendor-vfio")
    folders = list((root / "sys/bus/pci/devices/0000:3d:00.0").parent.glob("*/nvidia"))
    assert len(folders) == 32
    for folder in folders:
        (folder / "creatable_vgpu_types").write_text("ID    : vGPU Name\n")
    assert inspect(root).types == ()
    (folders[7] / "creatable_vgpu_types").write_text("ID    : vGPU Name\n1148  : NVIDIA L40S-2Q\n")
    assert inspect(root).types == (VgpuType("nvidia-1148", "NVIDIA L40S-2Q"),)


def test_virtual_function_without_type_attribute_is_not_a_parent(host, inspect):
    root = host("l40s-vendor-vfio")
    (root / "sys/bus/pci/devices/0000:3d:00.5/nvidia/current_vgpu_type").unlink()
    parents = [str(parent) for parent in inspect(root).parents]
    assert len(parents) == 31
    assert "0000:3d:00.5" not in parents


def test_maximum_is_unknown_if_the_driver_does_not_state_it(cards):
    (card,) = cards("l40s-vendor-vfio", count=True)
    vgpu_type = card.find_type("L40S-2Q")
    assert (vgpu_type.max_instances, vgpu_type.available_instances) == (None, None)


def test_columns_may_be_in_reverse_order(host, inspect):
    root = host("l40s-vendor-vfio")
    path = root / "sys/bus/pci/devices/0000:3d:00.4/nvidia/creatable_vgpu_types"
    path.write_text("vGPU Name : ID\nNVIDIA L40S-9Q  3152\n")
    assert inspect(root).find_type("L40S-9Q").id == "nvidia-3152"


def test_nvidia_folder_of_the_card_itself_is_ignored(host, inspect):
    """Some drivers are reported to create one there as well."""
    root = host("l40s-vendor-vfio")
    folder = root / "sys/bus/pci/devices/0000:3d:00.0/nvidia"
    folder.mkdir()
    (folder / "current_vgpu_type").write_text("0\n")
    (folder / "creatable_vgpu_types").write_text("ID    : vGPU Name\n")
    card = inspect(root)
    assert len(card.parents) == 32
    assert card.gpu.address not in card.parents


def test_attributes_that_fail_without_a_vgpu_are_never_read(host, monkeypatch, inspect):
    """Reading them fails with ENXIO until a vGPU exists."""
    root = host("l40s-vendor-vfio")
    for folder in root.glob("sys/devices/*/*/nvidia"):
        for name in ("gpu_instance_id", "placement_id", "vgpu_params"):
            (folder / name).mkdir()  # cannot be opened
    opened = []
    open_file = open

    def record_and_open(path, *args, **options):
        opened.append(str(path))
        return open_file(path, *args, **options)

    monkeypatch.setattr("builtins.open", record_and_open)
    assert len(inspect(root).parents) == 32
    assert {path.rsplit("/", 1)[-1] for path in opened if "/nvidia/" in path} == {
        "current_vgpu_type",
        "creatable_vgpu_types",
    }


def test_vendor_specific_vfio_has_no_mdev_bus(host, inspect):
    root = host("l40s-vendor-vfio")
    assert not (root / "sys/class/mdev_bus").exists()
    assert inspect(root).framework is Framework.VENDOR_VFIO
