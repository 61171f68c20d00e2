# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Enables and disables virtual functions; the only module that runs NVIDIA's sriov-manage.

The driver refuses a number written to sriov_numvfs, and the virtual functions are gone after each
boot and each reload of the driver:
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Sequence

from gpu.pci import Gpu
from gpu.problems import HostError, Problem, ProblemKind
from host import nvml_clients
from system import sysfs
from system.commands import CommandError, Runner
from system.text import one_line

__all__ = ["SRIOV_MANAGE", "disable_virtual_functions", "enable_virtual_functions"]

SRIOV_MANAGE = "usr/lib/nvidia/sriov-manage"
_TIMEOUT = 60.0  # seconds for one attempt

logger = logging.getLogger(__name__)


class _Attempt:
    """One run of sriov-manage.

    Attributes:
        reason: the last line of its output, or why it could not be run.
        timed_out: whether it was stopped at its time limit: the card hangs.
    """

    def __init__(self, run: Runner, gpu: Gpu, option: str) -> None:
        self.timed_out = False
        try:
            command = (f"/{SRIOV_MANAGE}", option, str(gpu.address))
            result = run(*command, timeout=_TIMEOUT, check=False)
        except CommandError as error:
            self.reason, self.timed_out = error.reason, error.timed_out
            return
        output = f"{result.stdout}\n{result.stderr}".split("\n")
        lines = [line.strip() for line in output if line.strip()]
        silent = f"sriov-manage exited with {result.returncode} and printed nothing"
        self.reason = one_line(lines[-1], 200) if lines else silent


def enable_virtual_functions(
    root: Path, run: Runner, gpu: Gpu, delays: Sequence[float] = ()
) -> bool:
    """Enable the virtual functions of a card that has none; return whether it had none.

    The caller ensures that no vGPU of the card is in use, since the driver is bound to the card
    again.

    sriov-manage fails while a client of NVML uses the card ("Cannot obtain unbindLock"), may
    leave the card without a driver, and in some releases exits with 0 without any effect. So it
    is run again, the driver is bound again, and only what sysfs shows counts.

    Args:
        root: the root of the host's file system.
        run: starts sriov-manage.
        gpu: the card.
        delays: seconds to wait before each further attempt.

    Raises:
        HostError: VFS_FAILED, with the reason as far as the host shows it.
    """
    if _count(root, gpu):
        return False
    _check_prerequisites(root, gpu)
    reason = ""
    for delay in (0, *delays):
        if delay:
            time.sleep(delay)
        _ensure_driver_bound(root, run, gpu)
        attempt = _Attempt(run, gpu, "-e")
        reason = attempt.reason
        if _count(root, gpu):
            logger.info("%s has %d virtual functions", gpu.address, _count(root, gpu))
            return True
        logger.warning("%s has no virtual functions yet: %s", gpu.address, reason)
        if attempt.timed_out:  # a hanging card must not delay the boot
            raise _failed(gpu, reason)
    _ensure_driver_bound(root, run, gpu)
    raise _failed(gpu, _root_cause(root, run, gpu, reason))


def disable_virtual_functions(
    root: Path, run: Runner, gpu: Gpu, delays: Sequence[float] = ()
) -> None:
    """Disable the virtual functions of a card, which a change of its MIG mode requires.

    The caller ensures that no vGPU of the card is in use. See `enable_virtual_functions`.

    Raises:
        HostError: VFS_FAILED if some are left.
    """
    _check_prerequisites(root, gpu)
    reason = ""
    for delay in (0, *delays):
        if delay:
            time.sleep(delay)
        attempt = _Attempt(run, gpu, "-d")
        reason = attempt.reason
        if not _count(root, gpu):
            _ensure_driver_bound(root, run, gpu)
            logger.info("the virtual functions of %s are disabled", gpu.address)
            return
        logger.warning("%s still has virtual functions: %s", gpu.address, reason)
        if attempt.timed_out:
            break
    raise _failed(gpu, _root_cause(root, run, gpu, reason))


def _root_cause(root: Path, run: Runner, gpu: Gpu, reason: str) -> str:
    """Return why sriov-manage fails as far as the host shows it, otherwise its own reason."""
    if "unbindLock" in reason:
        return nvml_clients.name_client(root, reason)
    if not _has_driver(root, gpu):
        return "no driver is bound to it, see dmesg"
    if not _has_pci_pf_stub(root, run):
        return "no module pci-pf-stub; install linux-modules-extra"
    return reason


def _failed(gpu: Gpu, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.VFS_FAILED, gpu.address, reason=reason))


def _check_prerequisites(root: Path, gpu: Gpu) -> None:
    for path, reason in (
        (SRIOV_MANAGE, "sriov-manage is missing"),
        ("sys/module/nvidia/version", "the driver is not loaded"),
    ):
        if not (root / path).is_file():
            raise _failed(gpu, reason)


def _count(root: Path, gpu: Gpu) -> int:
    try:
        names = os.listdir(sysfs.device(root, gpu.address))
    except OSError:  # the card is off the bus while it is reset
        return 0
    return sum(name.startswith("virtfn") for name in names)


def _ensure_driver_bound(root: Path, run: Runner, gpu: Gpu) -> None:
    """Bind NVIDIA's driver to a card that has no driver.

    In a process of its own: the write waits in the kernel for whatever uses the card, such as a
    hanging sriov-manage, and cannot be interrupted.
    """
    if _has_driver(root, gpu):
        return
    path = root / "sys/bus/pci/drivers/nvidia/bind"
    try:
        sysfs.write_in_process(run, path, str(gpu.address), _TIMEOUT)
    except CommandError as error:
        logger.warning("the driver cannot be bound to %s: %s", gpu.address, error)


def _has_driver(root: Path, gpu: Gpu) -> bool:
    return os.path.lexists(os.path.join(sysfs.device(root, gpu.address), "driver"))


def _has_pci_pf_stub(root: Path, run: Runner) -> bool:
    """Whether the kernel has pci-pf-stub, without which no card enables virtual functions."""
    if (root / "sys/bus/pci/drivers/pci-pf-stub").is_dir():
        return True
    try:
        return run("modprobe", "--dry-run", "pci-pf-stub", check=False).returncode == 0
    except CommandError:
        return True  # without modprobe it cannot be checked
