# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""All that is read from a host, gathered once an event."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, NamedTuple

from cards import guest_mdevs
from cards.guest_mdevs import Mdev
from driver import daemon, installation
from driver.installation import DriverState
from gpu.card import Card, VgpuType
from host import mdev, vendor_vfio
from host.gpus import Gpu, PciAddress, list_gpus
from nova_compute.release import NovaVersion
from state import driver_cache
from system import apt
from system.commands import Runner

__all__ = ["HostFacts", "gather", "inspect"]

_VERSION = re.compile(r"(?:[0-9]+:)?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


class HostFacts(NamedTuple):
    """One host as it is.

    Attributes:
        cards: its GPUs and what they offer.
        driver: the host driver.
        nova: the installed Nova; None before nova-common is.
        has_vgpu_daemon: whether NVIDIA's daemon is installed.
        is_paused_by_mask: whether it, or nova-compute, is masked: by us or by the principal.
        is_principal_paused: whether nova-compute is masked; None if it is not installed.
        unreadable: functions of NVIDIA's that do not tell what they are.
        libvirt: version of the installed libvirt0.
        qemu: version of the installed QEMU for x86.
        lost_mdevs: mediated devices of defined guests that a boot took.
        lost_types: types that a boot took from functions of defined guests (vendor VFIO).
    """

    cards: tuple[Card, ...]
    driver: DriverState
    nova: NovaVersion | None
    has_vgpu_daemon: bool
    is_paused_by_mask: bool
    is_principal_paused: bool | None = None
    unreadable: tuple[PciAddress, ...] = ()
    libvirt: tuple[int, ...] | None = None
    qemu: tuple[int, ...] | None = None
    lost_mdevs: tuple[Mdev, ...] = ()
    lost_types: tuple[tuple[PciAddress, str], ...] = ()

    @property
    def in_use(self) -> tuple[str, ...]:
        """The vGPUs that exist on any card."""
        return tuple(name for card in self.cards for name in card.in_use)

    @property
    def mdevs_to_restore(self) -> tuple[Mdev, ...]:
        """The mediated devices that are for us to bring back."""
        keeps = self.nova_restores_mdevs
        return tuple(
            mdev for mdev in self.lost_mdevs if not (keeps and mdev.has_mdevctl_definition)
        )

    @property
    def types_to_restore(self) -> tuple[tuple[PciAddress, str], ...]:
        """The types of functions that are for us to bring back, where Nova knows them."""
        is_known = self.nova is not None and self.nova.supports_variant_driver
        return self.lost_types if is_known else ()

    @property
    def has_vgpus_to_restore(self) -> bool:
        """Whether a defined guest lacks what a boot took and we are to bring back."""
        return bool(self.mdevs_to_restore or self.types_to_restore)

    @property
    def nova_restores_mdevs(self) -> bool:
        """Whether Nova brings back after a boot what mdevctl has defined: 30 with libvirt 7.3."""
        is_nova_able = self.nova is not None and self.nova.major >= 30
        return is_nova_able and self.libvirt_uses_mdevctl

    @property
    def libvirt_uses_mdevctl(self) -> bool:
        """Whether libvirt keeps mediated devices, which it does through the program mdevctl."""
        return self.libvirt is not None and self.libvirt >= (7, 3)

    @property
    def can_migrate_functions(self) -> bool:
        """Whether guests can be migrated with functions under the kernel variant driver.

        Nova asks for the same: MIN_VFIO_PCI_VARIANT_LIBVIRT_VERSION in nova/virt/libvirt/driver.py
        """
        libvirt, qemu = self.libvirt or (), self.qemu or ()
        return libvirt >= (10, 0, 0) and qemu >= (8, 2, 2)


def gather(root: Path, run: Runner | None = None, *, count: bool = False) -> HostFacts:
    """Read a host; nothing is changed.

    Args:
        root: the root of its file system.
        run: if given, lspci is asked as a second witness.
        count: whether to add up free instances; see `mdev.inspect`.
    """
    inventory = list_gpus(root, run)
    gpus = inventory.gpus
    is_sriov = any(gpu.total_vfs for gpu in gpus)
    known, modes = (
        (driver_cache.load_types(root), driver_cache.load_modes(root)) if is_sriov else ({}, {})
    )
    is_principal_paused = daemon.is_principal_paused(root)
    versions = _versions(root)
    cards = tuple(
        card._replace(mode=modes.get(card.gpu.address))
        for card in inspect(root, gpus, known, count=count)
    )
    mdevs = guest_mdevs.lost_mdevs(root, cards)
    types = vendor_vfio.absent(root, cards)
    reserved = [(mdev.parent, VgpuType(mdev.type_id, mdev.name or mdev.type_id)) for mdev in mdevs]
    names = {each.id: each for told in known.values() for each in told}
    reserved += [
        (function, names.get(type_id, VgpuType(type_id, type_id))) for function, type_id in types
    ]
    return HostFacts(
        cards=tuple(_reserve(card, reserved) for card in cards) if reserved else cards,
        driver=installation.query(root, gpus),
        nova=_nova(versions),
        has_vgpu_daemon=daemon.is_shipped(root),
        is_paused_by_mask=daemon.is_masked(root) or is_principal_paused is True,
        is_principal_paused=is_principal_paused,
        unreadable=inventory.unreadable,
        libvirt=_numbers(versions.get("libvirt0", "")),
        qemu=_numbers(versions.get("qemu-system-x86", "")),
        lost_mdevs=mdevs,
        lost_types=types,
    )


def inspect(
    root: Path, gpus: tuple[Gpu, ...], known: Mapping[str, tuple[VgpuType, ...]], *, count: bool
) -> tuple[Card, ...]:
    """Read what cards offer, each by whichever way it does; see `mdev` and `vendor_vfio`.

    Args:
        root: the root of the host's file system.
        gpus: the cards.
        known: types that cards of a model were seen to offer.
        count: whether to add up free instances; see `mdev.inspect`.
    """
    cards = tuple(_inspect(root, gpu, known.get(gpu.model, ()), count) for gpu in gpus)
    return vendor_vfio.in_use(root, cards)


def _inspect(root: Path, gpu: Gpu, remembered: tuple[VgpuType, ...], count: bool) -> Card:
    found = mdev.inspect(root, gpu, count=count) or vendor_vfio.inspect(root, gpu, remembered)
    return (found or Card(gpu, None))._replace(known_types=remembered)


def _reserve(card: Card, reserved: list[tuple[PciAddress, VgpuType]]) -> Card:
    """Count what a boot took from defined guests among a card's: it is theirs all the same."""
    mine = [(parent, owed) for parent, owed in reserved if _is_of(card, parent)]
    return card._replace(
        guest_vgpus=(*card.guest_vgpus, *((parent, owed.id) for parent, owed in mine)),
        lost_types=tuple(dict.fromkeys(owed for _, owed in mine)),
    )


def _is_of(card: Card, parent: PciAddress) -> bool:
    """Whether a parent is a card's own, or, before its functions are enabled, shares its bus."""
    gpu = card.gpu
    if gpu.virtual_functions or not card.is_sriov:
        return parent in (gpu.address, *gpu.virtual_functions)
    return parent[:2] == gpu.address[:2]


def _versions(root: Path) -> dict[str, str]:
    packages = apt.find(root, "(?:nova-common|libvirt0|qemu-system-x86)")
    return {package.name: package.version for package in packages if package.is_installed}


def _nova(versions: dict[str, str]) -> NovaVersion | None:
    try:
        return NovaVersion.parse(versions["nova-common"])
    except (KeyError, ValueError):
        return None


def _numbers(version: str) -> tuple[int, ...] | None:
    match = _VERSION.match(version)
    return None if match is None else tuple(int(part or 0) for part in match.groups())
