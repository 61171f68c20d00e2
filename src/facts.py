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
        is_masked: whether it is masked, by us or by the principal.
    """

    cards: tuple[Card, ...]
    driver: DriverState
    nova: NovaVersion | None
    is_shipped: bool
    is_masked: bool

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
    gpus = pci.list_gpus(root, run).gpus
    return Facts(
        cards=tuple(vgpu.inspect(root, gpu, count=count) for gpu in gpus),
        driver=driver.query(root, gpus),
        nova=_nova(root),
        is_shipped=services.is_shipped(root),
        is_masked=services.is_masked(root),
    )


def _nova(root: Path) -> NovaVersion | None:
    for package in apt.find(root, "nova-common"):
        if package.is_installed:
            with contextlib.suppress(ValueError):
                return NovaVersion.parse(package.version)
    return None
