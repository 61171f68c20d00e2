# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The framework of each card: mediated devices or vendor-specific VFIO."""

from __future__ import annotations

import pytest

import recorded
from gpu.card import Card, Framework


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
        (
            "whole-cards",
            [
                (Framework.MDEV, 1, 17),
                (Framework.MDEV, 20, 7),
                (Framework.VENDOR_VFIO, 32, 23),
                (Framework.VENDOR_VFIO, 32, 1),
                (None, 0, 0),
            ],
        ),
    ],
    ids=recorded.host_names(),
)
def test_framework_parents_and_types_of_every_recorded_host(cards, name, offers):
    shown = [(card.framework, len(card.parents), len(card.types)) for card in cards(name)]
    assert shown == offers


def test_framework_is_determined_for_each_card(host, inspect):
    t4, l40s = (recorded.host(name)["functions"][-1] for name in ("t4-pair", "l40s-vendor-vfio"))
    root = host("mixed", functions=[t4, l40s])
    assert inspect(root, 0).framework is Framework.VENDOR_VFIO
    assert inspect(root, 1).framework is Framework.MDEV


def test_framework_is_unknown_without_virtual_functions(cards):
    (card,) = cards("a100-sriov-off")
    assert card == Card(card.gpu, None)


@pytest.mark.parametrize("kernel", ["4.15.0-213-generic", "6.8.0-94-generic", "7.0.0-11-generic"])
@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("t4-pair", Framework.MDEV),
        ("a40-mdev", Framework.MDEV),
        ("a10-vendor-vfio", Framework.VENDOR_VFIO),
    ],
)
def test_kernel_and_model_do_not_determine_the_framework(host, name, framework, kernel, inspect):
    assert inspect(host(name, kernel=kernel)).framework is framework
