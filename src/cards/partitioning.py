# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Partitions cards: GPU instances for MIG-backed types, or mixed-size mode.

The order matters. MIG mode can be changed only while the card has no virtual functions; enabling
them binds the driver again, which destroys GPU instances and ends mixed-size mode. So virtual
functions are enabled between the two, and instances are created before the first vGPU.
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Callable, Sequence

from cards import nvidia_smi, virtual_functions
from gpu.card import Card, CardMode
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from host import nvml_clients
from planning.preparation import Partitioning, gpu_instance_profiles
from state import driver_cache
from system.commands import CommandError, Runner

__all__ = ["ensure_mig_mode", "note_if_functions_unused", "partition", "query_types"]

logger = logging.getLogger(__name__)


def query_types(root: Path, run: Runner, card: Card, step: Partitioning) -> None:
    """Ask the driver for all types of a card, and reject what it does not support.

    The driver reports all types of a card, however it is partitioned now. If it reports none of
    a kind, time-sliced or MIG-backed, only partitioning the card shows them.

    Raises:
        HostError: NO_MIG or TYPE_NOT_OFFERED; DISK_WRITE_FAILED.
    """
    address, wants_mig = card.address, bool(step.instance_requests)
    try:
        supports_mig = not wants_mig or nvidia_smi.mig_mode(run, address)[0] is not None
        reported = nvidia_smi.supported_types(run, address)
    except CommandError as error:
        logger.warning("%s", error)
        return
    driver_cache.save_types(root, card.gpu, reported, are_all=True)
    driver_cache.mark_queried(root, address, supports_mig=supports_mig)
    if not supports_mig:
        requested = step.requested_types[0]
        raise HostError(Problem(ProblemKind.NO_MIG, address, vgpu_type=requested))
    card = card._replace(known_types=reported)
    unknown = [name for name in step.requested_types if card.find_known_type(name) is None]
    if unknown and any(vgpu_type.is_mig_backed is wants_mig for vgpu_type in reported):
        raise HostError(Problem(ProblemKind.TYPE_NOT_OFFERED, address, vgpu_type=unknown[0]))


def ensure_mig_mode(
    root: Path,
    run: Runner,
    card: Card,
    wanted: bool,
    is_free: Callable[[], bool],
    delays: Sequence[float] = (),
) -> None:
    """Switch MIG mode on or off.

    Its virtual functions are disabled for that, and the caller enables them again in any case.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        card: the card.
        wanted: whether MIG mode is to be on.
        is_free: returns whether no vGPU of the card is in use now.
        delays: seconds to wait before further attempts to disable its virtual functions.

    Raises:
        HostError: MIG_FAILED; MIG_PENDING if only a reboot completes the change.
    """
    address = card.address
    current, pending = _read_mig_mode(run, address, wanted)
    if current in (None, wanted):
        return
    driver_cache.save_mode(root, address, None)
    if card.gpu.virtual_functions:
        if not is_free():
            raise _failed(address, "a guest has just started")
        virtual_functions.disable_virtual_functions(root, run, card.gpu, delays)
    try:
        if current:
            nvidia_smi.destroy_instances(run, address)
        logger.info("%s: switching MIG mode %s", address, "on" if wanted else "off")
        if pending != wanted:
            nvidia_smi.set_mig_mode(run, address, wanted)
        is_complete = _complete_mig_mode(run, address, wanted)
    except CommandError as error:
        reason = nvml_clients.name_client(root, nvidia_smi.reason(error))
        raise _failed(address, reason) from error
    if not is_complete:
        raise HostError(Problem(ProblemKind.MIG_PENDING, address))


def _read_mig_mode(run: Runner, card: PciAddress, wanted: bool) -> tuple[bool | None, bool | None]:
    try:
        return nvidia_smi.mig_mode(run, card)
    except CommandError as error:
        if wanted:
            raise _failed(card, nvidia_smi.reason(error)) from error
        # Time-sliced types do not need nvidia-smi, which may not be installed.
        logger.warning("%s", error)
        return None, None


def _complete_mig_mode(run: Runner, card: PciAddress, wanted: bool) -> bool:
    """Reset a card if its MIG mode is pending; return whether the mode is in effect."""
    if nvidia_smi.mig_mode(run, card)[0] == wanted:
        return True
    try:
        nvidia_smi.reset(run, card)
    except CommandError as error:  # a client uses the card
        logger.warning("%s cannot be reset: %s", card, nvidia_smi.reason(error))
    return nvidia_smi.mig_mode(run, card)[0] == wanted


def _failed(card: PciAddress, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.MIG_FAILED, card, reason=reason))


def note_if_functions_unused(root: Path, run: Runner, card: PciAddress) -> bool:
    """Whether the driver reports that a card with SR-IOV offers its vGPUs itself; record that."""
    try:
        if nvidia_smi.is_on_functions(run, card) is not False:
            return False
        logger.info("%s offers its vGPUs itself", card)
        driver_cache.save_mode(root, card, CardMode(vgpus_on_functions=False))
    except (CommandError, HostError) as error:
        logger.warning("%s", error)
        return False
    return True


def partition(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Create the GPU instances of a card, or set mixed-size mode; return what could not be done.

    The caller ensures that the card has its virtual functions, and that none of its vGPUs is in
    use.

    Raises:
        HostError: MIG_FAILED or MIXED_SIZE_FAILED; DISK_WRITE_FAILED.
    """
    address = card.address
    try:
        if step.instance_requests:
            return _create_instances(root, run, card, step)
        mixed_size = _set_mixed_size(run, address, step.mixed_size)
    except CommandError as error:
        reason = nvml_clients.name_client(root, nvidia_smi.reason(error))
        if step.instance_requests:
            raise _failed(address, reason) from error
        if step.mixed_size:
            problem = Problem(ProblemKind.MIXED_SIZE_FAILED, address, reason=reason)
            raise HostError(problem) from error
        logger.warning("%s", error)  # nothing was requested that needs nvidia-smi
        return []
    driver_cache.save_mode(root, address, CardMode((), mixed_size))
    return []


def _create_instances(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Create the missing instances, where the driver chooses; larger ones first."""
    address = card.address
    reported = nvidia_smi.supported_types(run, address)
    driver_cache.save_types(root, card.gpu, reported, are_all=True)
    card = card._replace(known_types=reported)
    problems = [
        Problem(ProblemKind.TYPE_NOT_OFFERED, address, vgpu_type=requested)
        for requested in step.requested_types
        if card.find_mig_backed_type(requested) is None
    ]
    wanted = gpu_instance_profiles(step, card)
    if wanted is None:
        return problems or [_failed(address, "the driver reports no profile").problem]
    present = nvidia_smi.instances(run, address)
    if Counter(present) - Counter(wanted) and not step.keeps_other_instances:
        logger.info("%s: destroying the GPU instances with the profiles %s", address, present)
        nvidia_smi.destroy_instances(run, address)
        present = ()
    missing = Counter(wanted) - Counter(present)
    try:
        for profile in sorted(missing, key=lambda profile: -_framebuffer(card, profile)):
            for _ in range(missing[profile]):
                nvidia_smi.create_instance(run, address, profile)
    finally:  # the instances that exist count, even if they are fewer than requested
        driver_cache.save_mode(root, address, CardMode(nvidia_smi.instances(run, address)))
    logger.info("%s has GPU instances with the profiles %s", address, wanted)
    return problems


def _framebuffer(card: Card, profile: int) -> int:
    """Return the memory of the largest type of a profile, in MiB."""
    types = (known for known in card.known_types if known.gpu_instance_profile == profile)
    return max(vgpu_type.framebuffer or 0 for vgpu_type in types)


def _set_mixed_size(run: Runner, card: PciAddress, wanted: bool) -> bool | None:
    current = nvidia_smi.mixed_size(run, card)
    if current is None or current == wanted:
        return current
    nvidia_smi.set_mixed_size(run, card, wanted)
    logger.info("%s: mixed-size mode is %s", card, "on" if wanted else "off")
    return nvidia_smi.mixed_size(run, card)
