# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Servers with mediated devices: on the card, and on its virtual functions."""

from __future__ import annotations

import pytest

VGPU = {"resources:VGPU": "1"}
NO_ROOM = "No valid host was found."
T4, OTHER_T4 = "0000:84:00.0", "0000:d8:00.0"
A100_FUNCTIONS = [f"0000:41:{number // 8:02x}.{number % 8}" for number in range(4, 20)]


@pytest.fixture
def _max_instances(nova):
    if not nova.supports_max_instances:
        pytest.skip("Nova 29 brought max_instances")


def inventories(resource: str, total: int, *addresses: str) -> dict[str, dict[str, int]]:
    """Return what placement is to have of parents that are alike, by libvirt's names of them."""
    names = ("pci_" + address.replace(":", "_").replace(".", "_") for address in addresses)
    return {name: {resource: total} for name in names}


def test_cards_by_their_pci_id_offer_what_they_hold_and_no_more(deploy, start):
    cloud = start(deploy("t4-pair", "{T4-8Q: ['10de:1eb8']}"))
    assert cloud.inventories() == inventories("VGPU", 2, T4, OTHER_T4)
    assert cloud.boot(4, **VGPU) == [
        (T4, "nvidia-233", "no"),
        (T4, "nvidia-233", "no"),
        (OTHER_T4, "nvidia-233", "no"),
        (OTHER_T4, "nvidia-233", "no"),
    ]
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)
    cloud.update_available_resource()
    assert cloud.inventories() == inventories("VGPU", 2, T4, OTHER_T4)


def test_two_types_keep_to_their_cards_and_classes(deploy, start):
    """Nova knows addresses in lower case only."""
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
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)
    assert cloud.boot(**{"resources:CUSTOM_T4_4Q": "1"}) == [(OTHER_T4, "nvidia-232", "no")]


def test_a_card_that_is_not_named_is_left_alone(deploy, start, nova):
    """Before 29 a single type takes every card, and the status says so."""
    deployed = deploy("t4-pair", "{nvidia-233: ['0000:84:00.0', '0000:99:00.0']}")
    taken = [T4] if nova.major >= 29 else [T4, OTHER_T4]
    assert start(deployed).inventories() == inventories("VGPU", 2, *taken)
    remark = ""
    if len(taken) == 2:
        remark = f"; Nova {nova} offers nvidia-233 on every GPU that has it, named or not"
    assert deployed.message == f"Unit is ready: 2 NVIDIA GPUs, 1 vGPU type{remark}"


@pytest.mark.usefixtures("_max_instances")
def test_max_instances_of_one_card_leaves_the_other_out(deploy, start):
    mapping = "{T4-8Q: {devices: ['10de:1eb8'], max-instances: 2}}"
    cloud = start(deploy("t4-pair", mapping))
    assert cloud.inventories() == inventories("VGPU", 2, T4)
    assert cloud.boot(2, **VGPU) == [(T4, "nvidia-233", "no"), (T4, "nvidia-233", "no")]
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)


@pytest.mark.usefixtures("_max_instances")
def test_functions_that_the_charm_enabled_hold_one_each(deploy, start):
    mapping = "{A100-20C: {devices: ['10de:20f1'], max-instances: 2}}"
    cloud = start(deploy("a100-sriov-off", mapping))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])
    devices = [(function, "nvidia-472", "no") for function in A100_FUNCTIONS[:2]]
    assert cloud.boot(2, **VGPU) == devices
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)
    cloud.update_available_resource()
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])


@pytest.mark.usefixtures("_max_instances")
def test_a_card_with_more_functions_than_vgpus_offers_what_it_holds(deploy, start):
    cloud = start(deploy("a100-sriov-off", "{A100-20C: ['10de:20f1']}"))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:2])
    devices = [(function, "nvidia-472", "no") for function in A100_FUNCTIONS[:2]]
    assert cloud.boot(2, **VGPU) == devices
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)


@pytest.mark.usefixtures("_max_instances")
def test_a_mig_backed_type_by_name_is_offered_once_for_each_gpu_instance(deploy, start):
    cloud = start(deploy("a100-sriov-off", "{A100-1-5C: ['10de:20f1']}"))
    assert cloud.inventories() == inventories("VGPU", 1, *A100_FUNCTIONS[:7])
    assert {device.type_id for device in cloud.boot(7, **VGPU)} == {"nvidia-474"}
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)


def test_a_mixed_host_offers_each_card_in_its_own_way(deploy, start):
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


def test_what_was_withdrawn_is_no_longer_offered(deploy, start):
    deployed = deploy("t4-pair", "{T4-8Q: ['10de:1eb8']}")
    deployed.configure("")
    cloud = start(deployed)
    assert cloud.inventories() == {}
    assert cloud.refuse(**VGPU).startswith(NO_ROOM)
