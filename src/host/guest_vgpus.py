# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which vGPUs belong to guests: those in use, and those that defined guests lost at boot.

A boot removes mediated devices and the types of virtual functions. A defined guest that had one
cannot start until it is recreated, so what is lost still counts as the guest's.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterable, Iterator

from gpu.card import Card, VgpuType
from gpu.pci import NVIDIA, PciAddress
from host import libvirt_guests
from host.mdev import existing_mdevs
from state import assigned_types, mdev_records
from state.mdev_records import Mdev
from system import sysfs

__all__ = [
    "guest_functions",
    "lost_mdevs",
    "lost_types",
    "present_mdevs",
    "vgpus_on_unreadable_cards",
    "with_functions_in_use",
    "with_lost_vgpus",
]

_MDEVCTL_DEFINITIONS = Path("etc/mdevctl.d")
_MDEVS = "sys/bus/mdev/devices"  # https://docs.kernel.org/driver-api/vfio-mediated-device.html


def with_functions_in_use(root: Path, cards: tuple[Card, ...]) -> tuple[Card, ...]:
    """Add the functions that a guest has, or whose type the charm did not assign (vendor VFIO).

    For all cards at once, since every process of the host is inspected.
    """
    types = {function: type_id for card in cards for function, type_id in card.assigned_types}
    if not types:
        return cards
    ours = assigned_types.load(root)
    others = {function for function in types if ours.get(function) != types[function]}
    if assigned_types.is_damaged(root):  # otherwise each would count as a guest's until a boot
        others = set()
    in_use = guest_functions(root, types) | others
    return tuple(_with_functions_in_use(card, in_use) for card in cards)


def _with_functions_in_use(card: Card, in_use: frozenset[PciAddress]) -> Card:
    vgpus = tuple(sorted(pair for pair in card.assigned_types if pair[0] in in_use))
    if not vgpus:
        return card
    functions = (str(function) for function, _ in vgpus)
    return card._replace(in_use=(*card.in_use, *functions), guest_vgpus=vgpus)


def vgpus_on_unreadable_cards(
    root: Path, cards: tuple[Card, ...], unreadable: tuple[PciAddress, ...]
) -> tuple[str, ...]:
    """Return the vGPUs that exist, or that guests have, on cards that cannot be read.

    Args:
        root: the root of the host's file system.
        cards: the cards that can be read, with their vGPUs in use.
        unreadable: the other cards.
    """
    found = {uuid for card in cards for uuid in card.in_use}
    mdevs = [
        uuid
        for uuid in sorted(sysfs.names(root / _MDEVS))
        if uuid not in found and _may_be_of_nvidia(root, uuid)
    ]
    if not unreadable:
        return tuple(mdevs)
    functions = guest_functions(root, _functions_on_buses(root, unreadable))
    return (*mdevs, *map(str, sorted(functions)))


def _may_be_of_nvidia(root: Path, uuid: str) -> bool:
    """Whether a mediated device is not known to be on a device of another vendor."""
    parent = os.path.dirname(os.path.realpath(root / _MDEVS / uuid))
    return sysfs.read(os.path.join(parent, "vendor")) in ("", f"0x{NVIDIA:04x}")


def _functions_on_buses(root: Path, cards: tuple[PciAddress, ...]) -> Iterator[PciAddress]:
    for name in sysfs.names(root / sysfs.PCI_DEVICES):
        with contextlib.suppress(ValueError):
            address = PciAddress.parse(name)
            if any(address.is_on_bus_of(card) for card in cards):
                yield address


def guest_functions(root: Path, functions: Iterable[PciAddress]) -> frozenset[PciAddress]:
    """Return the functions that a guest is defined with, running or not, or has open."""
    functions = frozenset(functions)
    defined = libvirt_guests.defined_functions(root)
    return functions & (defined.keys() | libvirt_guests.open_functions(root, functions))


def present_mdevs(root: Path, cards: tuple[Card, ...]) -> list[Mdev]:
    """Return the mediated devices that exist on some cards."""
    names = {vgpu_type.id: vgpu_type.name for card in cards for vgpu_type in card.types}
    return [
        Mdev(uuid, parent, type_id, names.get(type_id, ""))
        for card in cards
        if card.guest_vgpus
        for parent in card.parents
        for uuid, type_id in existing_mdevs(root, (parent,)).items()
    ]


def lost_mdevs(root: Path, cards: tuple[Card, ...]) -> tuple[Mdev, ...]:
    """Return the recorded mediated devices that a defined guest has but that do not exist now."""
    recorded = mdev_records.load(root)
    if not recorded:
        return ()
    lost = libvirt_guests.defined_mdevs(root) - {mdev.uuid for mdev in present_mdevs(root, cards)}
    return tuple(
        mdev._replace(
            has_mdevctl_definition=(
                root / _MDEVCTL_DEFINITIONS / str(mdev.parent) / mdev.uuid
            ).is_file()
        )
        for mdev in recorded
        if mdev.uuid in lost
    )


def lost_types(root: Path, cards: tuple[Card, ...]) -> tuple[tuple[PciAddress, str], ...]:
    """Return the functions of defined guests that have lost their type, with that type's ID."""
    assigned = {function for card in cards for function, _ in card.assigned_types}
    unreadable = {name for card in cards for name in card.unreadable_functions}
    recorded = assigned_types.load(root)
    lost = {
        function: recorded[function]
        for function in recorded
        if function not in assigned and str(function) not in unreadable
    }
    if not lost:
        return ()
    defined = libvirt_guests.defined_functions(root)
    return tuple((function, lost[function]) for function in sorted(defined.keys() & lost.keys()))


def with_lost_vgpus(
    cards: tuple[Card, ...],
    mdevs: tuple[Mdev, ...],
    types: tuple[tuple[PciAddress, str], ...],
) -> tuple[Card, ...]:
    """Add the vGPUs that defined guests lost at boot to the guests' vGPUs of each card.

    Args:
        cards: the cards of the host.
        mdevs: see `lost_mdevs`.
        types: see `lost_types`.
    """
    if not (mdevs or types):
        return cards
    return tuple(_with_lost_vgpus(card, mdevs, types) for card in cards)


def _with_lost_vgpus(
    card: Card, mdevs: tuple[Mdev, ...], types: tuple[tuple[PciAddress, str], ...]
) -> Card:
    known = {vgpu_type.id: vgpu_type for vgpu_type in card.known_types}
    lost = [(mdev.parent, VgpuType(mdev.type_id, mdev.name or mdev.type_id)) for mdev in mdevs]
    lost += [
        (function, known.get(type_id, VgpuType(type_id, type_id))) for function, type_id in types
    ]
    on_card = [(parent, vgpu_type) for parent, vgpu_type in lost if _is_parent(card, parent)]
    vgpus = tuple((parent, vgpu_type.id) for parent, vgpu_type in on_card)
    return card._replace(
        guest_vgpus=(*card.guest_vgpus, *vgpus),
        lost_types=tuple(dict.fromkeys(vgpu_type for _, vgpu_type in on_card)),
    )


def _is_parent(card: Card, parent: PciAddress) -> bool:
    """Whether a parent belongs to a card; until its functions are enabled, its bus decides."""
    gpu = card.gpu
    if gpu.virtual_functions or not card.is_sriov:
        return parent in (gpu.address, *gpu.virtual_functions)
    return parent.is_on_bus_of(gpu.address)
