# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""PCI addresses, IDs and functions, and a GPU as a PCI function."""

from __future__ import annotations

import re
from typing import NamedTuple, Union

__all__ = [
    "GPU_CLASSES",
    "NOVA_MAX_DOMAIN",
    "NO_WHOLE_DEVICES",
    "NVIDIA",
    "NVSWITCH_CLASS",
    "VFIO_PCI",
    "Device",
    "Gpu",
    "PciAddress",
    "PciFunction",
    "PciId",
    "WholeDevices",
]

# Nova refuses to start with a larger domain, as devices behind Intel VMD have: MAX_DOMAIN in
# nova/pci/devspec.py and the pattern in nova/pci/utils.py.
NOVA_MAX_DOMAIN = 0xFFFF

# The driver through which guests get complete functions, https://docs.kernel.org/driver-api/vfio.html
VFIO_PCI = "vfio-pci"

NVIDIA = 0x10DE  # vendor
# Classes without the programming interface, https://pci-ids.ucw.cz/read/PD. NVIDIA's bridges
# (NVSwitch), audio (0403) and USB (0c03) functions have the same vendor, but are no GPUs.
GPU_CLASSES = (0x0300, 0x0302)  # VGA compatible controller, 3D controller
NVSWITCH_CLASS = 0x0680
_NETWORK, _BRIDGE = 0x02, 0x06

_ADDRESS = re.compile(
    r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.ASCII | re.IGNORECASE
)
_ID = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})", re.ASCII | re.IGNORECASE)


class PciAddress(NamedTuple):
    """The address of a PCI function; ordered as numbers, printed as sysfs and Nova write it."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read an address in full (`0000:84:00.0`) or short (`84:00.0`) form, in either case.

        Raises:
            ValueError: the text is not a PCI address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI address: {text[:40]!r}")
        return cls(*(int(part or "0", 16) for part in match.groups()))

    def __str__(self) -> str:
        """Return the full form in lower case, `0000:84:00.0`."""
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"

    def is_on_board_of(self, other: PciAddress) -> bool:
        """Whether two functions are in the same slot: a card, its audio and its USB functions."""
        return self[:3] == other[:3]

    def is_on_bus_of(self, other: PciAddress) -> bool:
        """Whether two functions have the same domain and bus."""
        return (self.domain, self.bus) == (other.domain, other.bus)


class PciId(NamedTuple):
    """A vendor and a device ID: every such card, in any slot."""

    vendor: int
    device: int

    @classmethod
    def parse(cls, text: str) -> PciId:
        """Read `10de:1eb8`, in either case.

        Raises:
            ValueError: the text is not a pair of PCI IDs.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI id: {text[:40]!r}")
        return cls(int(match[1], 16), int(match[2], 16))

    def __str__(self) -> str:
        """Return `10de:1eb8`."""
        return f"{self.vendor:04x}:{self.device:04x}"


Device = Union[PciAddress, PciId]  # as the options name them


class WholeDevices(NamedTuple):
    """The devices that guests are to get as a whole.

    Attributes:
        cards: GPUs and other devices.
        nics: network functions.
    """

    cards: tuple[Device, ...] = ()
    nics: tuple[Device, ...] = ()

    @property
    def all(self) -> tuple[Device, ...]:
        """All of them."""
        return (*self.cards, *self.nics)


NO_WHOLE_DEVICES = WholeDevices()


class PciFunction(NamedTuple):
    """A PCI function of any kind; each field is a file in /sys/bus/pci/devices/ADDRESS."""

    address: PciAddress
    id: PciId  # vendor, device
    pci_class: int  # class, without the programming interface: 0302
    driver: str | None  # driver, a link; None: no driver is bound
    numa_node: int | None  # numa_node; None: the host has one node or reports none (-1)
    iommu_group: str | None  # iommu_group, a link; None: the IOMMU is off
    total_vfs: int = 0  # sriov_totalvfs; 0: it has no SR-IOV
    enabled_vfs: int = 0  # sriov_numvfs
    physical_function: PciAddress | None = None  # physfn, a link; None: it is not a virtual one
    bridges: tuple[str, ...] = ()  # root complex and bridges above it, from its place in sysfs

    @property
    def device_type(self) -> str:
        """The device_type that Nova gives it, by libvirt's capabilities of the device.

        A function with SR-IOV is a physical one even if no virtual function is enabled:
        _get_device_type in nova/virt/libvirt/host.py.
        """
        if self.physical_function is not None:
            return "type-VF"
        return "type-PF" if self.total_vfs else "type-PCI"

    @property
    def is_network(self) -> bool:
        """Whether it is a network function: Ethernet, InfiniBand or another."""
        return self.pci_class >> 8 == _NETWORK

    @property
    def is_bridge(self) -> bool:
        """Whether it is a bridge, which no guest can have; an NVSwitch is not one of them."""
        return self.pci_class >> 8 == _BRIDGE and self.pci_class != NVSWITCH_CLASS

    @property
    def has_vfio(self) -> bool:
        """Whether it is bound to vfio-pci, so that a guest can have it."""
        return self.driver == VFIO_PCI

    @property
    def spares_its_group(self) -> bool:
        """Whether a guest can have other functions of its IOMMU group, despite its driver.

        https://docs.kernel.org/driver-api/vfio.html
        """
        return self.driver in (None, VFIO_PCI, "pci-stub")


class Gpu(NamedTuple):
    """A GPU as a physical function; each field is a file in /sys/bus/pci/devices/ADDRESS."""

    address: PciAddress
    id: PciId  # vendor, device
    subsystem: PciId | None  # subsystem_vendor, subsystem_device
    driver: str | None  # driver, a link; None: no driver is bound
    numa_node: int | None  # numa_node; None: the host has one node or reports none (-1)
    total_vfs: int  # sriov_totalvfs; 0: the card has no SR-IOV
    virtual_functions: tuple[PciAddress, ...]  # virtfn0, virtfn1, ..., links, in that order

    @property
    def is_ampere_or_newer(self) -> bool:
        """Whether its architecture offers vGPUs on virtual functions only.

        By device ID, https://pci-ids.ucw.cz/read/PC/10de: those of Turing end at 1fff, except for
        TU116 and TU117.
        """
        return self.id.device >= 0x2000 and not 0x2180 <= self.id.device < 0x2200

    @property
    def is_compute_only(self) -> bool:
        """Whether it has compute types only, as A100, H100 and B200 have; by device ID."""
        return self.id.device >> 8 in (0x20, 0x23, 0x29, 0x31)  # GA100, GH100, GB100, GB300

    @property
    def model(self) -> str:
        """What cards of one model share: boards as different as A2 and A16 have one PCI ID."""
        return f"{self.id}/{self.subsystem}" if self.subsystem else str(self.id)
