# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Servers with mediated devices, on a card or on its virtual functions."""

from __future__ import annotations

import pytest

VGPU = {"resources:VGPU": "1"}
NO_VALID_HOST = "No valid host was found."
T4, OTHER_T4 = "0000:84:00.0", "0000:d8:00.0"
A100_FUNCTIONS = [f"0000:41:{number // 8:02x}.{number % 8}" for number in range(4, 20)]


@pytest.fixture
def _max_instances(nova):
    if not nova.supports_max_instances:
        pytest.skip("max_instances needs Nova 29")


def inventories(resource: str, total: int, *addresses: str) -> dict[str, dict[str, int]]:
    """Return the expected inventories of parents with the same total, by libvirt's names."""
    names = ("pci_" + address.replace(":", "_").replace(".", "_") for address in addresses)
    return {name: {resource: total} for name in names}


def test_cards_mapped_by_pci_id_offer_as_many_vgpus_as_fit(deploy, start):
    cloud = start(deploy("t4-pair", "{T4-8Q: ['10de:1eb8']}"))
    assert cloud.inventories() == inventories("VGPU", 2, T4, OTHER_T4)
    assert cloud.boot(4, **VGPU) == [
        (T4, "nvidia-233", "no"),
        (T4, "nvidia-233", "no"),
        (OTHER_T4, "nvidia-233", "no"),
        (OTHER_T4, "nvidia-233", "no"),
    ]
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
    cloud.update_available_resource()
    assert cloud.inventories() == inventories("VGPU", 2, T4, OTHER_T4)


def test_each_of_two_types_has_its_own_card_and_resource_class(deploy, start):
    """Nova accepts addresses only in lower case."""
    mapping = """
    T4-16Q: ['84:00.0']
    T4-4Q: {devices: ['0000:D8:00.0'], resource-class: CUSTOM_T4_4Q}
    """
    cloud = start(deploy("t4-pair", mapping))
    assert cloud.inventories() == {
        **inventories("VGPU", 1, T4),
        **inventories("CUSTOM_T4_4Q", 4, OTHER_T4),
    }
    assert cloud.boot(**VGPU) == [(T4, "nvidia-234", "no")]
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
    assert cloud.boot(**{"resources:CUSTOM_T4_4Q": "1"}) == [(OTHER_T4, "nvidia-232", "no")]


def test_a_card_that_is_not_mapped_is_not_offered(deploy, start, nova):
    """Before 29, Nova offers a single type on every card, and the status reports that."""
    deployed = deploy("t4-pair", "{nvidia-233: ['0000:84:00.0', '0000:99:00.0']}")
    offered = [T4] if nova.major >= 29 else [T4, OTHER_T4]
    assert start(deployed).inventories() == inventories("VGPU", 2, *offered)
    note = ""
    if len(offered) == 2:
        note = f"; Nova {nova} offers nvidia-233 on every card that supports it, mapped or not"
    assert deployed.message == f"Unit is ready: 2 NVIDIA GPUs, 1 vGPU type{note}"


@pytest.mark.usefixtures("_max_instances")
def test_max_instances_that_one_card_satisfies_leaves_the_other_unused(deploy, start):
    mapping = "{T4-8Q: {devices: ['10de:1eb8'], max-instances: 2}}"
    cloud = start(deploy("t4-pair", mapping))
    assert cloud.inventories() == inventories("VGPU", 2, T4)
    assert cloud.boot(2, **VGPU) == [(T4, "nvidia-233", "no"), (T4, "nvidia-233", "no")]
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)


@pytest.mark.usefixtures("_max_instances")
def test_each_function_that_the_charm_enabled_offers_one_vgpu(deploy, start):
    mapping = "{A100-20C: {devices: ['10de:20f1'], max-instances: 2}}"
    cloud = start(deploy("a100-sriov-off", mapping))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])
    devices = [(function, "nvidia-472", "no") for function in A100_FUNCTIONS[:2]]
    assert cloud.boot(2, **VGPU) == devices
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
    cloud.update_available_resource()
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])


@pytest.mark.usefixtures("_max_instances")
def test_a_card_with_more_functions_than_vgpus_offers_as_many_as_fit(deploy, start):
    cloud = start(deploy("a100-sriov-off", "{A100-20C: ['10de:20f1']}"))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])
    devices = [(function, "nvidia-472", "no") for function in A100_FUNCTIONS[:2]]
    assert cloud.boot(2, **VGPU) == devices
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)


@pytest.mark.usefixtures("_max_instances")
def test_a_mig_backed_type_is_offered_once_per_gpu_instance(deploy, start):
    cloud = start(deploy("a100-sriov-off", "{A100-1-5C: ['10de:20f1']}"))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:7])
    assert {device.type_id for device in cloud.boot(7, **VGPU)} == {"nvidia-474"}
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)


def test_a_mixed_host_offers_each_card_with_its_own_type(deploy, start):
    mapping = """
    T4-16Q: ['10de:1eb8']
    A40-24Q: ['41:00.4', '41:00.6']
    V100-16Q: ['c1:00.0']
    """
    cloud = start(deploy("mixed", mapping))
    devices = [
        ("0000:3b:00.0", "nvidia-234", "no"),
        ("0000:41:00.4", "nvidia-565", "no"),
        ("0000:41:00.6", "nvidia-565", "no"),
        ("0000:c1:00.0", "nvidia-109", "no"),
    ]
    assert cloud.inventories() == inventories("VGPU", 1, *(address for address, *_ in devices))
    assert cloud.boot(4, **VGPU) == devices


def test_withdrawn_types_are_no_longer_offered(deploy, start):
    deployed = deploy("t4-pair", "{T4-8Q: ['10de:1eb8']}")
    deployed.configure("")
    cloud = start(deployed)
    assert cloud.inventories() == {}
    assert cloud.refuse(**VGPU).startswith(NO_VALID_HOST)
