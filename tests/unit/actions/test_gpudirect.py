# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What lspci shows of the way between a card and a network function, and the remedies."""

from __future__ import annotations

from pathlib import Path

import pytest

from actions import gpudirect
from gpu.pci import PciAddress, PciFunction, PciId
from gpu.whole_card import WholeCard
from system.commands import CommandError, Result

SWITCH = ("pci0000:16", "0000:16:01.0", "0000:17:00.0")
GPU, NIC = "0000:19:00.0", "0000:1a:00.0"
GPU_PORT, NIC_PORT = "0000:18:00.0", "0000:18:01.0"
ACS = "SrcValid+ TransBlk- ReqRedir{} CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans{}"
GOOD_NIC = f"""{NIC} Infiniband controller: ConnectX-7
\t\t\tRlxdOrd+ ExtTag+
\t\tATSCtl:\tEnable+, Smallest Translation Unit: 00
\tCapabilities: [150 v1] Address Translation Service (ATS)
"""


def device(address, vendor, *bridges, is_nic=False):
    function = PciFunction(
        PciAddress.parse(address), PciId(vendor, 1), 0x0302, "vfio-pci", 0, "1", bridges=bridges
    )
    return WholeCard(function, is_nic=is_nic)


def advice(*blocks, vendor=0x15B3):
    def run(*argv, **_):
        assert argv == ("lspci", "-Dvvv")
        return Result(0, "\n".join(blocks), "")

    devices = [
        device(GPU, 0x10DE, *SWITCH, GPU_PORT),
        device(NIC, vendor, *SWITCH, NIC_PORT, is_nic=True),
    ]
    return gpudirect.advice(Path("/nonexistent"), run, devices)


def bridge(address, redirect, direct):
    return f"{address} PCI bridge: a switch\n\t\tACSCtl:\t{ACS.format(redirect, direct)}\n"


def test_nothing_is_missing_on_a_good_host():
    good = [bridge(GPU_PORT, "+", "+"), bridge(NIC_PORT, "-", "-"), GOOD_NIC]
    assert advice(*good) == []


def test_bridges_that_redirect_the_traffic_are_named_but_not_those_above_the_switch():
    blocks = [bridge(address, "+", "-") for address in ("0000:16:01.0", GPU_PORT, NIC_PORT)]
    assert advice(*blocks, GOOD_NIC) == [
        f"{port}: ACS blocks {GPU} from {NIC}; setpci -s {port} ECAP_ACS+6.w=0040:0040"
        for port in (GPU_PORT, NIC_PORT)
    ]


@pytest.mark.parametrize(
    ("vendor", "remedy"),
    [
        (0x15B3, f"mlxconfig -d {NIC} set ATS_ENABLED=true, then reboot"),
        (0x8086, "enable it with the vendor's tool"),
    ],
)
def test_network_function_without_ats_is_named(vendor, remedy):
    assert advice(f"{NIC} Controller\n", vendor=vendor) == [f"{NIC}: ATS is off; {remedy}"]


def test_ats_that_is_not_in_use_and_ordering_that_is_strict_are_named():
    shown = GOOD_NIC.replace("Enable+", "Enable-").replace("RlxdOrd+", "RlxdOrd-")
    assert advice(shown) == [
        f"{NIC}: ATS is not in use; enable it in the BIOS",
        f"{NIC}: relaxed ordering is off; setpci -s {NIC} CAP_EXP+8.w=0010:0010",
    ]


def test_host_without_lspci_gets_no_advice():
    def run(*argv, **_):
        raise CommandError(argv, "No such file or directory")

    nic = device(NIC, 0x15B3, *SWITCH, is_nic=True)
    assert gpudirect.advice(Path("/nonexistent"), run, [nic]) == []
