# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Why a card cannot offer any vGPU, whatever is requested, by what the host shows.

Such a card is left alone, and does not keep the others from being offered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping

from gpu.card import Card
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.driver_state import DriverState

__all__ = ["find", "is_iommu_off"]

# Until NVIDIA's driver is installed, a card has no driver or the kernel's own.
_DRIVERS = (None, "nvidia", "nouveau")
_IOMMU_GROUPS = "sys/kernel/iommu_groups"


def find(
    card: Card, driver: DriverState, whole_cards: Mapping[PciAddress, str], *, iommu_is_off: bool
) -> Problem | None:
    """Return why a card cannot offer vGPUs; None if nothing on the host prevents it.

    Args:
        card: the card.
        driver: NVIDIA's driver.
        whole_cards: the PCI functions that guests are defined with, and the guests.
        iommu_is_off: see `is_iommu_off`.
    """
    address, gpu = card.address, card.gpu
    if gpu.driver not in _DRIVERS:
        return Problem(ProblemKind.OTHER_DRIVER, address, driver=str(gpu.driver))
    if address in whole_cards:
        return Problem(ProblemKind.WHOLE_CARD_OF_GUEST, address, guest=whole_cards[address])
    if card.framework is not None or driver.loaded is None:
        return _iommu_off(card) if iommu_is_off else None
    if gpu.driver is None and not card.is_sriov:  # one with SR-IOV is bound again first
        return Problem(ProblemKind.DRIVER_NOT_BOUND, address)
    if gpu.driver == "nvidia" and not card.is_sriov:
        if gpu.is_ampere_or_newer:
            return Problem(ProblemKind.SRIOV_OFF, address)
        if driver.is_open:
            return Problem(ProblemKind.OPEN_MODULE, address, version=driver.loaded)
    return _iommu_off(card) if iommu_is_off else None


def is_iommu_off(root: Path) -> bool:
    """Whether the kernel has found no IOMMU: /sys/kernel/iommu_groups is empty.

    https://docs.kernel.org/driver-api/vfio.html
    """
    try:
        return not os.listdir(root / _IOMMU_GROUPS)
    except OSError:
        return False  # unknown


def _iommu_off(card: Card) -> Problem | None:
    """Virtual functions need an IOMMU; cards that are their own parents do not."""
    return Problem(ProblemKind.IOMMU_OFF, card.address) if card.is_sriov else None
