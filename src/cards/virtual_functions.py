# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual functions of cards; the only place that starts NVIDIA's sriov-manage.

The driver refuses a number written to sriov_numvfs by hand, and loses the virtual functions at
each boot and at each reload:
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Callable

from gpu.problems import HostError, Problem, ProblemKind
from host.gpus import Gpu
from system.commands import CommandError, Result, Runner
from system.text import one_line

__all__ = ["SRIOV_MANAGE", "disable_virtual_functions", "enable_virtual_functions"]

SRIOV_MANAGE = "usr/lib/nvidia/sriov-manage"
_TRIES = 6
_PAUSE = 5.0  # seconds between tries
_TIMEOUT = 60.0  # seconds for one try
_WRITE = 'echo "$0" >"$1"'

logger = logging.getLogger(__name__)


def enable_virtual_functions(
    root: Path, run: Runner, gpu: Gpu, sleep: Callable[[float], None] = time.sleep
) -> bool:
    """Enable the virtual functions of a card that has none; return whether it had none.

    It is the caller's to make sure that no vGPU of the card is in use: the card's driver is bound
    anew on the way.

    sriov-manage fails while a client of NVML holds the card ("Cannot obtain unbindLock"), may
    leave the card without a driver, and in some releases ends with 0 although nothing came of it.
    So it is tried again, the driver is bound again, and only what sysfs shows counts.

    Raises:
        HostError: VFS_FAILED, with the reason as far as the host tells it.
    """
    path = root / "sys/bus/pci/devices" / str(gpu.address)
    if _count(path):
        return False
    _check(root, gpu)
    reason = ""
    for number in range(_TRIES):
        if number:
            sleep(_PAUSE)
        _bind(root, run, path, gpu)
        reason = _try(run, gpu, "-e")
        if _count(path):
            logger.info("%s has %d virtual functions", gpu.address, _count(path))
            return True
        logger.warning("%s has no virtual functions yet: %s", gpu.address, reason)
        if "did not end" in reason:  # a card that hangs must not hold up the boot
            break
    else:
        _bind(root, run, path, gpu)
    if "unbindLock" not in reason and not _has_stub(root, run):
        reason = "no module pci-pf-stub; install linux-modules-extra"
    raise HostError(Problem(ProblemKind.VFS_FAILED, str(gpu.address), reason))


def disable_virtual_functions(
    root: Path, run: Runner, gpu: Gpu, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Disable the virtual functions of a card, as a change of its MIG mode needs.

    It is the caller's to make sure that no vGPU of the card is in use.

    Raises:
        HostError: VFS_FAILED, if some are left.
    """
    path = root / "sys/bus/pci/devices" / str(gpu.address)
    _check(root, gpu)
    reason = ""
    for number in range(_TRIES):
        if number:
            sleep(_PAUSE)
        reason = _try(run, gpu, "-d")
        if not _count(path):
            _bind(root, run, path, gpu)
            logger.info("%s has no virtual functions any more", gpu.address)
            return
        logger.warning("%s still has virtual functions: %s", gpu.address, reason)
        if "did not end" in reason:
            break
    raise HostError(Problem(ProblemKind.VFS_FAILED, str(gpu.address), reason))


def _check(root: Path, gpu: Gpu) -> None:
    """Make sure of what every try would need."""
    for needed, reason in (
        (SRIOV_MANAGE, "sriov-manage is missing"),
        ("sys/module/nvidia/version", "the driver is not loaded"),
    ):
        if not (root / needed).is_file():
            raise HostError(Problem(ProblemKind.VFS_FAILED, str(gpu.address), reason))


def _try(run: Runner, gpu: Gpu, verb: str) -> str:
    """Start sriov-manage once; return the last line it left."""
    result: Result | None
    try:
        result = run(f"/{SRIOV_MANAGE}", verb, str(gpu.address), timeout=_TIMEOUT, check=False)
    except CommandError as error:
        return str(error).rsplit(": ", 1)[-1]
    lines = f"{result.stdout}\n{result.stderr}".split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return (
        one_line(said[-1], 200)
        if said
        else f"sriov-manage ended with {result.returncode} and said nothing"
    )


def _count(path: Path) -> int:
    try:
        return sum(name.startswith("virtfn") for name in os.listdir(path))
    except OSError:  # the card is off the bus while it is reset
        return 0


def _bind(root: Path, run: Runner, path: Path, gpu: Gpu) -> None:
    """Give a card without a driver back to NVIDIA's.

    In a process of its own: it waits in the kernel for whoever has the card, a sriov-manage that
    hangs maybe, and cannot be stopped.
    """
    if os.path.lexists(path / "driver"):
        return
    target = root / "sys/bus/pci/drivers/nvidia/bind"
    try:
        run("sh", "-c", _WRITE, str(gpu.address), str(target), timeout=_TIMEOUT)
    except CommandError as error:
        logger.warning("%s does not take its driver back: %s", gpu.address, error)


def _has_stub(root: Path, run: Runner) -> bool:
    """Whether the kernel has pci-pf-stub, without which no card enables virtual functions."""
    if (root / "sys/bus/pci/drivers/pci-pf-stub").is_dir():
        return True
    try:
        return run("modprobe", "--dry-run", "pci-pf-stub", check=False).returncode == 0
    except CommandError:
        return True  # no modprobe to ask
