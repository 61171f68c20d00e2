# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option vgpu-device-mappings: from its data to requests, independent of any host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from gpu.pci import Device, PciAddress
from planning.devices import read_devices
from planning.option_text import Option

__all__ = ["OPTION", "VgpuRequest", "requests"]

OPTION = Option(
    name="vgpu-device-mappings",
    schema=Path(__file__).with_name("mappings.schema.json"),
    example="{nvidia-35: ['0000:84:00.0']}",
)

# Stricter than `gpu.card.is_type_id`: what is published without a look at any card.
_PLAIN_TYPE_ID = re.compile(r"[a-z][a-z0-9_-]*-[0-9]{1,9}", re.ASCII)


class VgpuRequest(NamedTuple):
    """One entry of the option: a vGPU type and the devices that offer it.

    Attributes:
        vgpu_type: an ID or a name, as written.
        devices: in the order written, without duplicates.
        max_instances: the limit on each host; None for as many as fit.
        resource_class: the class in placement; None for Nova's default, VGPU.
        numa_policy: Nova's numa_policy for virtual functions; None for its default.
        is_plain: whether it can be published on any host as it is written: an ID and a list of
            addresses, nothing else.
    """

    vgpu_type: str
    devices: tuple[Device, ...]
    max_instances: int | None = None
    resource_class: str | None = None
    numa_policy: str | None = None
    is_plain: bool = False


def requests(data: Any) -> tuple[VgpuRequest, ...]:
    """Turn valid data into requests, in its order; none for an unset option.

    Raises:
        HostError: see `read_devices`.
    """
    parsed = []
    owners: dict[Device, str] = {}
    for vgpu_type, value in (data or {}).items():
        is_long_form = isinstance(value, dict)
        options = value if is_long_form else {"devices": value}
        devices = read_devices(OPTION, vgpu_type, options["devices"], owners)
        limit = options.get("max-instances")
        is_plain = not is_long_form and all(isinstance(device, PciAddress) for device in devices)
        parsed.append(
            VgpuRequest(
                vgpu_type=vgpu_type,
                devices=devices,
                max_instances=None if limit is None else int(limit),
                resource_class=options.get("resource-class"),
                numa_policy=options.get("numa-policy"),
                is_plain=is_plain and _PLAIN_TYPE_ID.fullmatch(vgpu_type) is not None,
            )
        )
    return tuple(parsed)
