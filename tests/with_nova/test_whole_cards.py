# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Servers with whole cards, and with a card and a network function of one NUMA node."""

from __future__ import annotations

import json

import pytest

import recorded

T4, H200, NIC = "0000:3b:00.0", "0000:af:00.0", "0000:b1:00.0"
NO_VALID_HOST = "No valid host was found."
CARDS = "{t4: ['10de:1eb8'], h200: ['af:00.0']}"
GPUDIRECT = (
    "{gpu: {devices: ['10de:2335'], nics: ['15b3:1021'], numa-policy: required}, "
    "t4: {devices: ['3b:00.0'], numa-policy: required}}"
)
OPERATORS_ALIAS = json.dumps({"name": "operator", "vendor_id": "8086", "product_id": "154d"})


@pytest.fixture
def managed(nova):
    """What libvirt is to do: Nova before 31 always asks it to manage the driver."""
    return "no" if nova.supports_managed else "yes"


def alias(*names: str, **others: str) -> dict[str, str]:
    return {"pci_passthrough:alias": ",".join(f"{name}:1" for name in names), **others}


@pytest.fixture
def host(deploy):
    """Deploys a unit whose operator has set an alias on nova-compute too."""

    def deploy_unit(passthrough: str, **options: bool):
        options["passthrough-devices"] = passthrough
        deployed = deploy(recorded.host("whole-cards"), "", **options)
        deployed.pci = [("alias", OPERATORS_ALIAS)]
        return deployed

    return deploy_unit


@pytest.mark.parametrize("passthrough", [CARDS, GPUDIRECT])
def test_nova_compute_starts_with_its_own_file_alone(host, start_check, passthrough):
    start_check(host(passthrough))


@pytest.mark.parametrize(("name", "address"), [("t4", T4), ("h200", H200)])
def test_a_server_gets_a_whole_card_by_its_alias(host, start, managed, name, address):
    """The T4 is type-PCI for Nova, and the H200 with its SR-IOV capability type-PF."""
    cloud = start(host(CARDS))
    assert cloud.pci_devices() == [T4, H200]
    assert cloud.boot(**alias(name)) == [(address, "", managed)]
    assert cloud.refuse(**alias(name)).startswith(NO_VALID_HOST)


def test_a_server_gets_two_different_cards(host, start, managed):
    cloud = start(host(CARDS))
    assert cloud.boot(**alias("t4", "h200")) == [(T4, "", managed), (H200, "", managed)]


def test_card_and_network_function_come_from_one_numa_node(host, start, managed):
    cloud = start(host(GPUDIRECT))
    one_node = {"hw:numa_nodes": "1"}
    assert cloud.refuse(**alias("t4", "gpu-nic", **one_node))
    assert cloud.boot(**alias("gpu", "gpu-nic", **one_node)) == [
        (H200, "", managed),
        (NIC, "", managed),
    ]


def test_without_a_numa_topology_nova_ignores_the_policy(host, start, managed):
    """Which is why show-requests prints hw:numa_nodes=1."""
    cloud = start(host(GPUDIRECT))
    assert cloud.boot(**alias("t4", "gpu-nic")) == [(T4, "", managed), (NIC, "", managed)]


def test_placement_lists_each_card_in_the_class_of_its_name(host, start, nova):
    if not nova.supports_alias_class:
        pytest.skip("the class of an alias needs Nova 27")
    cloud = start(host(CARDS, **{"report-in-placement": True}), pci_in_placement=True)
    assert cloud.inventories() == {T4.upper(): {"CUSTOM_T4": 1}, H200.upper(): {"CUSTOM_H200": 1}}
    assert cloud.boot(**alias("h200"))[0].address == H200
    assert cloud.refuse(**alias("h200")).startswith(NO_VALID_HOST)
