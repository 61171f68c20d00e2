# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices of a machine and how they are connected, as arguments for QEMU.

Each function returns a list; add the lists in the order in which the devices depend on each other.
A device on a root port has an id made of the port's and its function number: "rp1.0".
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, Sequence

# The chipset's own bus, on which root ports and expanders are.
CHIPSET = "pcie.0"


class Card(NamedTuple):
    """What a card shows in its configuration space; all numbers are hexadecimal but `functions`.

    Attributes:
        vendor: the vendor of the card and of its subsystem.
        device: the card's device id.
        class_code: class and subclass.
        functions: how many virtual functions it can have.
        function_device: their device id; the card's own if it is "0".
        subdevice: the id of the subsystem.
    """

    vendor: str
    device: str
    class_code: str
    functions: int = 0
    function_device: str = "0"
    subdevice: str = "0"


# Tests can add to these before they create a machine.
CARDS = {
    "t4": Card("10de", "1eb8", "0302", subdevice="12a2"),
    "a100": Card("10de", "20b5", "0302", 4, subdevice="1533"),
    "rtx": Card("10de", "2230", "0300", subdevice="1459"),
    "audio": Card("10de", "1aef", "0403", subdevice="1459"),
    "nvswitch": Card("10de", "22a3", "0680", subdevice="1796"),
    "connectx7": Card("15b3", "1021", "0207", 4, "101e", "0041"),
    "connectx6": Card("15b3", "101d", "0200", subdevice="0016"),
}

_slots = itertools.count(1)


def environment() -> str:
    """Return CARDS in the format that cards.c reads."""
    return " ".join(f"{name}={':'.join(map(str, card))}" for name, card in CARDS.items())


def root_port(name: str, bus: str = CHIPSET, *, acs: bool = True) -> list[str]:
    """Return a root port, which is a bus for one slot; without ACS, the slot shares its group."""
    options = {} if acs else {"disable-acs": "on"}
    return _device("pcie-root-port", id=name, bus=bus, chassis=1, slot=next(_slots), **options)


def expander(name: str, bus_number: int, numa_node: int) -> list[str]:
    """Return a root complex of its own, whose devices are on a NUMA node; it needs root ports.

    Its root bus has the given number, and the buses of its ports those that follow.
    """
    return _device("pxb-pcie", id=name, bus=CHIPSET, bus_nr=bus_number, numa_node=numa_node)


def switch(name: str, bus: str, ports: Sequence[str]) -> list[str]:
    """Return a switch on a port; each of its ports is a bus for one slot, without ACS."""
    arguments = _device("x3130-upstream", id=name, bus=bus)
    for port in ports:
        slot = next(_slots)
        arguments += _device("xio3130-downstream", id=port, bus=name, chassis=1, slot=slot)
    return arguments


def card(kind: str, bus: str) -> list[str]:
    """Return a card of CARDS on a port."""
    return board([kind], bus)


def board(kinds: Sequence[str], bus: str) -> list[str]:
    """Return a board on a port: several cards of CARDS as functions of one slot, without ACS."""
    arguments = []
    for number, kind in enumerate(kinds):
        options = {"multifunction": "on"} if number == 0 and len(kinds) > 1 else {}
        arguments += _on_slot(f"card-{kind}", bus, number, **options)
    return arguments


def network_card(bus: str, kind: str = "e1000e") -> list[str]:
    """Return a network card that has a driver in the kernel: e1000e or, since QEMU 8, igb."""
    return _on_slot(kind, bus)


def nvme_disk(bus: str, serial: str) -> list[str]:
    """Return a disk on a port."""
    return _on_slot("nvme", bus, serial=serial)


def as_plugged(arguments: Sequence[str]) -> dict[str, str]:
    """Convert the arguments of one device to those of QMP's device_add."""
    _, description = arguments
    driver, *options = description.split(",")
    pairs = [option.split("=", 1) for option in options]
    return {"driver": driver, **dict(pairs)}


def _on_slot(driver: str, bus: str, function: int = 0, **options: str) -> list[str]:
    return _device(driver, id=f"{bus}.{function}", bus=bus, addr=f"0.{function}", **options)


def _device(driver: str, **options: str | int) -> list[str]:
    pairs = [f"{key}={option}" for key, option in options.items()]
    return ["-device", ",".join([driver, *pairs])]
