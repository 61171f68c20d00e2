# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""GPUDirect: cards are given to guests together with the network functions that are near them."""

from __future__ import annotations

import json

import pytest
from ops import testing

import recorded
from unit import ready

T4, H200, NIC = "0000:3b:00.0", "0000:af:00.0", "0000:b1:00.0"
DETAILS = """\
0000:ae:00.0 PCI bridge: Root port
\t\tDevCtl:\tCorrErr+ NonFatalErr+ FatalErr+ UnsupReq+
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-

0000:af:00.0 3D controller: NVIDIA Corporation GH100 [H200 SXM 141GB] (rev a1)
\t\t\tRlxdOrd+ ExtTag+ PhantFunc- AuxPwr- NoSnoop+

0000:b0:00.0 PCI bridge: Root port
\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans+

0000:b1:00.0 Infiniband controller: Mellanox Technologies MT2910 Family [ConnectX-7]
\t\t\tRlxdOrd- ExtTag+ PhantFunc- AuxPwr- NoSnoop+
\t\tATSCtl:\tEnable-, Smallest Translation Unit: 00
\tCapabilities: [150 v1] Address Translation Service (ATS)
"""


def configure(unit, passthrough, **options):
    unit.change(config={"passthrough-devices": passthrough, **options})
    unit.hook("config_changed")


def request(devices="['10de:2335']", distance=""):
    return f"{{gpu: {{devices: {devices}, nics: ['15b3:1021'], numa-policy: required{distance}}}}}"


def driver_of(unit, address):
    return unit.machine.driver.card(address)["driver"]


def aliases(unit):
    return [json.loads(value) for name, value in unit.sections["pci"] if name == "alias"]


@pytest.fixture
def unit(deploy):
    return deploy("whole-cards")


def test_card_and_near_network_function_are_offered_under_one_name_each(unit):
    configure(unit, request())
    assert unit.status == ready("5 NVIDIA GPUs, 1 whole card, 1 network function")
    assert [driver_of(unit, address) for address in (H200, NIC)] == ["vfio-pci", "vfio-pci"]
    assert unit.device_specs() == [H200, NIC]
    assert aliases(unit) == [
        {
            "name": "gpu",
            "device_type": "type-PF",
            "vendor_id": "10de",
            "product_id": "2335",
            "numa_policy": "required",
        },
        {
            "name": "gpu-nic",
            "device_type": "type-PCI",
            "vendor_id": "15b3",
            "product_id": "1021",
            "numa_policy": "required",
        },
    ]
    unit.machine.reboot()
    unit.hook("start")
    assert unit.device_specs() == [H200, NIC]


def test_card_without_a_near_network_function_is_not_offered(unit):
    configure(unit, request("['10de:2335', '3b:00.0']"))
    assert unit.device_specs() == [H200, NIC]
    assert driver_of(unit, T4) == "nvidia"
    assert unit.status == testing.BlockedStatus(
        "0000:3b:00.0 has no NIC of gpu within NODE; nearest: 0000:b1:00.0 (SYS); "
        "change nics or nic-distance"
    )


def test_nic_distance_limits_how_far_a_network_function_may_be(unit):
    configure(unit, request(distance=", nic-distance: PIX"))
    assert unit.status == testing.BlockedStatus(
        "0000:af:00.0 has no NIC of gpu within PIX; nearest: 0000:b1:00.0 (NODE); "
        "change nics or nic-distance"
    )
    assert [driver_of(unit, address) for address in (H200, NIC)] == ["nvidia", "mlx5_core"]
    assert unit.sections == {}
    rows = unit.action("show-plan")["output"].splitlines()
    assert [row.split()[-1] for row in rows if row.startswith((H200, NIC))] == [
        "nic-too-far",
        "offered",  # not offered
        "NODE",
    ]


def test_host_without_the_network_function_says_so(deploy):
    functions = [
        function
        for function in recorded.host("whole-cards")["functions"]
        if function["address"] != NIC
    ]
    unit = deploy("whole-cards", functions=functions)
    configure(unit, request())
    assert unit.status == testing.BlockedStatus(
        "0000:af:00.0 has no NIC of gpu within NODE; nearest: none on this host; "
        "change nics or nic-distance"
    )


def test_card_is_not_offered_while_its_network_function_cannot_be_bound(unit):
    unit.machine.driver.unbindable.add(NIC)
    configure(unit, request())
    assert driver_of(unit, H200) == "vfio-pci"
    assert unit.sections == {}
    assert unit.status.message.startswith("0000:b1:00.0 cannot be bound to vfio-pci: refused")


def test_network_of_the_host_is_never_taken(unit):
    root = unit.machine.root
    interface = (root / "sys/bus/pci/devices" / NIC).resolve() / "net/ibs1"
    interface.mkdir(parents=True)
    route = root / "proc/net/route"
    route.parent.mkdir(parents=True)
    route.write_text("Iface\tDestination\nibs1\t00000000\n")
    configure(unit, request())
    assert [driver_of(unit, address) for address in (H200, NIC)] == ["nvidia", "mlx5_core"]
    assert unit.status == testing.BlockedStatus(
        "0000:b1:00.0 is in use by the host: ibs1 (default route); choose another device"
    )


def test_device_that_is_no_network_function_is_refused_as_one(unit):
    configure(unit, "{gpu: {devices: ['af:00.0'], nics: ['3b:00.0']}}")
    output = unit.action("show-plan")["output"]
    assert "0000:3b:00.0 is not a network function; list it under devices" in output
    assert driver_of(unit, T4) == "nvidia"


def test_plan_shows_distances_and_what_slows_the_way_between_them(unit):
    unit.machine.details = DETAILS
    configure(unit, request("['10de:2335', '3b:00.0']"))
    output = unit.action("show-plan")["output"]
    assert "DISTANCE      0000:b1:00.0\n0000:3b:00.0  SYS\n0000:af:00.0  NODE\n" in output
    assert (
        "Hardware:\n"
        "  - 0000:b1:00.0: ATS is not in use; enable it in the BIOS\n"
        "  - 0000:b1:00.0: relaxed ordering is off; setpci -s 0000:b1:00.0 CAP_EXP+8.w=0010:0010"
    ) in output
    plan = json.loads(unit.action("show-plan", format="json")["output"])
    assert [card["distances"] for card in plan["whole_cards"]] == [{NIC: "SYS"}, {NIC: "NODE"}, {}]
    assert len(plan["hardware"]) == 2


def test_nvswitches_are_named_with_what_guests_need(deploy):
    functions = [
        *recorded.host("whole-cards")["functions"],
        {"address": "0000:83:00.0", "id": "10de:22a3", "class": "068000"},
    ]
    unit = deploy("whole-cards", functions=functions)
    configure(unit, "{h200: ['10de:2335']}")
    assert (
        "NVSwitch 0000:83:00.0: guests have NVLink only if one guest gets all cards and switches, "
        "or if Fabric Manager runs on the host in shared mode"
    ) in unit.action("show-plan")["output"]


def test_flavors_of_gpudirect_give_the_guest_one_numa_node(unit):
    configure(unit, request())
    output = unit.action("show-requests", consumer="openstack")["output"]
    assert (
        "openstack flavor set gpu.gpu --property pci_passthrough:alias=gpu:1,gpu-nic:1 "
        "--property hw:numa_nodes=1\n"
    ) in output
    assert "# gpu: whole card 10de:2335 with network function 15b3:1021; 1 on this host" in output
    machines = unit.action("show-requests", consumer="capv")["output"]
    assert (
        "      pciDevices:\n"
        "      - deviceId: 9013\n        vendorId: 4318\n"
        "      - deviceId: 4129\n        vendorId: 5555\n"
    ) in machines


def test_vgpus_for_gpudirect_take_a_numa_policy(unit):
    text = "{L40S-48Q: {devices: ['10de:26b9'], numa-policy: required}}"
    unit.change(config={"vgpu-device-mappings": text})
    unit.hook("config_changed")
    assert aliases(unit)[0]["numa_policy"] == "required"
    output = unit.action("show-requests", consumer="openstack")["output"]
    assert "alias=L40S-48Q:1 --property hw:numa_nodes=1\n" in output


def test_mediated_devices_have_no_numa_policy(unit):
    text = "{A100D-20C: {devices: ['10de:20b5'], numa-policy: required}}"
    unit.change(config={"vgpu-device-mappings": text})
    unit.hook("config_changed")
    assert unit.status == testing.BlockedStatus(
        "numa-policy of GRID A100D-20C: Nova has none for mediated devices; remove it"
    )
