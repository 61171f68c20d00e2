# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which whole cards a host offers, as data; `planning.whole_cards` derives it.

Every hook imports this, and only hosts that give cards away need to know how it is derived.
"""

from __future__ import annotations

from typing import Iterable, NamedTuple

from gpu.pci import PciAddress, PciId
from gpu.problems import Problem, ProblemKind
from planning.passthrough import PassthroughRequest

__all__ = ["WholeCardOffer", "WholeCardPlan"]


class WholeCardOffer(NamedTuple):
    """The cards of one model under one name, ready to be published to Nova.

    Attributes:
        name: the name of the PCI alias.
        id: their vendor and device ID.
        device_type: Nova's device_type, `type-PCI`, `type-PF` or `type-VF`.
        addresses: the cards.
        numa_policy: Nova's numa_policy; None for its default.
        resource_class: the requested class in placement; None if none was requested.
        is_nic: whether they are network functions beside cards.
    """

    name: str
    id: PciId
    device_type: str
    addresses: tuple[PciAddress, ...]
    numa_policy: str | None = None
    resource_class: str | None = None
    is_nic: bool = False


class WholeCardPlan(NamedTuple):
    """The whole cards of a host.

    Attributes:
        requests: the requests that select something on this host.
        offers: in the order of the option; all are published, or none if there are problems.
        later_offers: the same once all cards are bound that can be.
        problems: what is wrong with the option on this host. What is published then stays, and
            no driver is changed.
        notes: why single cards are not offered.
        to_bind: the cards that vfio-pci must be bound to first.
        to_return: the functions that go back to their own driver.
        for_other_hosts: requests that select nothing on this host.
        keeps_published: whether what is published stays, since a change cannot be recorded.
        is_last_valid: whether this is the plan for the last valid value, as this one is not.
    """

    requests: tuple[PassthroughRequest, ...] = ()
    offers: tuple[WholeCardOffer, ...] = ()
    later_offers: tuple[WholeCardOffer, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    to_bind: tuple[PciAddress, ...] = ()
    to_return: tuple[PciAddress, ...] = ()
    for_other_hosts: tuple[PassthroughRequest, ...] = ()
    keeps_published: bool = False
    is_last_valid: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether a driver is to be changed."""
        return bool(self.to_bind or self.to_return)

    def with_problems(self, problems: Iterable[Problem]) -> WholeCardPlan:
        """Return the plan with more problems, which keep everything as it is."""
        problems = tuple(dict.fromkeys((*self.problems, *problems)))
        if not problems:
            return self
        pending = ProblemKind.BINDING_PENDING
        notes = tuple(note for note in self.notes if note.kind is not pending)
        return self._replace(problems=problems, notes=notes, to_bind=(), to_return=())

    def without_notes_on(self, addresses: Iterable[PciAddress | None]) -> WholeCardPlan:
        """Return the plan without notes on cards of which more is known."""
        known = frozenset(addresses)
        notes = tuple(note for note in self.notes if note.address not in known)
        return self._replace(notes=notes)
