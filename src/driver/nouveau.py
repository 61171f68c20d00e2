# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps nouveau, the kernel's own driver, from NVIDIA's cards at the next boot.

It cannot be removed from a card that it is bound to without a reboot.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from system.commands import CommandError, Runner
from system.files import ensure_contents
from system.sysfs import read

__all__ = ["ensure_blocked", "ensure_file", "is_blocked", "is_half_blocked"]

_PATH = Path("etc/modprobe.d/nova-compute-nvidia-vgpu.conf")
_BLACKLIST = """\
# Written by the charm nova-compute-nvidia-vgpu: nouveau would bind to the cards first.
blacklist nouveau
options nouveau modeset=0
"""
# Added once the initramfs contains the file, so that an interrupted hook starts again.
_DONE = "# The initramfs contains this file.\n"
_INITRAMFS_TOOLS = (("update-initramfs", "-u"), ("dracut", "--force", "--regenerate-all"))
_RETRY_PAUSE = 10  # seconds; an initramfs is written in less

logger = logging.getLogger(__name__)


def is_blocked(root: Path) -> bool:
    """Whether nouveau is blacklisted, also in the initramfs."""
    return read(root / _PATH) == (_BLACKLIST + _DONE).strip()


def is_half_blocked(root: Path) -> bool:
    """Whether the file exists, but the initramfs may not contain it: power was lost meanwhile."""
    return (root / _PATH).is_file() and not is_blocked(root)


def ensure_blocked(root: Path, run: Runner) -> bool:
    """Blacklist nouveau, also in the initramfs; return whether anything was done.

    Raises:
        HostError: INSTALL_FAILED if the initramfs cannot be written; DISK_WRITE_FAILED.
    """
    if is_blocked(root):
        return False
    ensure_contents(root / _PATH, _BLACKLIST)
    # nouveau in the initramfs would bind to the cards before /etc can be read.
    for command in _INITRAMFS_TOOLS:
        if any((root / folder / command[0]).exists() for folder in ("usr/sbin", "usr/bin")):
            _write_initramfs(run, *command)
            break
    ensure_file(root)
    return True


def ensure_file(root: Path) -> bool:
    """Write the charm's file where another file in the initramfs blacklists nouveau already.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    return ensure_contents(root / _PATH, _BLACKLIST + _DONE)


def _write_initramfs(run: Runner, *command: str) -> None:
    try:
        run(*command, timeout=600)
    except CommandError as error:
        # The one that a killed hook started may still be running.
        logger.warning("%s, trying again in %d s", error, _RETRY_PAUSE)
        time.sleep(_RETRY_PAUSE)
        try:
            run(*command, timeout=600)
        except CommandError as second_error:
            problem = Problem(ProblemKind.INSTALL_FAILED, reason=f"{command[0]} failed")
            raise HostError(problem) from second_error
