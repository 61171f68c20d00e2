# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Values of cards and vGPU types: names, IDs and framebuffer."""

from __future__ import annotations

import pytest
from plans import a100

from gpu.card import VgpuType


@pytest.mark.parametrize(
    ("requested", "type_id"),
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
def test_requested_type_is_found_by_id_or_name(cards, requested, type_id):
    vgpu_type = cards("t4-pair")[0].find_type(requested)
    assert (vgpu_type.id if vgpu_type else None) == type_id


def test_last_part_of_a_long_name_matches():
    vgpu_type = VgpuType("nvidia-1540", "NVIDIA RTX Pro 6000 Blackwell DC-48Q")
    assert vgpu_type.matches("DC-48Q")
    assert vgpu_type.matches("RTX Pro 6000 Blackwell DC-48Q")
    assert not vgpu_type.matches("6000 Blackwell DC-48Q")


def test_name_without_a_final_letter_is_not_taken_for_an_id():
    assert VgpuType("nvidia-900", "NVIDIA A100-40").matches("A100-40")
    assert not VgpuType("nvidia-40", "GRID M10-2A").matches("A100-40")


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
def test_framebuffer_is_read_from_description_or_name(name, description, framebuffer):
    assert VgpuType("nvidia-1", name, description).framebuffer == framebuffer


def test_type_is_found_although_the_driver_omits_its_suffix(cards):
    """Blackwell's graphics types: the driver lists DC-1-24Q, NVIDIA's tools show DC-1-24QGFX."""
    (card,) = cards("rtx-pro-6000")
    listed = VgpuType(
        "nvidia-1561", "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q", gpu_instance_profile=47
    )
    card = card._replace(known_types=(listed,))
    assert card.find_mig_backed_type("DC-1-24QGFX") == listed
    (mig,) = a100(cards, [])
    assert mig.find_mig_backed_type("A100-1-5CME").id == "nvidia-706"


@pytest.mark.parametrize("suffix", ["ME", "MEALL", "NOME", "me", "GFX"])
def test_longest_suffix_is_ignored(cards, suffix):
    (mig,) = a100(cards, [])
    assert mig.find_mig_backed_type(f"A100-3-20C{suffix}").id == "nvidia-476"
