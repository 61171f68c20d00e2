# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices that an option names: PCI addresses and PCI IDs."""

from __future__ import annotations

from typing import Any, Iterable

from gpu.pci import NOVA_MAX_DOMAIN, Device, PciAddress, PciId
from gpu.problems import HostError, Problem, ProblemKind
from planning.option_text import Option, shown

__all__ = ["read_devices"]


def read_devices(
    option: Option, entry: str, written: Iterable[Any], owners: dict[Device, str]
) -> tuple[Device, ...]:
    """Return the devices of an entry in the order written, without duplicates.

    Args:
        option: the option.
        entry: the key of the entry.
        written: its devices, valid according to the schema.
        owners: the devices of the earlier entries with their keys; those of this one are added.

    Raises:
        HostError: DEVICE_MAPPED_TWICE if another entry has the same device; OPTION_INVALID if
            Nova does not support an address.
    """
    devices = tuple(dict.fromkeys(_device(option, entry, device) for device in written))
    for device in devices:
        if isinstance(device, PciAddress) and device.domain > NOVA_MAX_DOMAIN:
            place = f"{shown(entry)}, {device}"
            raise option.invalid(place, "Nova supports domains up to ffff")
        if owners.setdefault(device, entry) != entry:
            raise HostError(
                Problem(
                    ProblemKind.DEVICE_MAPPED_TWICE,
                    option=option.name,
                    device=str(device),
                    first=owners[device],
                    second=entry,
                )
            )
    return devices


def _device(option: Option, entry: str, written: Any) -> Device:
    if isinstance(written, dict):
        numbers = [_number(written[key]) for key in ("vendor-id", "device-id")]
        if max(numbers) > 0xFFFF:
            raise option.invalid(shown(entry), "PCI IDs end at 65535 (0xffff)")
        return PciId(*numbers)
    try:
        return PciAddress.parse(written)
    except ValueError:
        return PciId.parse(written)


def _number(text: str) -> int:
    """Read a PCI ID as Cluster API for vSphere writes it, 4318, or as hexadecimal, 0x10de."""
    return int(text, 16 if text.lower().startswith("0x") else 10)
