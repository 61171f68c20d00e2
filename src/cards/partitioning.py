# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How a card is parted: GPU instances for MIG-backed types, or mixed-size mode.

The order matters. MIG mode changes only while the card has no virtual functions; enabling them
binds the driver anew, which wipes GPU instances and leaves mixed-size mode; so the functions come
between the two, and instances before the first vGPU.
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Callable

from cards import nvidia_smi, virtual_functions
from gpu.card import Card, CardMode
from gpu.problems import HostError, Problem, ProblemKind
from host.gpus import PciAddress
from planning.preparation import Partitioning, gpu_instance_profiles
from state import driver_cache
from system.commands import CommandError, Runner

__all__ = ["ensure_mig_mode", "note_if_functions_unused", "partition", "query_types"]

logger = logging.getLogger(__name__)


def query_types(root: Path, run: Runner, card: Card, step: Partitioning) -> None:
    """Ask the driver what a card can be, and refuse what it cannot, before anything is touched.

    The driver tells all types of a card, however it is parted now; if it tells none of a kind,
    the card has to be parted to know.

    Raises:
        HostError: NO_MIG or TYPE_NOT_OFFERED; DISK.
    """
    address, wants_mig = card.gpu.address, bool(step.instance_requests)
    try:
        has_mig = not wants_mig or nvidia_smi.mig_mode(run, address)[0] is not None
        told = nvidia_smi.supported_types(run, address)
    except CommandError as error:
        logger.warning("%s", error)
        return
    driver_cache.save_types(root, card.gpu, told, are_all=True)
    driver_cache.mark_queried(root, address, has_mig=has_mig)
    if not has_mig:
        raise HostError(Problem(ProblemKind.NO_MIG, str(address), step.requested_types[0]))
    card = card._replace(known_types=told)
    unknown = [word for word in step.requested_types if card.find_known_type(word) is None]
    if unknown and any(known.is_mig_backed is wants_mig for known in told):
        raise HostError(Problem(ProblemKind.TYPE_NOT_OFFERED, str(address), unknown[0]))


def ensure_mig_mode(
    root: Path,
    run: Runner,
    card: Card,
    step: Partitioning | None,
    is_free: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Switch MIG mode on for a card that needs GPU instances, off for one that does not.

    Its virtual functions are off afterwards, and to be enabled again whatever came of it.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        card: the card.
        step: how it is to be parted; None for a card that may stay as it comes.
        is_free: tells whether no vGPU of the card is in use now.
        sleep: waits so many seconds.

    Raises:
        HostError: MIG_FAILED; MIG_PENDING, if only a reboot brings the change.
    """
    address, wanted = card.gpu.address, step is not None and bool(step.instance_requests)
    current, pending = _read_mig_mode(run, address, wanted)
    if current in (None, wanted):
        return
    driver_cache.save_mode(root, address, None)
    if card.gpu.virtual_functions:
        if not is_free():
            raise _failed(address, "a guest has just started")
        virtual_functions.disable_virtual_functions(root, run, card.gpu, sleep)
    try:
        if current:
            nvidia_smi.destroy_instances(run, address)
        _switch(run, address, wanted, is_pending=pending == wanted)
    except CommandError as error:
        raise _failed(address, nvidia_smi.reason(error)) from error


def _read_mig_mode(run: Runner, card: PciAddress, wanted: bool) -> tuple[bool | None, bool | None]:
    try:
        return nvidia_smi.mig_mode(run, card)
    except CommandError as error:
        if wanted:
            raise _failed(card, nvidia_smi.reason(error)) from error
        # Time-sliced types need nothing of nvidia-smi; it may not even be there.
        logger.warning("%s", error)
        return None, None


def _failed(card: PciAddress, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.MIG_FAILED, str(card), reason))


def _switch(run: Runner, card: PciAddress, wanted: bool, *, is_pending: bool) -> None:
    logger.info("%s: switching MIG mode %s", card, "on" if wanted else "off")
    if not is_pending:
        nvidia_smi.set_mig_mode(run, card, wanted)
    if nvidia_smi.mig_mode(run, card)[0] == wanted:
        return
    try:  # it waits for a reset, which a client of the card may prevent
        nvidia_smi.reset(run, card)
    except CommandError as error:
        logger.warning("%s cannot be reset: %s", card, nvidia_smi.reason(error))
    if nvidia_smi.mig_mode(run, card)[0] != wanted:
        raise HostError(Problem(ProblemKind.MIG_PENDING, str(card)))


def note_if_functions_unused(root: Path, run: Runner, card: PciAddress) -> bool:
    """Whether the driver says that a card itself carries its vGPUs, although it shows SR-IOV."""
    try:
        if nvidia_smi.is_on_functions(run, card) is not False:
            return False
        logger.info("%s carries its vGPUs itself", card)
        driver_cache.save_mode(root, card, CardMode(vgpus_on_functions=False))
    except (CommandError, HostError) as error:
        logger.warning("%s", error)
        return False
    return True


def partition(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Make the GPU instances of a card, or switch mixed-size mode; return what could not be done.

    The card has its virtual functions, and no vGPU of it is in use.

    Raises:
        HostError: MIG_FAILED or MIXED_SIZE_FAILED; DISK.
    """
    address = card.gpu.address
    try:
        if step.instance_requests:
            return _make_instances(root, run, card, step)
        is_mixed = _switch_sizes(run, address, step.mixed_size)
    except CommandError as error:
        if step.instance_requests:
            raise _failed(address, nvidia_smi.reason(error)) from error
        if step.mixed_size:
            reason = nvidia_smi.reason(error)
            raise HostError(
                Problem(ProblemKind.MIXED_SIZE_FAILED, str(address), reason)
            ) from error
        logger.warning("%s", error)  # nobody asked for what it cannot tell
        return []
    driver_cache.save_mode(root, address, CardMode((), is_mixed))
    return []


def _make_instances(root: Path, run: Runner, card: Card, step: Partitioning) -> list[Problem]:
    """Make the instances that are missing, the driver's choice of place; larger ones first."""
    address = card.gpu.address
    told = nvidia_smi.supported_types(run, address)
    driver_cache.save_types(root, card.gpu, told, are_all=True)
    card = card._replace(known_types=told)
    problems = [
        Problem(ProblemKind.TYPE_NOT_OFFERED, str(address), word)
        for word in step.requested_types
        if card.find_mig_backed_type(word) is None
    ]
    wanted = gpu_instance_profiles(step, card)
    if wanted is None:
        return problems or [_failed(address, "its types tell no profile").problem]
    there = nvidia_smi.instances(run, address)
    if Counter(there) - Counter(wanted) and not step.keeps_other_instances:
        logger.info("%s: destroying GPU instances of the profiles %s", address, there)
        nvidia_smi.destroy_instances(run, address)
        there = ()
    missing = Counter(wanted) - Counter(there)
    try:
        for profile in sorted(missing, key=lambda each: -_size(card, each)):
            for _ in range(missing[profile]):
                nvidia_smi.create_instance(run, address, profile)
    finally:  # what there is counts, also where it is less than was asked for
        driver_cache.save_mode(root, address, CardMode(nvidia_smi.instances(run, address)))
    logger.info("%s has GPU instances of the profiles %s", address, wanted)
    return problems


def _size(card: Card, profile: int) -> int:
    """Return how much memory the largest type of a profile has, in MiB."""
    return max(
        known.framebuffer or 0
        for known in card.known_types
        if known.gpu_instance_profile == profile
    )


def _switch_sizes(run: Runner, card: PciAddress, wanted: bool) -> bool | None:
    current = nvidia_smi.mixed_size(run, card)
    if current is None or current == wanted:
        return current
    nvidia_smi.set_mixed_size(run, card, wanted)
    logger.info("%s: mixed-size mode is %s", card, "on" if wanted else "off")
    return nvidia_smi.mixed_size(run, card)
