# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""All that is read from a host, gathered once an event."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import apt
import driver
import pci
import services
import vgpu
from commands import Runner
from driver import DriverState
from pci import PciAddress
from releases import NovaVersion
from vgpu import Card

__all__ = ["Facts", "gather"]


class Facts(NamedTuple):
    """One host as it is.

    Attributes:
        cards: its GPUs and what they offer.
        driver: the host driver.
        nova: the installed Nova; None before nova-common is.
        is_shipped: whether NVIDIA's daemon is installed.
        is_masked: whether it, or nova-compute itself, is masked: by us or by the principal.
        is_principal_paused: whether nova-compute is masked; None if it is not installed.
        unreadable: functions of NVIDIA's that do not tell what they are.
    """

    cards: tuple[Card, ...]
    driver: DriverState
    nova: NovaVersion | None
    is_shipped: bool
    is_masked: bool
    is_principal_paused: bool | None = None
    unreadable: tuple[PciAddress, ...] = ()

    @property
    def in_use(self) -> tuple[str, ...]:
        """The vGPUs that exist on any card."""
        return tuple(name for card in self.cards for name in card.in_use)


def gather(root: Path, run: Runner | None = None, *, count: bool = False) -> Facts:
    """Read a host; nothing is changed.

    Args:
        root: the root of its file system.
        run: if given, lspci is asked as a second witness.
        count: whether to add up free instances; see `vgpu.inspect`.
    """
    inventory = pci.list_gpus(root, run)
    gpus = inventory.gpus
    known = vgpu.remembered_types(root) if any(gpu.virtual_functions for gpu in gpus) else {}
    is_principal_paused = services.is_principal_paused(root)
    return Facts(
        cards=tuple(
            vgpu.inspect(root, gpu, count=count, remembered=known.get(gpu.id, ())) for gpu in gpus
        ),
        driver=driver.query(root, gpus),
        nova=_nova(root),
        is_shipped=services.is_shipped(root),
        is_masked=services.is_masked(root) or is_principal_paused is True,
        is_principal_paused=is_principal_paused,
        unreadable=inventory.unreadable,
    )


def _nova(root: Path) -> NovaVersion | None:
    for package in apt.find(root, "nova-common"):
        if package.is_installed:
            with contextlib.suppress(ValueError):
                return NovaVersion.parse(package.version)
    return None
