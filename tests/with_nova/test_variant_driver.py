# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Servers with virtual functions that have a type: vendor-specific VFIO, since Nova 31."""

from __future__ import annotations

import pytest

import recorded

VGPU = {"pci_passthrough:alias": "L40S-16Q:1"}
NO_VALID_HOST = "No valid host was found."
PLACEMENT = {"report-in-placement": True}
PROVIDER = "0000:3D:00.0"  # Nova writes it in upper case
FUNCTIONS = [f"0000:3d:00.{number}" for number in (4, 5, 6)]
DEVICES = [(function, "nvidia-1154", "no") for function in FUNCTIONS]


@pytest.fixture(autouse=True)
def _variant_driver(nova):
    if not nova.supports_variant_driver:
        pytest.skip("the kernel variant driver needs Nova 31")


@pytest.fixture
def l40s(deploy):
    """Deploys a unit on a host with an L40S after a boot: none of its 32 functions is enabled."""

    def deploy_unit(mapping: str, **options: bool):
        return deploy(recorded.without_functions("l40s-vendor-vfio"), mapping, **options)

    return deploy_unit


@pytest.mark.parametrize(
    "options",
    [{}, {"live-migratable": True}, PLACEMENT, {**PLACEMENT, "live-migratable": True}],
    ids=["default", "live migration", "placement", "placement and live migration"],
)
def test_nova_compute_starts_with_its_own_file_alone(l40s, start_check, options):
    """The controllers have pci_in_placement, but the file of the compute node has not."""
    start_check(l40s("{L40S-16Q: ['10de:26b9']}", **options))


def test_servers_get_only_the_functions_that_have_the_type(l40s, start):
    cloud = start(l40s("{L40S-16Q: ['10de:26b9']}"))
    assert cloud.pci_devices() == FUNCTIONS
    assert cloud.inventories() == {}
    assert cloud.boot(3, **VGPU) == DEVICES
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)


def test_placement_lists_as_many_vgpus_as_fit_on_the_card(l40s, start):
    cloud = start(l40s("{L40S-16Q: ['10de:26b9']}", **PLACEMENT), pci_in_placement=True)
    assert cloud.inventories() == {PROVIDER: {"CUSTOM_L40S_16Q": 3}}
    assert cloud.boot(3, **VGPU) == DEVICES
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
    cloud.update_available_resource()
    assert cloud.inventories() == {PROVIDER: {"CUSTOM_L40S_16Q": 3}}


def test_placement_lists_max_instances_in_the_requested_resource_class(l40s, start):
    mapping = "{L40S-16Q: {devices: ['3d:00.0'], max-instances: 2, resource-class: CUSTOM_FEW}}"
    cloud = start(l40s(mapping, **PLACEMENT), pci_in_placement=True)
    assert cloud.inventories() == {PROVIDER: {"CUSTOM_FEW": 2}}
    assert cloud.boot(2, **VGPU) == DEVICES[:2]
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)


def test_one_server_gets_a_mediated_device_and_a_function(deploy, start):
    t4, l40s = recorded.host("t4-pair"), recorded.without_functions("l40s-vendor-vfio")
    host = {**l40s, "functions": [*t4["functions"], *l40s["functions"]]}
    mapping = "{T4-16Q: ['84:00.0'], L40S-16Q: ['10de:26b9']}"
    cloud = start(deploy(host, mapping, **PLACEMENT), pci_in_placement=True)
    assert cloud.inventories() == {
        "pci_0000_84_00_0": {"VGPU": 1},
        PROVIDER: {"CUSTOM_L40S_16Q": 3},
    }
    both = {"resources:VGPU": "1", **VGPU}
    function, card = cloud.boot(**both)
    assert function in DEVICES
    assert card == ("0000:84:00.0", "nvidia-234", "no")
    assert cloud.refuse(**both).startswith(NO_VALID_HOST)


@pytest.mark.parametrize("options", [{}, PLACEMENT], ids=["without placement", "placement"])
def test_withdrawn_types_are_no_longer_offered(l40s, start, options):
    deployed = l40s("{L40S-16Q: ['10de:26b9']}", **options)
    alias = dict(deployed.sections["pci"])["alias"]
    deployed.configure("")
    cloud = start(deployed, pci_in_placement=bool(options), alias=alias)
    assert cloud.pci_devices() == []
    assert cloud.inventories() == {}
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
