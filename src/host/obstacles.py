# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Why a card cannot offer any vGPU, whatever is requested, by what the host shows.

Such a card is left alone, and does not keep the others from being offered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Collection, Mapping

from gpu.card import Card
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.driver_state import DriverState
from system import sysfs

__all__ = ["find", "iommu_remedy"]

# Until NVIDIA's driver is installed, a card has no driver or the kernel's own.
_DRIVERS = (None, "nvidia", "nouveau")
_IOMMU_GROUPS = "sys/kernel/iommu_groups"
# How the IOMMU is switched on, by vendor_id in /proc/cpuinfo; AMD's and Arm's need no argument:
# https://docs.kernel.org/admin-guide/kernel-parameters.html
_IOMMU_REMEDIES = {
    "GenuineIntel": "enable VT-d in the BIOS and boot with intel_iommu=on",
    "AuthenticAMD": "enable AMD-Vi (IOMMU) in the BIOS",
}


def find(
    root: Path,
    card: Card,
    driver: DriverState,
    guests: Mapping[PciAddress, str],
    to_return: Collection[PciAddress] = (),
) -> Problem | None:
    """Return why a card cannot offer vGPUs; None if nothing on the host prevents it.

    Args:
        root: the root of the host's file system.
        card: the card.
        driver: NVIDIA's driver.
        guests: the PCI functions that guests are defined with, and the guests.
        to_return: the cards that are about to go back to their own driver.
    """
    address, gpu = card.address, card.gpu
    if gpu.driver not in _DRIVERS and address not in to_return:
        return Problem(ProblemKind.OTHER_DRIVER, address, driver=str(gpu.driver))
    if address in guests:
        return Problem(ProblemKind.WHOLE_CARD_OF_GUEST, address, guest=guests[address])
    if card.framework is None and driver.loaded is not None:
        obstacle = _without_framework(card, driver)
        if obstacle is not None:
            return obstacle
    # Virtual functions need an IOMMU; cards that are their own parents do not.
    if card.is_sriov and _is_iommu_off(root):
        return Problem(ProblemKind.IOMMU_OFF, address, remedy=iommu_remedy(root))
    return None


def _without_framework(card: Card, driver: DriverState) -> Problem | None:
    """Return why a card offers no vGPUs although the driver is loaded, as far as is known."""
    address, gpu = card.address, card.gpu
    if gpu.driver is None and not card.is_sriov:  # one with SR-IOV is bound again first
        return Problem(ProblemKind.DRIVER_NOT_BOUND, address)
    if gpu.driver == "nvidia" and not card.is_sriov:
        if gpu.is_ampere_or_newer:
            return Problem(ProblemKind.SRIOV_OFF, address)
        if driver.is_open:
            return Problem(ProblemKind.OPEN_MODULE, address, version=str(driver.loaded))
    return None


def _is_iommu_off(root: Path) -> bool:
    """Whether the kernel has found no IOMMU: /sys/kernel/iommu_groups is empty.

    https://docs.kernel.org/driver-api/vfio.html
    """
    try:
        return not os.listdir(root / _IOMMU_GROUPS)
    except OSError:
        return False  # unknown


def iommu_remedy(root: Path) -> str:
    """Return what switches the IOMMU of this host on."""
    cpu = sysfs.read(root / "proc/cpuinfo")
    remedies = (_IOMMU_REMEDIES[vendor] for vendor in _IOMMU_REMEDIES if vendor in cpu)
    return next(remedies, "enable the IOMMU (SMMU) in the firmware")
