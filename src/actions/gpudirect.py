# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps cards and network functions from talking to each other directly, and the remedies.

In a guest that takes translated requests (ATS), bridges that let these pass (ACS), and relaxed
ordering:
https://docs.nvidia.com/ai-enterprise/planning-resource/optimizing-vm-configuration-ai-inference
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from actions.output import aligned
from gpu.pci import PciAddress
from gpu.topology import distance
from gpu.whole_card import WholeCard
from host import lspci, pci_functions
from status.assessment import Assessment
from system.commands import CommandError, Runner

__all__ = ["advice", "distances"]

_MELLANOX = 0x15B3

logger = logging.getLogger(__name__)


def distances(assessment: Assessment) -> str:
    """Return the distances of cards and network functions as `nvidia-smi topo -m` shows them."""
    cards, nics = _split(assessment.facts.whole_cards)
    if not cards or not nics:
        return ""
    rows = [["DISTANCE", *(str(nic.address) for nic in nics)]]
    for card in cards:
        names = [distance(card.function, nic.function).name for nic in nics]
        rows.append([str(card.address), *names])
    return aligned(rows)


def advice(root: Path, run: Runner, whole_cards: Sequence[WholeCard]) -> list[str]:
    """Return what the operator should know about the hardware, with the commands that change it.

    Args:
        root: the root of the host's file system.
        run: starts lspci.
        whole_cards: the whole cards and network functions of the host.
    """
    cards, nics = _split(whole_cards)
    lines = []
    if nics:
        try:
            lines += list(dict.fromkeys(_missing(cards, nics, lspci.capabilities(run))))
        except CommandError as error:
            logger.warning("%s", error)
    switches = pci_functions.nvswitches(root)
    if cards and switches:
        names = ", ".join(map(str, switches))
        lines.append(
            f"NVSwitch {names}: guests have NVLink only if one guest gets all cards and switches, "
            "or if Fabric Manager runs on the host in shared mode"
        )
    return lines


def _split(whole_cards: Sequence[WholeCard]) -> tuple[list[WholeCard], list[WholeCard]]:
    """Return the GPUs and the network functions."""
    cards = [item for item in whole_cards if not item.is_nic]
    return cards, [item for item in whole_cards if item.is_nic]


def _missing(
    cards: list[WholeCard], nics: list[WholeCard], shown: Mapping[str, str]
) -> Iterator[str]:
    """Return what lspci shows to be off, and the command that changes it."""
    for nic in nics:
        yield from _translation(nic, shown.get(str(nic.address), ""))
    for item in (*cards, *nics):
        if "RlxdOrd-" in shown.get(str(item.address), ""):
            command = f"setpci -s {item.address} CAP_EXP+8.w=0010:0010"
            yield f"{item.address}: relaxed ordering is off; {command}"
    for card in cards:
        for nic in nics:
            for bridge in _bridges_between(card, nic):
                acs = shown.get(bridge, "").partition("ACSCtl:")[2].partition("\n")[0]
                if "ReqRedir+" in acs and "DirectTrans-" in acs:
                    command = f"setpci -s {bridge} ECAP_ACS+6.w=0040:0040"
                    yield f"{bridge}: ACS blocks {card.address} from {nic.address}; {command}"


def _translation(nic: WholeCard, shown: str) -> Iterator[str]:
    """Return why a network function cannot have its addresses translated (ATS)."""
    if "Address Translation Service" not in shown:
        remedy = "enable it with the vendor's tool"
        if nic.function.id.vendor == _MELLANOX:
            remedy = f"mlxconfig -d {nic.address} set ATS_ENABLED=true, then reboot"
        yield f"{nic.address}: ATS is off; {remedy}"
    elif "Enable-" in shown.partition("ATSCtl:")[2].partition("\n")[0]:
        yield f"{nic.address}: ATS is not in use; enable it in the BIOS"


def _bridges_between(card: WholeCard, nic: WholeCard) -> Iterator[str]:
    """Return the bridges that traffic passes on the way from one function to the other."""
    one, other = card.function.bridges, nic.function.bridges
    for bridge in (*one, *other):
        if (bridge in one) != (bridge in other) and _is_address(bridge):
            yield bridge


def _is_address(text: str) -> bool:
    try:
        PciAddress.parse(text)
    except ValueError:
        return False
    return True
