# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A card that is given to a guest as a whole, as data; `host.whole_cards` reads it."""

from __future__ import annotations

from typing import NamedTuple

from gpu.card import Card
from gpu.pci import PciAddress, PciFunction
from gpu.problems import Problem, ProblemKind

__all__ = ["WholeCard"]


class WholeCard(NamedTuple):
    """A PCI function that guests are to get as a whole.

    Attributes:
        function: the function, mostly a GPU.
        companions: the other functions of its board in its IOMMU group, such as audio and USB. No
            guest can have the card while one of them has another driver.
        neighbours: all others in its IOMMU group: of other boards, or requested by themselves. No
            guest can have the card while the host uses one of them.
        card: the same as a GPU that offers vGPUs; None if it is not one of NVIDIA's GPUs.
        guests: the guests that are defined with it, running or not.
        is_nic: whether it is requested as a network function beside cards (GPUDirect).
        obstacle: why it cannot be given away, by what the host shows; see `host.whole_cards`.
    """

    function: PciFunction
    companions: tuple[PciFunction, ...] = ()
    neighbours: tuple[PciFunction, ...] = ()
    card: Card | None = None
    guests: tuple[str, ...] = ()
    is_nic: bool = False
    obstacle: Problem | None = None

    @property
    def address(self) -> PciAddress:
        """The address of the function."""
        return self.function.address

    @property
    def functions(self) -> tuple[PciFunction, ...]:
        """The function and its companions."""
        return (self.function, *self.companions)

    @property
    def group(self) -> tuple[PciFunction, ...]:
        """All functions of its IOMMU group, without bridges."""
        return (*self.functions, *self.neighbours)

    @property
    def is_bound(self) -> bool:
        """Whether vfio-pci is bound to it and its companions."""
        return all(function.has_vfio for function in self.functions)

    @property
    def is_ready(self) -> bool:
        """Whether a guest can have it now."""
        is_viable = all(other.spares_its_group for other in self.neighbours)
        return self.obstacle is None and self.is_bound and is_viable

    def blocked_by(self, other: PciFunction) -> Problem:
        """Return that a function of its IOMMU group keeps guests from having it."""
        kind, driver = ProblemKind.GROUP_SHARED, str(other.driver)
        return Problem(kind, self.address, other=str(other.address), driver=driver)

    @property
    def is_for_its_guest(self) -> bool:
        """Whether it stays offered, since a guest is defined with it, even if it is not ready.

        Nova has allocated it to that guest, so no other can get it. Not if the host uses it.
        """
        kinds = (None, ProblemKind.USED_BY_PROGRAM, ProblemKind.GROUP_SHARED)
        return bool(self.guests) and (self.obstacle and self.obstacle.kind) in kinds

    @property
    def has_vgpus(self) -> bool:
        """Whether guests have vGPUs on it, so that it must stay as it is."""
        return self.card is not None and bool(self.card.in_use or self.card.guest_vgpus)
