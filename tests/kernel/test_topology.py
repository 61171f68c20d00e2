# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the charm reads from a real topology: distances, groups, nodes, and types for Nova."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import topology
from bed import juju

CHARM = "/charm"
CARDS = [
    *topology.root_port("rp1"),
    *topology.switch("sw1", "rp1", ["dp1", "dp2", "dp3"]),
    *topology.card("a100", "dp1"),
    *topology.card("connectx7", "dp2"),
    *topology.switch("sw2", "dp3", ["dp4"]),
    *topology.card("connectx6", "dp4"),
    *topology.root_port("rp2"),
    *topology.card("t4", "rp2"),
    *topology.expander("socket0", 0x40, numa_node=0),
    *topology.root_port("rp3", "socket0"),
    *topology.card("t4", "rp3"),
    *topology.expander("socket1", 0x80, numa_node=1),
    *topology.root_port("rp4", "socket1"),
    *topology.card("connectx7", "rp4"),
    *topology.expander("socket2", 0xC0, numa_node=1),
    *topology.root_port("rp5", "socket2"),
    *topology.card("rtx", "rp5"),
]
# The charm's own readers; for each function its type, node and group, and all distances.
READ = """
import json
from pathlib import Path
from gpu.pci import PciId
from gpu.topology import distance
from host import pci_functions

ids = [PciId.parse(text) for text in
       ("10de:20b5", "10de:1eb8", "10de:2230", "15b3:1021", "15b3:101d", "15b3:101e")]
found = pci_functions.select(Path("/"), ids)
print(json.dumps({
    "functions": {str(f.address): [f.device_type, f.numa_node, f.iommu_group] for f in found},
    "distances": {str(a.address): {str(b.address): distance(a, b).name for b in found}
                  for a in found},
}))
"""
DEVICE_TYPES = {"virt_functions": "type-PF", "phys_function": "type-VF", None: "type-PCI"}


@pytest.fixture(scope="module")
def machine(boot, tmp_path_factory):
    with boot(CARDS, numa_nodes=2, libvirt=True, memory=1024) as booted:
        charm = juju.make_charm(tmp_path_factory.mktemp("charm") / "charm")
        booted.copy_in(charm, CHARM)
        booted.wait_until_running()
        yield booted


def read(machine) -> dict[str, Any]:
    path = f"PYTHONPATH={CHARM}/src:{CHARM}/lib:{CHARM}/venv"
    data: dict[str, Any] = json.loads(machine.run("env", path, "python3", "-c", READ).stdout)
    return data


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("dp1.0", "dp2.0", "PIX"),
        ("dp1.0", "dp4.0", "PXB"),
        ("dp1.0", "rp2.0", "PHB"),
        ("rp4.0", "rp5.0", "NODE"),
        ("rp3.0", "rp4.0", "SYS"),
        ("rp2.0", "rp4.0", "SYS"),
    ],
)
def test_distances_are_read_from_the_real_topology(machine, first, second, expected):
    distances = read(machine)["distances"]
    addresses = [machine.address_of(device) for device in (first, second)]
    assert distances[addresses[0]][addresses[1]] == expected
    assert distances[addresses[1]][addresses[0]] == expected


def test_libvirt_agrees_on_types_nodes_and_groups_with_and_without_virtual_functions(machine):
    """Nova takes them from libvirt's node devices."""
    nic = machine.address_of("dp2.0")
    for enabled in (0, 2):
        machine.write(f"/sys/bus/pci/devices/{nic}/sriov_numvfs", str(enabled))
        functions = read(machine)["functions"]
        assert sum(row[0] == "type-VF" for row in functions.values()) == enabled
        for address, row in functions.items():
            name = "pci_" + re.sub("[:.]", "_", address)
            machine.wait_until(lambda name=name: _node_device(machine, name) is not None)
            assert _node_device(machine, name) == tuple(row)


def _node_device(machine, name: str) -> tuple[str, int | None, str] | None:
    """Return Nova's device_type, the NUMA node and the IOMMU group that libvirt shows."""
    xml = machine.run("virsh", "nodedev-dumpxml", name, check=False).stdout
    if not xml:
        return None
    capability = re.search(r"<capability type='(virt_functions|phys_function)'", xml)
    node = re.search(r"<numa node='([0-9]+)'/>", xml)
    group = re.search(r"<iommuGroup number='([0-9]+)'", xml)
    return (
        DEVICE_TYPES[capability[1] if capability else None],
        int(node[1]) if node else None,
        group[1] if group else "",
    )
