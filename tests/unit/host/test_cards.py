# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

import recorded
from gpu.card import Card, Framework, VgpuType
from host import facts, gpus

UUIDS = recorded.UUIDS[:2]


def inspect(root, number=0, *, count=False):
    return facts.inspect(root, gpus.scan(root).gpus, {}, count=count)[number]


@pytest.mark.parametrize(
    ("name", "offers"),
    [
        ("a10-vendor-vfio", [(Framework.VENDOR_VFIO, 32, 23)]),
        ("a100-80-pair", [(Framework.MDEV, 20, 7)] * 2),
        ("a100-sriov-off", [(None, 0, 0)]),
        ("a16-board", [(Framework.MDEV, 16, 15)] * 4),
        ("a40-mdev", [(Framework.MDEV, 32, 22)]),
        ("h200", [(Framework.VENDOR_VFIO, 32, 1)]),
        ("l40s-vendor-vfio", [(Framework.VENDOR_VFIO, 32, 23)]),
        ("m10-board", [(Framework.MDEV, 1, 12)] * 4),
        ("mixed", [(Framework.MDEV, 1, 17), (Framework.MDEV, 32, 22), (Framework.MDEV, 1, 17)]),
        ("no-gpu", []),
        ("rtx-pro-6000", [(Framework.VENDOR_VFIO, 48, 13)]),
        ("t4-fresh", [(None, 0, 0)] * 2),
        ("t4-pair", [(Framework.MDEV, 1, 17)] * 2),
        ("v100-pair", [(Framework.MDEV, 1, 17)] * 2),
    ],
    ids=recorded.host_names(),
)
def test_framework_parents_and_types_of_every_recorded_host(cards, name, offers):
    found = [(card.framework, len(card.parents), len(card.types)) for card in cards(name)]
    assert found == offers


def test_framework_is_determined_for_each_card(host):
    t4, l40s = (recorded.host(name)["functions"][-1] for name in ("t4-pair", "l40s-vendor-vfio"))
    root = host("mixed", functions=[t4, l40s])
    assert inspect(root, 0).framework is Framework.VENDOR_VFIO
    assert inspect(root, 1).framework is Framework.MDEV


def test_framework_is_unknown_without_virtual_functions(cards):
    (card,) = cards("a100-sriov-off")
    assert card == Card(card.gpu, None)


def test_parent_is_the_card_itself_without_sriov(cards):
    assert [str(parent) for parent in cards("t4-pair")[0].parents] == ["0000:84:00.0"]


def test_parents_are_the_virtual_functions_with_sriov(cards):
    (card,) = cards("a40-mdev")
    assert card.parents == card.gpu.virtual_functions
    assert str(card.parents[0]) == "0000:41:00.4"


def test_types_are_sorted_by_number(cards):
    ids = [known.id for known in cards("m10-board")[0].types]
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
    assert {known.available_instances for known in cards("t4-pair")[0].types} == {None}


def test_free_instances_are_limited_by_the_card(cards):
    (card,) = cards("a40-mdev", count=True)
    assert card.find_type("NVIDIA A40-1Q").available_instances == 32
    assert card.find_type("NVIDIA A40-2Q").available_instances == 24


@pytest.mark.parametrize(
    "text",
    ["-1\n", "", "junk\n", "\u0662\n", None],
    ids=["-1", "empty", "junk", "\u0662", "absent"],
)
def test_invalid_number_of_free_instances_is_zero(host, text):
    root = host("t4-pair")
    path = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types/nvidia-233"
    (path / "available_instances").unlink()
    if text is not None:
        (path / "available_instances").write_text(text, encoding="utf-8")
    assert inspect(root, count=True).find_type("nvidia-233").available_instances == 0


def test_id_replaces_a_missing_type_name(host):
    root = host("t4-pair")
    path = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types/nvidia-233"
    (path / "name").unlink()
    (path / "description").unlink()
    known = inspect(root).find_type("nvidia-233")
    assert known == VgpuType(id="nvidia-233", name="nvidia-233")
    assert known.framebuffer is None


def test_folder_with_an_invalid_name_is_skipped(host):
    root = host("t4-pair")
    folder = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types"
    (folder / "nvidia-1\nevil = 1").mkdir()
    assert len(inspect(root).types) == 17


def test_mediated_devices_are_vgpus_in_use(host):
    root = host("t4-pair")
    for uuid in reversed(UUIDS):
        recorded.add_mdev(root, "0000:84:00.0", "nvidia-233", uuid)
    card = inspect(root, count=True)
    assert card.in_use == UUIDS
    assert card.find_type("nvidia-233").available_instances == 0
    assert inspect(root, 1).in_use == ()


def test_mediated_devices_on_virtual_functions_belong_to_the_card(host):
    root = host("a40-mdev")
    recorded.add_mdev(root, "0000:41:00.5", "nvidia-558", UUIDS[0])
    assert inspect(root).in_use == UUIDS[:1]


def test_virtual_function_with_a_type_is_a_vgpu_in_use(host):
    root = host("l40s-vendor-vfio")
    folder = root / "sys/bus/pci/devices/0000:3d:00.5/nvidia"
    (folder / "current_vgpu_type").write_text("1148\n")
    assert inspect(root).in_use == ("0000:3d:00.5",)


def test_type_is_offered_if_one_function_can_create_it(host):
    root = host("l40s-vendor-vfio")
    folders = list((root / "sys/bus/pci/devices/0000:3d:00.0").parent.glob("*/nvidia"))
    assert len(folders) == 32
    for folder in folders:
        (folder / "creatable_vgpu_types").write_text("ID    : vGPU Name\n")
    assert inspect(root).types == ()
    (folders[7] / "creatable_vgpu_types").write_text("ID    : vGPU Name\n1148  : NVIDIA L40S-2Q\n")
    assert inspect(root).types == (VgpuType("nvidia-1148", "NVIDIA L40S-2Q"),)


def test_virtual_function_without_type_attribute_is_not_a_parent(host):
    root = host("l40s-vendor-vfio")
    (root / "sys/bus/pci/devices/0000:3d:00.5/nvidia/current_vgpu_type").unlink()
    parents = [str(parent) for parent in inspect(root).parents]
    assert len(parents) == 31
    assert "0000:3d:00.5" not in parents


@pytest.mark.parametrize(
    ("wanted", "type_id"),
    [
        ("nvidia-233", "nvidia-233"),
        ("vfio-pci-233", "nvidia-233"),
        ("GRID T4-8Q", "nvidia-233"),
        ("T4-8Q", "nvidia-233"),
        ("t4-8q", "nvidia-233"),
        ("NVIDIA T4-8Q", "nvidia-233"),
        ("T4-8", None),
        ("4-8Q", None),
        ("V100-8Q", None),
        ("nvidia-23", None),
        ("nvidia-2333", None),
        ("", None),
    ],
)
def test_requested_type_is_found_by_id_or_name(cards, wanted, type_id):
    known = cards("t4-pair")[0].find_type(wanted)
    assert (known.id if known else None) == type_id


def test_last_part_of_a_long_name_matches():
    known = VgpuType("nvidia-1540", "NVIDIA RTX Pro 6000 Blackwell DC-48Q")
    assert known.matches("DC-48Q")
    assert known.matches("RTX Pro 6000 Blackwell DC-48Q")
    assert not known.matches("6000 Blackwell DC-48Q")


@pytest.mark.parametrize(
    ("name", "description", "framebuffer"),
    [
        ("GRID T4-8Q", "num_heads=4, framebuffer=8192M, max_instance=2", 8192),
        ("NVIDIA L40S-12Q", "", 12288),
        ("GRID M10-0B", "", 512),
        ("GRID A100-1-5CME", "", 5120),
        ("GRID T4-2B4", "framebuffer=2048M", 2048),
        ("GRID T4", "", None),
    ],
)
def test_framebuffer_is_read_from_description_or_name(
    name, description, framebuffer
):
    assert VgpuType("nvidia-1", name, description).framebuffer == framebuffer


def test_maximum_is_unknown_if_the_driver_does_not_state_it(cards):
    (card,) = cards("l40s-vendor-vfio", count=True)
    known = card.find_type("L40S-2Q")
    assert (known.max_instances, known.available_instances) == (None, None)


def test_columns_may_be_in_reverse_order(host):
    root = host("l40s-vendor-vfio")
    path = root / "sys/bus/pci/devices/0000:3d:00.4/nvidia/creatable_vgpu_types"
    path.write_text("vGPU Name : ID\nNVIDIA L40S-9Q  3152\n")
    assert inspect(root).find_type("L40S-9Q").id == "nvidia-3152"


def test_nvidia_folder_of_the_card_itself_is_ignored(host):
    """Some drivers are said to show one there as well."""
    root = host("l40s-vendor-vfio")
    folder = root / "sys/bus/pci/devices/0000:3d:00.0/nvidia"
    folder.mkdir()
    (folder / "current_vgpu_type").write_text("0\n")
    (folder / "creatable_vgpu_types").write_text("ID    : vGPU Name\n")
    card = inspect(root)
    assert len(card.parents) == 32
    assert card.gpu.address not in card.parents


def test_type_folders_named_after_another_driver_are_read(host):
    root = host("a40-mdev")
    devices = root / "sys/bus/pci/devices"
    for types in devices.glob("*/mdev_supported_types"):
        for folder in list(types.iterdir()):
            folder.rename(types / folder.name.replace("nvidia", "vfio-pci"))
    card = inspect(root, count=True)
    for word in ("A40-24Q", "nvidia-565", "vfio-pci-565"):
        assert card.find_type(word).id == "vfio-pci-565"
    assert card.find_type("A40-24Q").available_instances == 2


def test_attributes_that_fail_without_a_vgpu_are_never_read(host, monkeypatch):
    """ENXIO, until a vGPU is there."""
    root = host("l40s-vendor-vfio")
    for folder in root.glob("sys/devices/*/*/nvidia"):
        for name in ("gpu_instance_id", "placement_id", "vgpu_params"):
            (folder / name).mkdir()  # which none can open
    read = []
    real = open

    def watched(path, *args, **options):
        read.append(str(path))
        return real(path, *args, **options)

    monkeypatch.setattr("builtins.open", watched)
    assert len(inspect(root).parents) == 32
    assert {path.rsplit("/", 1)[-1] for path in read if "/nvidia/" in path} == {
        "current_vgpu_type",
        "creatable_vgpu_types",
    }


def test_vendor_specific_vfio_has_no_mdev_bus(host):
    root = host("l40s-vendor-vfio")
    assert not (root / "sys/class/mdev_bus").exists()
    assert inspect(root).framework is Framework.VENDOR_VFIO


@pytest.mark.parametrize("kernel", ["4.15.0-213-generic", "6.8.0-94-generic", "7.0.0-11-generic"])
@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("t4-pair", Framework.MDEV),
        ("a40-mdev", Framework.MDEV),
        ("a10-vendor-vfio", Framework.VENDOR_VFIO),
    ],
)
def test_kernel_and_model_do_not_determine_the_framework(host, name, framework, kernel):
    assert inspect(host(name, kernel=kernel)).framework is framework
