# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova supports; a new release, or a new option of one, starts here.

A release is identified by the version of the installed nova-common package, so a later release
than those listed here works like the newest one. Sources: nova/conf/devices.py and
nova/virt/libvirt/driver.py at each release's tag, and
https://docs.openstack.org/nova/latest/admin/virtual-gpu.html.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "MAX_INSTANCES_SINCE",
    "MDEV_CLASS_SINCE",
    "NUMA_SOCKET_SINCE",
    "REPORT_IN_PLACEMENT_SINCE",
    "SINGLE_TYPE_SINCE",
    "NovaVersion",
]

# The first release with the option, or with the fix.
MDEV_CLASS_SINCE = 24  # Xena
MAX_INSTANCES_SINCE = 29  # 2024.1
SINGLE_TYPE_SINCE = 29  # 2024.1
NUMA_SOCKET_SINCE = 23  # Wallaby, nova/pci/request.py
REPORT_IN_PLACEMENT_SINCE = 26  # Zed, nova/conf/pci.py

_SCHEDULER_FILTERS = (
    "Compute",
    "ComputeCapabilities",
    "ImageProperties",
    "ServerGroupAntiAffinity",
    "ServerGroupAffinity",
    "DifferentHost",
    "SameHost",
)

_VERSION = re.compile(r"(?:[0-9]+:)?([0-9]{1,4})(?:\.([0-9]{1,4}))?(?:\.([0-9]{1,4}))?", re.ASCII)

# The principal compares this name with those in its own release table and fails on an unknown
# one; it always knows the name of the release that it has installed.
_CODENAMES = {
    17: "queens", 18: "rocky", 19: "stein", 20: "train", 21: "ussuri", 22: "victoria",
    23: "wallaby", 24: "xena", 25: "yoga", 26: "zed", 27: "antelope", 28: "bobcat",
    29: "caracal", 30: "dalmatian", 31: "epoxy", 32: "flamingo", 33: "gazpacho",
}  # fmt: skip


class NovaVersion(NamedTuple):
    """The upstream version of Nova, without the epoch and the revision of its package."""

    major: int
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, package_version: str) -> NovaVersion:
        """Read a version of nova-common, e.g. `3:25.2.1-0ubuntu2.7`.

        Raises:
            ValueError: the text does not start with a version.
        """
        match = _VERSION.match(package_version)
        if match is None:
            raise ValueError(f"not a version of Nova: {package_version!r}")
        return cls(*(int(part or 0) for part in match.groups()))

    def __str__(self) -> str:
        """Return `25.2.1`."""
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def codename(self) -> str | None:
        """The release's name in Ubuntu and in the charms; None for a later release."""
        return _CODENAMES.get(self.major)

    @property
    def supports_vgpus(self) -> bool:
        """Whether vGPUs exist (Queens)."""
        return self.major >= 17

    @property
    def option_prefix(self) -> str:
        """The PREFIX in `enabled_PREFIX_types` and `[PREFIX_<type>]`.

        It changed in Xena; Wallaby ignores the new one.
        """
        return "mdev" if self.major >= 24 else "vgpu"

    @property
    def supports_device_addresses(self) -> bool:
        """Whether `[PREFIX_<type>] device_addresses` exists (Ussuri)."""
        return self.major >= 21

    @property
    def supports_several_types(self) -> bool:
        """Whether more than the first type is used (22.2.1).

        Ussuri was never fixed, https://bugs.launchpad.net/nova/+bug/1900006; 17 to 20 support one
        type by design.
        """
        return self >= NovaVersion(22, 2, 1)

    @property
    def restricts_single_type(self) -> bool:
        """Whether the section of a single type is respected.

        Earlier releases offer a single type on every card:
        https://bugs.launchpad.net/nova/+bug/1943934
        """
        return self.major >= SINGLE_TYPE_SINCE

    @property
    def supports_mdev_class(self) -> bool:
        """Whether `mdev_class` exists."""
        return self.major >= MDEV_CLASS_SINCE

    @property
    def supports_max_instances(self) -> bool:
        """Whether `max_instances` exists."""
        return self.major >= MAX_INSTANCES_SINCE

    @property
    def supports_variant_driver(self) -> bool:
        """Whether vendor-specific VFIO is supported, by `managed` in device_spec (2025.1)."""
        return self.supports_managed

    @property
    def device_spec_option(self) -> str:
        """The option that lists devices; it was renamed in Zed."""
        return "device_spec" if self.major >= 26 else "passthrough_whitelist"

    @property
    def supports_managed(self) -> bool:
        """Whether a device_spec takes `managed` (2025.1)."""
        return self.major >= 31

    @property
    def supports_numa_socket(self) -> bool:
        """Whether `numa_policy` of an alias may be `socket`."""
        return self.major >= NUMA_SOCKET_SINCE

    @property
    def supports_report_in_placement(self) -> bool:
        """Whether `report_in_placement` exists."""
        return self.major >= REPORT_IN_PLACEMENT_SINCE

    @property
    def supports_alias_class(self) -> bool:
        """Whether an alias takes `resource_class` (2023.1)."""
        return self.major >= 27

    @property
    def supports_two_vgpus(self) -> bool:
        """Whether a guest can have two vGPUs of mediated devices (2026.1)."""
        return self.major >= 33

    @property
    def default_scheduler_filters(self) -> tuple[str, ...]:
        """The filters that nova-cloud-controller enables by itself, in its order.

        hooks/nova_cc_context.py in charm-nova-cloud-controller.
        """
        names = ["Retry"] if self.major < 22 else []
        names += ["AvailabilityZone"] if self.major < 28 else []
        return tuple(f"{name}Filter" for name in (*names, *_SCHEDULER_FILTERS))
