# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option passthrough-devices: from its data to requests, independent of any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gpu.pci import Device
from planning.devices import read_devices
from planning.option_text import Option

__all__ = ["OPTION", "PassthroughRequest", "requests"]

OPTION = Option(
    name="passthrough-devices",
    schema=Path(__file__).with_name("passthrough.schema.json"),
    example="{t4: ['0000:3b:00.0']}",
)


class PassthroughRequest(NamedTuple):
    """One entry of the option: the name of a PCI alias and the devices that guests get by it.

    Attributes:
        name: the alias, which flavors request: `pci_passthrough:alias=NAME:1`.
        devices: in the order written, without duplicates.
        numa_policy: Nova's numa_policy; None for its default.
        resource_class: the class in placement; None for one that is derived from the name.
    """

    name: str
    devices: tuple[Device, ...]
    numa_policy: str | None = None
    resource_class: str | None = None


def requests(data: Any) -> tuple[PassthroughRequest, ...]:
    """Turn valid data into requests, in its order; none for an unset option.

    Raises:
        HostError: see `read_devices`.
    """
    parsed = []
    owners: dict[Device, str] = {}
    for name, value in (data or {}).items():
        options = value if isinstance(value, dict) else {"devices": value}
        parsed.append(
            PassthroughRequest(
                name=name,
                devices=read_devices(OPTION, name, options["devices"], owners),
                numa_policy=options.get("numa-policy"),
                resource_class=options.get("resource-class"),
            )
        )
    return tuple(parsed)
