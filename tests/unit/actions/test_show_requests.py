# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How guests request what a host offers: text that each consumer accepts as it is."""

from __future__ import annotations

import json
import re
import shlex

import jsonschema
import pytest
import yaml

MAPPING = "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}"
WHOLE_CARDS = "{t4: {devices: ['10de:1eb8'], numa-policy: required}, h200: ['af:00.0']}"
SIZE = "--vcpus ${VCPUS} --ram ${RAM_MIB} --disk ${DISK_GIB}"


@pytest.fixture
def unit(deploy):
    unit = deploy("whole-cards")
    unit.change(config={"vgpu-device-mappings": MAPPING, "passthrough-devices": WHOLE_CARDS})
    unit.hook("config_changed")
    return unit


def requests(unit, consumer="all"):
    return unit.action("show-requests", consumer=consumer)["output"]


def test_flavors_request_each_type_and_each_whole_card(unit):
    assert requests(unit, "openstack") == (
        "# Flavors\n"
        "\n"
        "# A100D-20C: vGPU type nvidia-696 (GRID A100D-20C); 4 on this host\n"
        f"openstack flavor create gpu.a100d-20c {SIZE}\n"
        "openstack flavor set gpu.a100d-20c --property resources:VGPU=1\n"
        "# With this Nova, a guest can have only one vGPU of this type.\n"
        "\n"
        "# L40S-8Q: vGPU type nvidia-1152 (NVIDIA L40S-8Q); 6 on this host\n"
        f"openstack flavor create gpu.l40s-8q {SIZE}\n"
        "openstack flavor set gpu.l40s-8q --property pci_passthrough:alias=L40S-8Q:1\n"
        "# Two for one guest:\n"
        f"openstack flavor create gpu.l40s-8q.x2 {SIZE}\n"
        "openstack flavor set gpu.l40s-8q.x2 --property pci_passthrough:alias=L40S-8Q:2\n"
        "\n"
        "# t4: whole card 10de:1eb8; 1 on this host\n"
        f"openstack flavor create gpu.t4 {SIZE}\n"
        "openstack flavor set gpu.t4 --property pci_passthrough:alias=t4:1 "
        "--property hw:numa_nodes=1\n"
        "\n"
        "# h200: whole card 10de:2335; 1 on this host\n"
        f"openstack flavor create gpu.h200 {SIZE}\n"
        "openstack flavor set gpu.h200 --property pci_passthrough:alias=h200:1\n"
        "# The memory of the card is too large for the default machine of an image:\n"
        "openstack image set ${IMAGE} --property hw_machine_type=q35 "
        "--property hw_firmware_type=uefi\n"
    )


def test_flavors_that_request_the_same_are_named(deploy):
    unit = deploy("mixed")
    unit.configure("{T4-8Q: ['10de:1eb8'], A40-8Q: ['10de:2235']}")
    note = (
        "# T4-8Q and A40-8Q are requested in the same way.\n"
        "# A guest may get any of them. To distinguish them, set resource-class.\n"
    )
    assert note in requests(unit, "openstack")
    unit.configure(
        "{T4-8Q: {devices: ['10de:1eb8'], resource-class: CUSTOM_T4}, A40-8Q: ['10de:2235']}"
    )
    assert "any of them" not in requests(unit, "openstack")


def test_models_of_one_alias_are_requested_in_the_same_way_on_purpose(unit):
    unit.change(config={"passthrough-devices": "{gpu: ['10de:20b5', '10de:26b9']}"})
    unit.hook("config_changed")
    assert "in the same way" not in requests(unit, "openstack")


def test_nova_without_resource_classes_is_not_given_that_advice(deploy):
    unit = deploy("mixed", nova="3:23.2.2-0ubuntu1")
    unit.configure("{T4-8Q: ['10de:1eb8'], V100-8Q: ['10de:1db4']}")
    text = requests(unit, "openstack")
    assert "# A guest may get any of them.\n" in text


def test_two_vgpus_of_mediated_devices_need_a_group_each(deploy):
    unit = deploy("t4-pair", nova="3:33.0.0-0ubuntu1")
    unit.configure("{T4-8Q: {devices: ['10de:1eb8'], resource-class: CUSTOM_T4_8Q}}")
    assert (
        "openstack flavor set gpu.t4-8q --property resources:CUSTOM_T4_8Q=1\n"
        "# Two for one guest:\n"
        f"openstack flavor create gpu.t4-8q.x2 {SIZE}\n"
        "openstack flavor set gpu.t4-8q.x2 --property resources1:CUSTOM_T4_8Q=1 "
        "--property resources2:CUSTOM_T4_8Q=1 --property group_policy=none\n"
    ) in requests(unit, "openstack")


def test_many_devices_need_more_pcie_ports(deploy):
    card = {"id": "10de:1eb8", "class": "030200", "driver": "nvidia", "types": "T4"}
    functions = [{**card, "address": f"0000:{bus}:00.0"} for bus in ("3b", "5e", "86", "af")]
    unit = deploy("t4-pair", functions=functions)
    unit.change(config={"passthrough-devices": "{t4: ['10de:1eb8']}"})
    unit.hook("config_changed")
    assert requests(unit, "openstack").endswith(
        "# A guest with many devices needs more PCIe ports, [libvirt] num_pcie_ports in "
        "nova.conf:\njuju config nova-compute num-pcie-ports=28\n"
    )


def test_flavors_and_objects_have_valid_names_of_their_own(deploy):
    """An alias may stand for two models, and names may differ only in case or end in a dot."""
    functions = [
        {"address": f"0000:{bus}:00.0", "id": pci_id, "class": "030200", "driver": "nvidia"}
        for bus, pci_id in (("3b", "10de:1eb8"), ("5e", "10de:1db4"), ("86", "10de:1b38"))
    ]
    unit = deploy("t4-pair", functions=functions, nova="3:31.0.0-0ubuntu1")
    passthrough = "{T4.x_: ['10de:1eb8', '10de:1db4'], t4.x: ['10de:1b38']}"
    unit.change(config={"passthrough-devices": passthrough})
    unit.hook("config_changed")
    flavors = re.findall("flavor create (\\S+)", requests(unit, "openstack"))
    assert flavors == [
        *("gpu.t4-x", "gpu.t4-x.x2"),
        *("gpu.t4-x-2", "gpu.t4-x-2.x2"),
        *("gpu.t4-x-3", "gpu.t4-x-3.x2"),
    ] or flavors == ["gpu.t4-x", "gpu.t4-x-2", "gpu.t4-x-3"]
    names = re.findall(r"name: \$\{CLUSTER_NAME\}-(\S+)", requests(unit, "capv"))
    assert names == ["gpu-t4-x", "gpu-t4-x-2", "gpu-t4-x-3"] * 2


def option_values(text):
    """Return the options that the commands set, as a shell would pass them to Juju."""
    lines = [line for line in text.splitlines() if line.startswith("juju config ")]
    return dict(shlex.split(line)[3].split("=", 1) for line in lines)


def test_settings_of_the_controllers_are_complete_values(unit):
    values = option_values(requests(unit, "controllers"))
    assert json.loads(values["pci-alias"]) == [
        json.loads(value) for name, value in unit.sections["pci"] if name == "alias"
    ]
    assert values["scheduler-default-filters"] == (
        "ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,"
        "ServerGroupAntiAffinityFilter,ServerGroupAffinityFilter,DifferentHostFilter,"
        "SameHostFilter,PciPassthroughFilter,NUMATopologyFilter"
    )
    assert "pci_in_placement" not in requests(unit, "controllers")


@pytest.mark.parametrize(
    ("nova", "first"),
    [
        ("3:21.2.4-0ubuntu2", "RetryFilter,AvailabilityZoneFilter,ComputeFilter"),
        ("3:25.2.1-0ubuntu2.7", "AvailabilityZoneFilter,ComputeFilter"),
        ("3:28.0.0-0ubuntu1", "ComputeFilter,ComputeCapabilitiesFilter"),
    ],
)
def test_default_filters_are_those_of_the_release(deploy, nova, first):
    unit = deploy("t4-pair", nova=nova)
    unit.change(config={"passthrough-devices": "{t4: ['84:00.0']}"})
    unit.hook("config_changed")
    values = option_values(requests(unit, "controllers"))
    assert values["scheduler-default-filters"].startswith(first)


def test_placement_needs_a_file_on_the_controllers(unit):
    unit.change(config={"passthrough-devices": WHOLE_CARDS, "report-in-placement": True})
    unit.hook("config_changed")
    command = requests(unit, "controllers").splitlines()[-1]
    *_, script = shlex.split(command)
    assert command.startswith("juju exec --application nova-cloud-controller -- ")
    assert 'printf "[filter_scheduler]\\npci_in_placement = true\\n"' in script
    assert ">/etc/nova/nova.conf.d/pci-in-placement.conf" in script


def test_numa_filter_is_only_needed_with_a_policy(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure("{L40S-8Q: ['10de:26b9']}")
    filters = option_values(requests(unit, "controllers"))["scheduler-default-filters"]
    assert filters.endswith("SameHostFilter,PciPassthroughFilter")


def test_mediated_devices_alone_need_nothing_on_the_controllers(deploy):
    unit = deploy("t4-pair")
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    assert requests(unit, "controllers") == (
        "# Settings of nova-cloud-controller\n"
        "# None is needed: the scheduler finds mediated devices in placement.\n"
    )


# Cluster API. The schemas have the fields that are used here, with the types and requirements of
# the providers' own: config/crd/bases in kubernetes-sigs/cluster-api-provider-openstack, and
# config/default/crd/bases in kubernetes-sigs/cluster-api-provider-vsphere.

NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 253}
TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}


def closed(required, **properties):
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def template_schema(kind, version, spec):
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": f"infrastructure.cluster.x-k8s.io/{version}"},
        kind={"const": kind},
        metadata=closed("name", name=NAME, namespace=NAME),
        spec=closed("template", template=closed("spec", spec=spec)),
    )


FILTER = closed("filter", filter=closed("name", name=TEXT))
OPENSTACK = {
    "v1beta1": closed("image", flavor=TEXT, image=FILTER),
    "v1beta2": closed("flavor image", flavor=FILTER, image=FILTER),
}
# vGPUProfile and the IDs exclude each other: by the comments of the fields, in no rule of the CRD.
PCI_DEVICE = {
    "oneOf": [
        closed("vGPUProfile", vGPUProfile={**TEXT, "maxLength": 1024}),
        closed("deviceId vendorId", deviceId=NUMBER, vendorId=NUMBER),
    ]
}
VSPHERE = closed(
    "network template",
    template=TEXT,
    server=TEXT,
    datacenter=TEXT,
    datastore=TEXT,
    folder=TEXT,
    resourcePool=TEXT,
    numCPUs=NUMBER,
    memoryMiB=NUMBER,
    diskGiB=NUMBER,
    network=closed(
        "devices",
        devices={
            "type": "array",
            "items": closed("networkName", networkName=TEXT, dhcp4={"type": "boolean"}),
        },
    ),
    pciDevices={"type": "array", "minItems": 1, "maxItems": 128, "items": PCI_DEVICE},
)
SCHEMAS = {
    "capo": {
        version: template_schema("OpenStackMachineTemplate", version, spec)
        for version, spec in OPENSTACK.items()
    },
    "capv": {
        version: template_schema("VSphereMachineTemplate", version, VSPHERE)
        for version in ("v1beta1", "v1beta2")
    },
}


def documents(text):
    """Return the YAML documents with values for their variables."""
    numbers = re.sub(r"\$\{(?:NUM_CPUS|MEMORY_MIB|DISK_GIB)\}", "8", text)
    return list(yaml.safe_load_all(re.sub(r"\$\{([A-Z_]+)\}", "value", numbers)))


@pytest.mark.parametrize("consumer", ["capo", "capv"])
def test_cluster_api_accepts_each_machine_template_in_both_versions(unit, consumer):
    found = documents(requests(unit, consumer))
    versions = [document["apiVersion"].rsplit("/", 1)[1] for document in found]
    assert versions == ["v1beta1"] * 4 + ["v1beta2"] * 4
    for document, version in zip(found, versions):
        jsonschema.validate(document, SCHEMAS[consumer][version])


def test_machines_of_openstack_get_the_flavors_that_the_commands_create(unit):
    found = documents(requests(unit, "capo"))
    flavors = [document["spec"]["template"]["spec"]["flavor"] for document in found]
    names = ["gpu.a100d-20c", "gpu.l40s-8q", "gpu.t4", "gpu.h200"]
    assert flavors == [*names, *({"filter": {"name": name}} for name in names)]
    assert all(f"openstack flavor create {name} " in requests(unit) for name in names)


def test_machines_of_vsphere_get_a_profile_or_decimal_ids_and_never_both(unit):
    found = documents(requests(unit, "capv"))
    devices = [document["spec"]["template"]["spec"]["pciDevices"] for document in found]
    assert devices[:4] == [
        [{"vGPUProfile": "grid_a100d-20c"}],
        [{"vGPUProfile": "grid_l40s-8q"}],
        [{"deviceId": 7864, "vendorId": 4318}],
        [{"deviceId": 9013, "vendorId": 4318}],
    ]
    assert devices[4:] == devices[:4]


def test_pod_requests_one_gpu_and_adds_vectors(unit):
    (pod,) = documents(requests(unit, "pod"))
    (container,) = pod["spec"]["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert "vectoradd" in container["image"]
    assert pod["spec"]["restartPolicy"] == "OnFailure"


def test_all_consumers_are_shown_in_the_order_in_which_they_are_used(unit):
    text = requests(unit)
    headings = [line for line in text.splitlines() if line in HEADINGS]
    assert headings == HEADINGS


HEADINGS = [
    "# Settings of nova-cloud-controller",
    "# Flavors",
    "# Cluster API Provider OpenStack: machines with the flavors of gpu.*",
    "# Cluster API Provider vSphere: machines with the same cards on ESXi hosts",
    "# A pod that adds vectors on one GPU; its log ends with `Test PASSED`",
]


@pytest.mark.parametrize("consumer", ["controllers", "openstack", "capo", "capv"])
def test_host_that_offers_nothing_says_so(deploy, consumer):
    assert requests(deploy("no-gpu"), consumer).endswith(
        "# This host offers nothing to guests now; see the action show-plan\n"
    )


def test_vgpus_that_stay_as_they_are_published_are_not_listed(unit):
    unit.change(config={"vgpu-device-mappings": "nonsense", "passthrough-devices": WHOLE_CARDS})
    unit.hook("config_changed")
    text = requests(unit, "openstack")
    assert text.startswith("# vGPUs are not listed, because something is wrong or pending;")
    assert "gpu.t4 " in text
    assert "gpu.l40s-8q" not in text
