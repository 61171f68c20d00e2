# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The result of the action show-requests: text to paste, for each consumer; pure.

Names in ${BRACES} are for the operator to replace, as `envsubst` and `clusterctl` do.
"""

from __future__ import annotations

import json
import shlex
from functools import partial
from typing import Callable, Iterator, Mapping, Sequence

from actions.offers import Offer, offers, scheduler_filters
from nova_compute.nova_conf import REPORT_IN_PLACEMENT
from status.assessment import Assessment

__all__ = ["CONSUMERS", "requests_text"]

_API = "infrastructure.cluster.x-k8s.io"
# https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/getting-started.html
_VECTOR_ADD = "nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0-ubuntu22.04"
_KEPT = "# vGPUs are not listed, because something is wrong or pending; see the action show-plan\n"
# A guest has a few PCIe ports beside those of its disks and interfaces.
_MANY_DEVICES = 4
_PCIE_PORTS = """\
# A guest with many devices needs more PCIe ports, [libvirt] num_pcie_ports in nova.conf:
juju config nova-compute num-pcie-ports=28
"""
_NONE = "# This host offers nothing to guests now; see the action show-plan\n"


def requests_text(assessment: Assessment, consumer: str) -> str:
    """Return how guests request what a host offers now.

    Args:
        assessment: the state of the host.
        consumer: one of `CONSUMERS`, or `all`.

    Raises:
        KeyError: there is no such consumer.
    """
    names = CONSUMERS if consumer == "all" else (consumer,)
    text = "\n".join(CONSUMERS[name](assessment) for name in names)
    return f"{_KEPT}\n{text}" if assessment.plan.keeps_published else text


# OpenStack


def _openstack(assessment: Assessment) -> str:
    found = offers(assessment)
    nova = assessment.facts.nova
    has_classes = nova is not None and nova.supports_mdev_class
    blocks = [*_shared_requests(found, has_classes=has_classes), *map(_flavor_commands, found)]
    if sum(len(offer.addresses) for offer in assessment.whole_cards.offers) >= _MANY_DEVICES:
        blocks.append(_PCIE_PORTS)
    return "\n".join(["# Flavors\n", *(blocks or [_NONE])])


def _shared_requests(found: Sequence[Offer], *, has_classes: bool) -> Iterator[str]:
    """Return which types are requested in the same way; models of one alias are so on purpose."""
    by_properties: dict[tuple[str, ...], list[str]] = {}
    for offer in (offer for offer in found if not offer.whole_card_ids):
        by_properties.setdefault(offer.properties, []).append(offer.name)
    for names in by_properties.values():
        if len(names) > 1:
            advice = " To distinguish them, set resource-class." if has_classes else ""
            yield (
                f"# {' and '.join(names)} are requested in the same way.\n"
                f"# A guest may get any of them.{advice}\n"
            )


def _flavor_commands(offer: Offer) -> str:
    count = "" if offer.available is None else f"; {offer.available} on this host"
    lines = [f"# {offer.name}: {offer.title}{count}"]
    lines += _flavor(f"gpu.{offer.slug}", offer.properties)
    if offer.needs_uefi:
        lines += [
            "# The memory of the card is too large for the default machine of an image:",
            "openstack image set ${IMAGE} --property hw_machine_type=q35 "
            "--property hw_firmware_type=uefi",
        ]
    if not offer.two_properties:
        lines.append("# With this Nova, a guest can have only one vGPU of this type.")
    elif offer.available is None or offer.available > 1:
        lines.append("# Two for one guest:")
        lines += _flavor(f"gpu.{offer.slug}.x2", offer.two_properties)
    return "\n".join(lines) + "\n"


def _flavor(name: str, properties: Sequence[str]) -> list[str]:
    arguments = " ".join(f"--property {shlex.quote(item)}" for item in properties)
    size = "--vcpus ${VCPUS} --ram ${RAM_MIB} --disk ${DISK_GIB}"
    return [f"openstack flavor create {name} {size}", f"openstack flavor set {name} {arguments}"]


# nova-cloud-controller


def _controllers(assessment: Assessment) -> str:
    pairs = assessment.sections.get("pci", ())
    aliases = [value for name, value in pairs if name == "alias"]
    heading, nova = "# Settings of nova-cloud-controller\n", assessment.facts.nova
    if not offers(assessment):
        return heading + _NONE
    if not aliases or nova is None:
        return f"{heading}# None is needed: the scheduler finds mediated devices in placement.\n"
    filters = scheduler_filters(aliases)
    lines = [
        "# The aliases of this host; add those of other hosts and your own.",
        _juju_config("pci-alias", json.dumps([json.loads(text) for text in aliases])),
        f"# The default filters of this release, and {', '.join(filters)}; add your own.",
        _juju_config(
            "scheduler-default-filters", ",".join((*nova.default_scheduler_filters, *filters))
        ),
    ]
    if REPORT_IN_PLACEMENT in pairs:
        lines += [
            "# The charm has no option for this one: create a file on each unit.",
            "juju exec --application nova-cloud-controller -- 'mkdir -p /etc/nova/nova.conf.d && "
            'printf "[filter_scheduler]\\npci_in_placement = true\\n" '
            ">/etc/nova/nova.conf.d/pci-in-placement.conf && "
            "systemctl restart nova-scheduler nova-conductor apache2'",
        ]
    return heading + "\n".join(lines) + "\n"


def _juju_config(option: str, value: str) -> str:
    return f"juju config nova-cloud-controller {option}={shlex.quote(value)}"


# Cluster API


def _capo(assessment: Assessment) -> str:
    flavors = {
        "v1beta1": "      flavor: {}\n",
        "v1beta2": "      flavor:\n        filter:\n          name: {}\n",
    }
    return _documents(
        "Cluster API Provider OpenStack: machines with the flavors of gpu.*",
        assessment,
        {version: partial(_openstack_machine, version, text) for version, text in flavors.items()},
    )


def _openstack_machine(version: str, flavor: str, offer: Offer) -> str:
    return (
        _machine_template("OpenStackMachineTemplate", version, offer)
        + flavor.format(f"gpu.{offer.slug}")
        + "      image:\n        filter:\n          name: ${OPENSTACK_IMAGE_NAME}\n"
    )


def _capv(assessment: Assessment) -> str:
    versions = ("v1beta1", "v1beta2")
    return _documents(
        "Cluster API Provider vSphere: machines with the same cards on ESXi hosts",
        assessment,
        {version: partial(_vsphere_machine, version) for version in versions},
    )


def _vsphere_machine(version: str, offer: Offer) -> str:
    devices = "".join(
        f"      - deviceId: {pci_id.device}\n        vendorId: {pci_id.vendor}\n"
        for pci_id in offer.whole_card_ids
    )
    profile = f"      - vGPUProfile: grid_{offer.name.lower()}\n"
    return (
        _machine_template("VSphereMachineTemplate", version, offer)
        + "      template: ${VSPHERE_TEMPLATE}\n"
        "      server: ${VSPHERE_SERVER}\n"
        "      datacenter: ${VSPHERE_DATACENTER}\n"
        "      datastore: ${VSPHERE_DATASTORE}\n"
        "      folder: ${VSPHERE_FOLDER}\n"
        "      resourcePool: ${VSPHERE_RESOURCE_POOL}\n"
        "      numCPUs: ${NUM_CPUS}\n"
        "      memoryMiB: ${MEMORY_MIB}\n"
        "      diskGiB: ${DISK_GIB}\n"
        "      network:\n"
        "        devices:\n"
        "        - networkName: ${VSPHERE_NETWORK}\n"
        "          dhcp4: true\n"
        "      pciDevices:\n" + (devices or profile)
    )


def _machine_template(kind: str, version: str, offer: Offer) -> str:
    return (
        f"apiVersion: {_API}/{version}\n"
        f"kind: {kind}\n"
        "metadata:\n"
        f"  name: ${{CLUSTER_NAME}}-gpu-{offer.slug}\n"
        "  namespace: ${NAMESPACE}\n"
        "spec:\n"
        "  template:\n"
        "    spec:\n"
    )


def _documents(
    title: str, assessment: Assessment, versions: Mapping[str, Callable[[Offer], str]]
) -> str:
    """Return the templates of all offers, as YAML documents, for each version of the API."""
    found = offers(assessment)
    if not found:
        return f"# {title}\n{_NONE}"
    blocks = [f"# {title}\n"]
    for version, template in versions.items():
        blocks += [f"---\n# {version}, {offer.title}\n{template(offer)}" for offer in found]
    return "".join(blocks)


def _pod(_: Assessment) -> str:
    """Return the pod with which the GPU Operator's documentation tests a GPU."""
    return (
        "# A pod that adds vectors on one GPU; its log ends with `Test PASSED`\n"
        "---\n"
        "apiVersion: v1\n"
        "kind: Pod\n"
        "metadata:\n"
        "  name: cuda-vector-add\n"
        "spec:\n"
        "  restartPolicy: OnFailure\n"
        "  containers:\n"
        "  - name: cuda-vector-add\n"
        f"    image: {_VECTOR_ADD}\n"
        "    resources:\n"
        "      limits:\n"
        "        nvidia.com/gpu: 1\n"
    )


# In the order in which they are used.
CONSUMERS: Mapping[str, Callable[[Assessment], str]] = {
    "controllers": _controllers,
    "openstack": _openstack,
    "capo": _capo,
    "capv": _capv,
    "pod": _pod,
}
