# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Distances by the places of functions in sysfs, with the names of `nvidia-smi topo -m`."""

from __future__ import annotations

import pytest

from gpu.pci import PciAddress, PciFunction, PciId
from gpu.topology import Distance, distance

ROOT, PORT, UPSTREAM = "pci0000:00", "0000:00:05.0", "0000:03:00.0"


def function(*bridges, node=None):
    address, pci_id = PciAddress(0, 5, 0, 0), PciId(0x10DE, 0x2335)
    return PciFunction(address, pci_id, 0x0302, None, node, "1", bridges=bridges)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((ROOT, PORT, UPSTREAM, "0000:04:00.0"), (ROOT, PORT, UPSTREAM, "0000:04:01.0"), "PIX"),
        ((ROOT, PORT), (ROOT, PORT), "PIX"),
        (
            (ROOT, PORT, UPSTREAM, "0000:04:00.0", "0000:05:00.0", "0000:06:00.0"),
            (ROOT, PORT, UPSTREAM, "0000:04:01.0"),
            "PXB",
        ),
        ((ROOT, PORT), (ROOT, "0000:00:06.0"), "PHB"),
        ((ROOT, PORT, UPSTREAM, "0000:04:00.0"), (ROOT, "0000:00:06.0"), "PHB"),
    ],
)
@pytest.mark.parametrize("node", [None, 0])
def test_distance_within_one_root_complex_depends_on_the_bridges(first, second, expected, node):
    found = distance(function(*first, node=node), function(*second, node=node))
    assert found is Distance[expected]
    assert distance(function(*second, node=node), function(*first, node=node)) is found


@pytest.mark.parametrize(
    ("nodes", "expected"), [((1, 1), "NODE"), ((0, 1), "SYS"), ((None, None), "SYS")]
)
def test_distance_of_two_root_complexes_depends_on_the_numa_nodes(nodes, expected):
    first = function("pci0000:40", "0000:40:01.0", node=nodes[0])
    second = function("pci0000:80", "0000:80:01.0", node=nodes[1])
    assert distance(first, second) is Distance[expected]
