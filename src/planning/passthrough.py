# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option passthrough-devices: from its data to requests, independent of any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, NamedTuple

from gpu.pci import Device, WholeDevices
from gpu.topology import Distance
from planning.devices import read_devices
from planning.option_text import Option, shown

__all__ = ["OPTION", "PassthroughRequest", "requests", "whole_devices"]

OPTION = Option(
    name="passthrough-devices",
    schema=Path(__file__).with_name("passthrough.schema.json"),
    example="{t4: ['0000:3b:00.0']}",
)


_NIC_SUFFIX = "-nic"
_MAX_NAME = 64  # also in the schema


class PassthroughRequest(NamedTuple):
    """One entry of the option: the name of a PCI alias and the devices that guests get by it.

    Attributes:
        name: the alias, which flavors request: `pci_passthrough:alias=NAME:1`.
        devices: in the order written, without duplicates.
        numa_policy: Nova's numa_policy; None for its default.
        resource_class: the class in placement; None for one that is derived from the name.
        nics: network functions; each card is offered with those that are near to it (GPUDirect).
        nic_distance: how far they may be.
    """

    name: str
    devices: tuple[Device, ...]
    numa_policy: str | None = None
    resource_class: str | None = None
    nics: tuple[Device, ...] = ()
    nic_distance: Distance = Distance.NODE

    @property
    def nic_name(self) -> str:
        """The alias of its network functions."""
        return f"{self.name}{_NIC_SUFFIX}"


def requests(data: Any) -> tuple[PassthroughRequest, ...]:
    """Turn valid data into requests, in its order; none for an unset option.

    Raises:
        HostError: see `read_devices`; OPTION_INVALID if a name is that of network functions.
    """
    parsed = []
    owners: dict[Device, str] = {}
    entries = {
        name: value if isinstance(value, dict) else {"devices": value}
        for name, value in (data or {}).items()
    }
    for name, options in entries.items():
        owner = name[: -len(_NIC_SUFFIX)]
        if name.endswith(_NIC_SUFFIX) and "nics" in entries.get(owner, {}):
            reason = f"is the alias of the network functions of {shown(owner)}; rename it"
            raise OPTION.invalid(shown(name), reason)
        longest = _MAX_NAME - len(_NIC_SUFFIX)
        if "nics" in options and len(name) > longest:
            raise OPTION.invalid(shown(name), f"at most {longest} characters with nics")
        parsed.append(
            PassthroughRequest(
                name=name,
                devices=read_devices(OPTION, name, options["devices"], owners),
                numa_policy=options.get("numa-policy"),
                resource_class=options.get("resource-class"),
                nics=read_devices(OPTION, f"{name}{_NIC_SUFFIX}", options.get("nics", ()), owners),
                nic_distance=Distance[options.get("nic-distance", "NODE")],
            )
        )
    return tuple(parsed)


def whole_devices(requests: Iterable[PassthroughRequest]) -> WholeDevices:
    """Return the devices of all requests."""
    requests = tuple(requests)
    return WholeDevices(
        cards=tuple(device for request in requests for device in request.devices),
        nics=tuple(device for request in requests for device in request.nics),
    )
