# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What each Nova release reads from the nova.conf that the principal writes for the charm."""

from __future__ import annotations

import json

import pytest
from bed import principal

from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import ProviderData
from gpu.card import Framework
from gpu.pci import PciAddress, PciId
from nova_compute import nova_conf
from nova_compute.release import NovaVersion
from planning import mappings, plan

PLAIN = "{nvidia-35: ['0000:84:00.0', '85:00.0'], nvidia-36: [0000:86:00.0]}"
LONG_FORM = (
    "{nvidia-233: {devices: ['0000:84:00.0'], max-instances: 2, resource-class: CUSTOM_T4_8Q}}"
)
TYPES = ["nvidia-35", "nvidia-36"]
ADDRESSES = {"nvidia-35": ["0000:84:00.0", "0000:85:00.0"], "nvidia-36": ["0000:86:00.0"]}


def render(assignments, nova: NovaVersion) -> str:
    """Pass assignments over the relation and render the principal's nova.conf."""
    data = ProviderData(sections=nova_conf.render(assignments, nova))
    return principal.render(principal.read(data.to_databag())[0])


def assignments_for(text: str):
    return plan.make_plan(mappings.requests(mappings.OPTION.parse(text)), ()).assignments


@pytest.mark.parametrize("major", principal.RELEASES)
def test_each_release_reads_the_plain_form_as_published(major):
    nova = NovaVersion(major)
    reads = principal.nova_reads(render(assignments_for(PLAIN), nova), major)
    prefix = "mdev" if major >= 24 else "vgpu"
    assert reads["devices"] == {f"enabled_{prefix}_types": TYPES}
    for type_id, addresses in ADDRESSES.items():
        section = reads.get(f"{prefix}_{type_id}")
        assert (section or {}).get("device_addresses") == (addresses if major >= 21 else None)


@pytest.mark.parametrize("major", [23, 24])
def test_wallaby_ignores_the_option_names_of_xena_and_xena_reads_both(major):
    """Wallaby ignores the new names without a message."""
    other = NovaVersion(24 if major == 23 else 23)
    reads = principal.nova_reads(render(assignments_for(PLAIN), other), major)
    expected = {23: {"enabled_vgpu_types": []}, 24: {"enabled_mdev_types": TYPES}}
    assert reads["devices"] == expected[major]


@pytest.mark.parametrize("major", [29, 34])
def test_the_long_form_sets_max_instances_and_the_resource_class(major):
    request = mappings.requests(mappings.OPTION.parse(LONG_FORM))[0]
    assignment = plan.Assignment(
        type_id=request.vgpu_type,
        addresses=request.devices,
        max_instances=request.max_instances,
        resource_class=request.resource_class,
    )
    reads = principal.nova_reads(render([assignment], NovaVersion(major)), major)
    assert reads["mdev_nvidia-233"] == {
        "device_addresses": ["0000:84:00.0"],
        "max_instances": 2,
        "mdev_class": "CUSTOM_T4_8Q",
    }


def test_nova_adds_the_published_pci_section_to_the_principals_own():
    """The principal writes its own [pci] section first, and Nova combines the two."""
    assignment = plan.Assignment(
        type_id="nvidia-1155",
        addresses=(PciAddress.parse("3d:00.4"), PciAddress.parse("3d:00.5")),
        name="NVIDIA L40S-24Q",
        framework=Framework.VENDOR_VFIO,
        function_id=PciId.parse("10de:26b9"),
    )
    text = render([assignment], NovaVersion(34))
    text = text.replace("[pci]\n", '[pci]\npassthrough_whitelist = {"vendor_id": "8086"}\n', 1)
    reads = principal.nova_reads_pci(text, 34)
    assert [json.loads(spec) for spec in reads["device_spec"]] == [
        {"vendor_id": "8086"},
        {"address": "0000:3d:00.4", "managed": "no"},
        {"address": "0000:3d:00.5", "managed": "no"},
    ]
    assert [json.loads(alias) for alias in reads["alias"]] == [
        {
            "name": "L40S-24Q",
            "device_type": "type-VF",
            "vendor_id": "10de",
            "product_id": "26b9",
        }
    ]
    assert reads["report_in_placement"] is False


def test_without_types_the_sections_of_other_subordinates_are_kept():
    """In the principal, sections that are not empty replace those of ceilometer."""
    databag = ProviderData(sections=nova_conf.render([], NovaVersion(29))).to_databag()
    assert principal.read(databag) == ({}, set())
