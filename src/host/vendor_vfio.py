# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that offer vGPUs through vendor-specific VFIO: a type is set on a virtual function.

Nova calls it the kernel variant driver:
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Iterable

from gpu.card import NAME_LIMIT, Card, Framework, VgpuType, type_number
from host import libvirt_guests
from host.gpus import Gpu, PciAddress, PciId
from system.files import ensure_contents
from system.sysfs import read, read_number
from system.text import one_line

__all__ = ["absent", "creatable_types", "forget_stale", "in_use", "inspect", "record"]

_CARRIED = Path("var/lib/nova-compute-nvidia-vgpu/carried.json")
_CREATABLE = re.compile(r"\s*(?P<id>[0-9]{1,9})\s*:\s*(?P<name>\S.*?)\s*", re.ASCII)
_REVERSED = re.compile(r"\s*(?P<name>[^:\s][^:]*?)\s+(?P<id>[0-9]{1,9})\s*", re.ASCII)


def inspect(root: Path, gpu: Gpu, remembered: tuple[VgpuType, ...]) -> Card | None:
    """Read `nvidia/` of the virtual functions; the card itself has none, or an unused one.

    The lists of types shrink as the card fills, down to their heading, so an empty one does not
    say that there are no types: what was seen once stays known. Who has the functions is added by
    `in_use`.

    Args:
        root: the root of the host's file system.
        gpu: the card.
        remembered: types that such a card was seen to offer.
    """
    devices = os.path.join(root, "sys/bus/pci/devices")  # a Path would cost more than the reading
    types = {known.id: known for known in remembered}
    parents, carried = [], []
    creatable: set[str] = set()
    for address in gpu.virtual_functions:
        folder = os.path.join(devices, str(address), "nvidia")
        current = read_number(os.path.join(folder, "current_vgpu_type"))
        if current is None:
            continue
        parents.append(address)
        listed = creatable_types(folder)
        types.update((known.id, known) for known in listed if known.id not in types)
        if current:
            type_id = f"nvidia-{current}"
            carried.append((address, type_id))
            types.setdefault(type_id, VgpuType(type_id, type_id))
        else:
            creatable.update(known.id for known in listed)
    if not parents:
        return None
    return Card(
        gpu=gpu,
        framework=Framework.VENDOR_VFIO,
        types=tuple(sorted(types.values(), key=lambda known: type_number(known.id) or 0)),
        parents=tuple(parents),
        assigned_types=tuple(carried),
        creatable=frozenset(creatable),
        function_id=_function_id(os.path.join(devices, str(parents[0]))),
    )


def in_use(root: Path, cards: tuple[Card, ...]) -> tuple[Card, ...]:
    """Add which functions a guest has, or whose type somebody else set.

    Of all cards at once, since it looks at every process of the host.
    """
    carried = {function: type_id for card in cards for function, type_id in card.assigned_types}
    if not carried:
        return cards
    held = _held(root, carried)
    return tuple(_in_use(card, held) for card in cards)


def _in_use(card: Card, held: frozenset[PciAddress]) -> Card:
    mine = sorted(known for known in card.assigned_types if known[0] in held)
    if not mine:
        return card
    return card._replace(
        in_use=tuple(str(function) for function, _ in mine), guest_vgpus=tuple(mine)
    )


def creatable_types(folder: str | Path) -> tuple[VgpuType, ...]:
    """Read the types that a virtual function can still become, `ID : NAME` lines below a heading.

    Names hold blanks, and ids are padded with them: the first colon parts the two. Some drivers
    are said to write `NAME ID`.
    """
    return _parse(read(os.path.join(folder, "creatable_vgpu_types")))


@functools.lru_cache(maxsize=64)  # hundreds of functions tell the same
def _parse(listed: str) -> tuple[VgpuType, ...]:
    found = []
    for line in listed.splitlines():
        match = _CREATABLE.fullmatch(line) or _REVERSED.fullmatch(line)
        if match is not None:
            type_id = f"nvidia-{int(match['id'])}"
            name = one_line(match["name"].strip(), NAME_LIMIT)
            found.append(VgpuType(type_id, name or type_id))
    return tuple(found)


def _function_id(folder: str) -> PciId | None:
    vendor, device = (read(os.path.join(folder, name))[2:] for name in ("vendor", "device"))
    try:
        return PciId.parse(f"{vendor}:{device}")
    except ValueError:
        return None


def record(root: Path, functions: Iterable[PciAddress], type_id: str) -> None:
    """Note, before it is done, that we set a type on functions: it alone is no sign of a guest.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    _write(root, {**load(root), **{str(function): type_id for function in functions}})


def forget_stale(root: Path, cards: tuple[Card, ...]) -> None:
    """Forget the types that are gone, but for those of functions that guests are defined with.

    Raises:
        HostError: DISK; it is full, or cannot be written.
    """
    known = load(root)
    carried = {
        str(function): type_id for card in cards for function, type_id in card.assigned_types
    }
    absent_ones = {str(function) for function, _ in absent(root, cards)}
    _write(
        root,
        {
            function: type_id
            for function, type_id in known.items()
            if carried.get(function) == type_id or function in absent_ones
        },
    )


def absent(root: Path, cards: tuple[Card, ...]) -> tuple[tuple[PciAddress, str], ...]:
    """Return functions that guests are defined with and whose type a boot took, with that type."""
    carried = {str(function) for card in cards for function, _ in card.assigned_types}
    gone = {name: type_id for name, type_id in load(root).items() if name not in carried}
    if not gone:
        return ()
    defined = libvirt_guests.defined_functions(root)
    return tuple((each, gone[str(each)]) for each in sorted(defined) if str(each) in gone)


def _write(root: Path, rows: dict[str, str]) -> None:
    if rows or (root / _CARRIED).exists():
        ensure_contents(root / _CARRIED, json.dumps(rows, indent=1, sort_keys=True) + "\n")


def load(root: Path) -> dict[str, str]:
    try:
        data = json.loads((root / _CARRIED).read_text(encoding="utf-8"))
        return {
            str(PciAddress.parse(function)): type_id
            for function, type_id in data.items()
            if type_number(type_id) is not None
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _held(root: Path, known: dict[PciAddress, str]) -> frozenset[PciAddress]:
    ours = load(root)
    held = known.keys() & (
        libvirt_guests.defined_functions(root) | libvirt_guests.open_functions(root, known)
    )
    foreign = {function for function in known if ours.get(str(function)) != known[function]}
    return frozenset(held | foreign)
