# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI functions of a host: NVIDIA's GPUs, and which addresses are taken at all.

Sources: /sys/bus/pci/devices (https://docs.kernel.org/PCI/sysfs-pci.html) and, as a second
witness, lspci. Only numeric fields are used: the names that lspci prints depend on the age of
its pci.ids.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from system.commands import CommandError, Runner
from system.text import one_line

__all__ = ["GPU_CLASSES", "NVIDIA", "Gpu", "GpuScan", "PciAddress", "PciId", "list_gpus"]

NVIDIA = 0x10DE
# VGA compatible controller, 3D controller. NVIDIA's bridges (NVSwitch 0680), audio (0403) and
# USB (0c03) functions share the vendor only.
GPU_CLASSES = (0x0300, 0x0302)

_ADDRESS = re.compile(
    r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.ASCII | re.IGNORECASE
)
_ID = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})", re.ASCII | re.IGNORECASE)
_VIRTUAL_FUNCTION_LINK = re.compile(r"virtfn([0-9]{1,6})", re.ASCII)

logger = logging.getLogger(__name__)


class PciAddress(NamedTuple):
    """Where a PCI function sits; ordered as numbers, printed as sysfs and Nova write it."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read an address in full (`0000:84:00.0`) or short (`84:00.0`) form, in either case.

        Raises:
            ValueError: the text is no PCI address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI address: {text[:40]!r}")
        return cls(*(int(part or "0", 16) for part in match.groups()))

    def __str__(self) -> str:
        """Return the full form in lower case, `0000:84:00.0`."""
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


class PciId(NamedTuple):
    """A vendor and a device id: every such card, in any slot."""

    vendor: int
    device: int

    @classmethod
    def parse(cls, text: str) -> PciId:
        """Read `10de:1eb8`, in either case.

        Raises:
            ValueError: the text is no pair of PCI ids.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI id: {text[:40]!r}")
        return cls(int(match[1], 16), int(match[2], 16))

    def __str__(self) -> str:
        """Return `10de:1eb8`."""
        return f"{self.vendor:04x}:{self.device:04x}"


class Gpu(NamedTuple):
    """A graphics card as a physical function; file names below /sys/bus/pci/devices/ADDRESS."""

    address: PciAddress
    id: PciId  # vendor, device
    pci_class: int  # class, without the programming interface: 0x0300 or 0x0302
    subsystem: PciId | None  # subsystem_vendor, subsystem_device
    driver: str | None  # driver, a link; None: no driver bound
    numa_node: int | None  # numa_node; None: the host has one node or does not say (-1)
    total_vfs: int  # sriov_totalvfs; 0: the card has no SR-IOV
    virtual_functions: tuple[PciAddress, ...]  # virtfn0, virtfn1, ..., links, in that order

    @property
    def model(self) -> str:
        """What cards of one model share: boards as unlike as A2 and A16 have one PCI id."""
        return f"{self.id}/{self.subsystem}" if self.subsystem else str(self.id)


class GpuScan(NamedTuple):
    """What stands on the PCI buses of a host.

    Attributes:
        gpus: NVIDIA's GPUs in the order of their addresses; never a virtual function.
        unreadable: functions of NVIDIA's that do not tell what they are; maybe GPUs.
    """

    gpus: tuple[Gpu, ...]
    unreadable: tuple[PciAddress, ...] = ()


def list_gpus(root: Path, run: Runner | None = None) -> GpuScan:
    """Find the GPUs in sysfs and, given a runner, check them against lspci.

    One entry of sysfs that cannot be read is left out, with a warning, and hides no other.

    Args:
        root: the root of the host's file system.
        run: starts lspci; None relies on sysfs alone.
    """
    devices = root / "sys/bus/pci/devices"
    unreadable: list[PciAddress] = []
    gpus: list[Gpu] = []
    for name in _names(devices):
        try:
            address = PciAddress.parse(name)
        except ValueError:
            place = one_line(str(devices / name), 300)
            logger.warning("%s: not a PCI address, left out", place)
            continue
        if _is_virtual_function(os.path.join(devices, name)):
            continue  # has its card's vendor, class and often device id
        try:
            gpu = _read_gpu(devices / name, address)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read, left out: %s", devices / name, error)
            if _optional(devices / name / "vendor", 16) == NVIDIA:
                unreadable.append(address)
            continue
        if gpu is not None:
            gpus.append(gpu)
    gpus.sort(key=lambda gpu: gpu.address)
    if run is not None:
        _compare(frozenset(gpu.address for gpu in gpus), root, run)
    return GpuScan(tuple(gpus), tuple(sorted(unreadable)))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # a host, or a container, without a PCI bus
        return []


def _read_gpu(path: Path, address: PciAddress) -> Gpu | None:
    vendor = _hex(path / "vendor")
    if vendor != NVIDIA:
        return None
    pci_class = _hex(path / "class") >> 8
    if pci_class not in GPU_CLASSES:
        return None
    return Gpu(
        address=address,
        id=PciId(vendor, _hex(path / "device")),
        pci_class=pci_class,
        subsystem=_subsystem(path),
        driver=_driver(path),
        numa_node=_numa_node(path),
        total_vfs=_optional(path / "sriov_totalvfs", 10) or 0,
        virtual_functions=_virtual_functions(path),
    )


def _is_virtual_function(path: str | Path) -> bool:
    return os.path.lexists(os.path.join(path, "physfn"))


def _hex(path: Path) -> int:
    return int(path.read_text(encoding="ascii").strip(), 16)


def _optional(path: Path, base: int) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").strip(), base)
    except (OSError, ValueError):
        return None


def _subsystem(path: Path) -> PciId | None:
    vendor = _optional(path / "subsystem_vendor", 16)
    device = _optional(path / "subsystem_device", 16)
    return None if vendor is None or device is None else PciId(vendor, device)


def _driver(path: Path) -> str | None:
    try:
        return one_line(os.path.basename(os.readlink(path / "driver")), 60)
    except OSError:
        return None


def _numa_node(path: Path) -> int | None:
    node = _optional(path / "numa_node", 10)
    return None if node is None or node < 0 else node


def _virtual_functions(path: Path) -> tuple[PciAddress, ...]:
    """Follow virtfnN: how a card numbers its functions differs from card to card."""
    found = []
    for name in os.listdir(path):
        match = _VIRTUAL_FUNCTION_LINK.fullmatch(name)
        if match is None:
            continue
        try:
            target = os.path.basename(os.readlink(os.path.join(path, name)))
            found.append((int(match[1]), PciAddress.parse(target)))
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be followed, left out: %s", path / name, error)
    return tuple(dict.fromkeys(address for _, address in sorted(found)))


def _compare(in_sysfs: frozenset[PciAddress], root: Path, run: Runner) -> None:
    devices = root / "sys/bus/pci/devices"
    try:
        in_lspci = frozenset(
            address
            for address in _ask_lspci(root, run)
            if not _is_virtual_function(devices / str(address))
        )
    except (CommandError, ValueError) as error:
        # One device without `vendor`, `device` or `class` makes lspci print no device at all.
        logger.warning("lspci does not serve, using sysfs alone: %s", error)
        return
    for address in sorted(in_sysfs ^ in_lspci):
        witness = "sysfs" if address in in_sysfs else "lspci"
        logger.warning("only %s shows %s as an NVIDIA GPU", witness, address)


def _ask_lspci(root: Path, run: Runner) -> list[PciAddress]:
    # Without -A, a path that is not there makes lspci fall back to another way, silently.
    path = f"sysfs.path={root / 'sys/bus/pci'}"
    command = ("lspci", "-A", "linux-sysfs", "-O", path, "-Dvmmn", "-d", f"{NVIDIA:04x}:")
    found = []
    for record in run(*command).stdout.split("\n\n"):
        fields = dict(line.split(":\t", 1) for line in record.splitlines() if ":\t" in line)
        if "Slot" in fields and int(fields.get("Class", "0"), 16) in GPU_CLASSES:
            found.append(PciAddress.parse(fields["Slot"]))
    return found
