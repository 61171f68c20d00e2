# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that is read from a host, gathered once for each event."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, NamedTuple

from gpu.card import Card, VgpuType
from gpu.pci import NO_WHOLE_DEVICES, Gpu, PciAddress, WholeDevices
from gpu.whole_card import WholeCard
from host import (
    driver_state,
    gpus,
    guest_vgpus,
    libvirt_guests,
    mdev,
    obstacles,
    vendor_vfio,
)
from host.driver_state import DAEMON, DriverState
from nova_compute.release import NovaVersion
from state import bound_functions, driver_cache
from state.mdev_records import Mdev
from system import dpkg, systemd

__all__ = ["HostFacts", "HostReader", "gather", "inspect"]

_NOVA_COMPUTE = "nova-compute"
_CONTAINER = "run/systemd/container"  # systemd writes it, https://systemd.io/CONTAINER_INTERFACE
_VERSION = re.compile(r"(?:[0-9]+:)?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?", re.ASCII)


class HostFacts(NamedTuple):
    """The present state of one host.

    Attributes:
        cards: its GPUs and what they offer.
        driver: NVIDIA's driver.
        nova: the installed Nova; None before nova-common is installed.
        has_vgpu_daemon: whether NVIDIA's daemon is installed.
        is_paused_by_mask: whether this unit or the principal has masked it or nova-compute.
        is_principal_paused: whether nova-compute is masked; None if it is not installed.
        unreadable: NVIDIA's functions whose attributes cannot be read.
        libvirt: version of the installed libvirt0.
        qemu: version of the installed QEMU for x86 or Arm.
        lost_mdevs: mediated devices that defined guests lost at boot.
        lost_types: functions of defined guests, and the types that they lost at boot (vendor
            VFIO).
        vgpus_on_unreadable_cards: vGPUs that exist, or that guests have, on cards that cannot be
            read.
        is_container: whether this is a container, which shows the cards of its host.
        passthrough: the devices that guests are to get as a whole, as requested.
        whole_cards: those of them that this host has; those of them that are GPUs
            are not among `cards`, unless guests have vGPUs on them.
        functions_to_return: the functions that the charm has bound to vfio-pci, that nobody
            requests any more, and that no guest has.
        operator_pci_options: what the operator has set in [pci] on nova-compute; read only if
            there are whole cards.
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
    vgpus_on_unreadable_cards: tuple[str, ...] = ()
    is_container: bool = False
    passthrough: WholeDevices = NO_WHOLE_DEVICES
    whole_cards: tuple[WholeCard, ...] = ()
    functions_to_return: tuple[PciAddress, ...] = ()
    operator_pci_options: tuple[tuple[str, str], ...] = ()

    @property
    def in_use(self) -> tuple[str, ...]:
        """The vGPUs that exist on any card; see `Card.in_use`."""
        on_cards = (name for card in self.cards for name in card.in_use)
        return (*on_cards, *self.vgpus_on_unreadable_cards)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All of NVIDIA's GPUs, also those that are given away whole."""
        whole = (item.card for item in self.whole_cards if item.card is not None)
        return tuple(dict.fromkeys(card.gpu for card in (*self.cards, *whole)))

    @property
    def unreadable_devices(self) -> tuple[PciAddress, ...]:
        """The cards and virtual functions that cannot be read."""
        functions = (name for card in self.cards for name in card.unreadable_functions)
        return (*self.unreadable, *map(PciAddress.parse, functions))

    @property
    def has_unreadable_vgpus(self) -> bool:
        """Whether guests have vGPUs, or may have them, on devices that cannot be read."""
        on_functions = any(card.unreadable_functions for card in self.cards)
        return on_functions or bool(self.vgpus_on_unreadable_cards)

    @property
    def own_cards(self) -> tuple[Card, ...]:
        """The cards for NVIDIA's host software: not those of other drivers or of guests."""
        return tuple(card for card in self.cards if not card.is_assigned_elsewhere)

    @property
    def mdevs_to_restore(self) -> tuple[Mdev, ...]:
        """The lost mediated devices that the charm must recreate."""
        by_nova = self.nova_restores_mdevs
        return tuple(
            mdev for mdev in self.lost_mdevs if not (by_nova and mdev.has_mdevctl_definition)
        )

    @property
    def types_to_restore(self) -> tuple[tuple[PciAddress, str], ...]:
        """The lost types that the charm must assign again, where Nova supports them."""
        is_supported = self.nova is not None and self.nova.supports_variant_driver
        return self.lost_types if is_supported else ()

    @property
    def has_vgpus_to_restore(self) -> bool:
        """Whether a defined guest lost a vGPU that the charm must restore."""
        return bool(self.mdevs_to_restore or self.types_to_restore)

    @property
    def nova_restores_mdevs(self) -> bool:
        """Whether Nova recreates what mdevctl defines: from 30 on, with libvirt 7.3."""
        return self.nova is not None and self.nova.major >= 30 and self.libvirt_uses_mdevctl

    @property
    def libvirt_uses_mdevctl(self) -> bool:
        """Whether libvirt defines mediated devices, which it does with the program mdevctl."""
        return self.libvirt is not None and self.libvirt >= (7, 3)

    @property
    def can_migrate_functions(self) -> bool:
        """Whether guests can be migrated with functions under the kernel variant driver.

        Nova requires the same: MIN_VFIO_PCI_VARIANT_LIBVIRT_VERSION in
        nova/virt/libvirt/driver.py.
        """
        libvirt, qemu = self.libvirt or (), self.qemu or ()
        return libvirt >= (10, 0, 0) and qemu >= (8, 2, 2)


def gather(
    root: Path, passthrough: WholeDevices = NO_WHOLE_DEVICES, *, count: bool = False
) -> HostFacts:
    """Read a host.

    Args:
        root: the root of its file system.
        passthrough: the devices that guests are to get as a whole.
        count: whether to add up available instances; see `mdev.inspect`.
    """
    scan = gpus.scan(root)
    versions = _package_versions(root)
    is_principal_paused = _is_principal_paused(root)
    driver = driver_state.query(root, scan.gpus)
    cards = _read_cards(root, scan.gpus, driver, passthrough, count=count)
    lost_mdevs = guest_vgpus.lost_mdevs(root, cards)
    lost_types = guest_vgpus.lost_types(root, cards)
    cards = guest_vgpus.with_lost_vgpus(cards, lost_mdevs, lost_types)
    whole_cards = _read_whole_cards(root, passthrough, cards)
    given_away = {item.address for item in whole_cards if not item.has_vgpus}
    return HostFacts(
        cards=tuple(card for card in cards if card.address not in given_away),
        driver=driver,
        nova=_nova_version(versions),
        has_vgpu_daemon=systemd.has_unit(root, DAEMON),
        is_paused_by_mask=systemd.is_masked(root, DAEMON) or is_principal_paused is True,
        is_principal_paused=is_principal_paused,
        unreadable=scan.unreadable,
        libvirt=_numbers(versions.get("libvirt0", "")),
        qemu=_numbers(versions.get("qemu-system-x86") or versions.get("qemu-system-arm", "")),
        lost_mdevs=lost_mdevs,
        lost_types=lost_types,
        vgpus_on_unreadable_cards=guest_vgpus.vgpus_on_unreadable_cards(
            root, cards, scan.unreadable
        ),
        is_container=(root / _CONTAINER).exists(),
        passthrough=passthrough,
        whole_cards=whole_cards,
        functions_to_return=_functions_to_return(root, passthrough),
        operator_pci_options=_operator_pci_options(root) if whole_cards else (),
    )


# Most hosts give no card away, so these import what they need.


def _read_whole_cards(
    root: Path, passthrough: WholeDevices, cards: tuple[Card, ...]
) -> tuple[WholeCard, ...]:
    if not passthrough.all:
        return ()
    from host import whole_cards

    guests = libvirt_guests.defined_functions(root)
    return whole_cards.read(root, passthrough, cards, guests)


def _functions_to_return(root: Path, passthrough: WholeDevices) -> tuple[PciAddress, ...]:
    if not bound_functions.load(root):
        return ()
    from host import whole_cards

    return whole_cards.functions_to_return(root, passthrough)


def _operator_pci_options(root: Path) -> tuple[tuple[str, str], ...]:
    from host import principal_config

    return principal_config.pci_options(root)


class HostReader:
    """A host that is read once; afterwards only what a change can have affected is read again.

    A driver answers slowly, and a host has up to hundreds of virtual functions.

    Attributes:
        root: the root of the host's file system.
        passthrough: the devices that guests are to get as a whole.
        facts: the host as it was last read.
    """

    def __init__(self, root: Path, passthrough: WholeDevices = NO_WHOLE_DEVICES) -> None:
        self.root = root
        self.passthrough = passthrough
        self.facts = gather(root, passthrough)

    def read(self) -> None:
        """Read the complete host again."""
        self.facts = gather(self.root, self.passthrough)

    def read_card(self, address: PciAddress) -> Card | None:
        """Read one card again, after a change to it alone; None if it has vanished."""
        gpu = gpus.read(self.root, address)
        scanned = () if gpu is None else (gpu,)
        read = _read_cards(self.root, scanned, self.facts.driver, self.passthrough, count=False)
        others = [card for card in self.facts.cards if card.address != address]
        cards = (*others, *read)
        lost_mdevs = guest_vgpus.lost_mdevs(self.root, cards)
        lost_types = guest_vgpus.lost_types(self.root, cards)
        read = guest_vgpus.with_lost_vgpus(read, lost_mdevs, lost_types)
        self.facts = self.facts._replace(
            cards=tuple(sorted((*others, *read), key=lambda card: card.address)),
            lost_mdevs=lost_mdevs,
            lost_types=lost_types,
        )
        return next(iter(read), None)


def _read_cards(
    root: Path,
    scanned: tuple[Gpu, ...],
    driver: DriverState,
    passthrough: WholeDevices,
    *,
    count: bool,
) -> tuple[Card, ...]:
    if not scanned:
        return ()
    known_types, modes = {}, {}
    if any(gpu.total_vfs for gpu in scanned):
        known_types, modes = driver_cache.load_types(root), driver_cache.load_modes(root)
    cards = inspect(root, scanned, known_types, count=count)
    cards = tuple(card._replace(mode=modes.get(card.address)) for card in cards)
    guests = libvirt_guests.defined_functions(root)
    to_return = _functions_to_return(root, passthrough)
    return tuple(
        card._replace(obstacle=obstacles.find(root, card, driver, guests, to_return))
        for card in cards
    )


def inspect(
    root: Path,
    scanned: tuple[Gpu, ...],
    known_types: Mapping[str, tuple[VgpuType, ...]],
    *,
    count: bool,
) -> tuple[Card, ...]:
    """Read what each card offers, through whichever framework; see `mdev` and `vendor_vfio`.

    Args:
        root: the root of the host's file system.
        scanned: the GPUs.
        known_types: types that cards have reported earlier, by model.
        count: whether to add up available instances; see `mdev.inspect`.
    """
    cards = tuple(_inspect(root, gpu, known_types.get(gpu.model, ()), count) for gpu in scanned)
    return guest_vgpus.with_functions_in_use(root, cards)


def _inspect(root: Path, gpu: Gpu, known_types: tuple[VgpuType, ...], count: bool) -> Card:
    card = (
        mdev.inspect(root, gpu, count=count)
        or vendor_vfio.inspect(root, gpu, known_types)
        or Card(gpu, None)
    )
    return card._replace(known_types=known_types)


def _is_principal_paused(root: Path) -> bool | None:
    """Whether nova-compute is masked, as the principal's pause does; None if not installed."""
    if systemd.is_masked(root, _NOVA_COMPUTE):
        return True
    return False if systemd.has_unit(root, _NOVA_COMPUTE) else None


def _package_versions(root: Path) -> dict[str, str]:
    packages = dpkg.find(root, "(?:nova-common|libvirt0|qemu-system-(?:x86|arm))")
    return {package.name: package.version for package in packages if package.is_installed}


def _nova_version(versions: dict[str, str]) -> NovaVersion | None:
    try:
        return NovaVersion.parse(versions["nova-common"])
    except (KeyError, ValueError):
        return None


def _numbers(version: str) -> tuple[int, ...] | None:
    match = _VERSION.match(version)
    return None if match is None else tuple(int(part or 0) for part in match.groups())
