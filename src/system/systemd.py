# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""systemd's units on the host, and a reboot of it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from system.commands import CommandError, Runner

__all__ = ["has_processes", "has_unit", "is_active", "is_masked", "schedule_reboot", "systemctl"]

_UNIT_FOLDERS = ("lib/systemd/system", "usr/lib/systemd/system", "etc/systemd/system")
_MASK_FOLDERS = ("etc/systemd/system", "run/systemd/system")
_CGROUP_HIERARCHIES = ("sys/fs/cgroup", "sys/fs/cgroup/systemd")  # version 2, version 1
_TIMEOUT = 120.0  # seconds; NVIDIA's daemon waits for the cards


def has_unit(root: Path, service: str) -> bool:
    """Whether the unit file of a service exists, and is not a mask."""
    return any((root / folder / f"{service}.service").is_file() for folder in _UNIT_FOLDERS)


def is_masked(root: Path, service: str) -> bool:
    """Whether a service is masked; systemctl reports the same, in a process of its own."""
    links = [root / folder / f"{service}.service" for folder in _MASK_FOLDERS]
    return any(link.is_symlink() and os.readlink(link) == "/dev/null" for link in links)


def has_processes(root: Path, service: str) -> bool:
    """Whether the control group of a service has processes, which costs no process to read."""
    for hierarchy in _CGROUP_HIERARCHIES:
        processes = root / hierarchy / f"system.slice/{service}.service/cgroup.procs"
        with contextlib.suppress(OSError):
            if processes.read_bytes():
                return True
    return False


def is_active(run: Runner, service: str) -> bool:
    """Whether systemctl reports a service as active."""
    try:
        return run("systemctl", "is-active", service, check=False).stdout.strip() == "active"
    except CommandError:  # systemctl is missing or hangs
        return False


def systemctl(run: Runner, verb: str, *arguments: str, timeout: float = _TIMEOUT) -> None:
    """Run systemctl.

    Raises:
        CommandError: it fails or does not end in time.
    """
    run("systemctl", verb, *arguments, timeout=timeout)


def schedule_reboot(run: Runner) -> None:
    """Reboot the host in 30 seconds, so that an action can still return its results.

    juju-reboot is refused in an action.

    Raises:
        HostError: REBOOT_REFUSED.
    """
    try:
        run("systemd-run", "--on-active=30", "systemctl", "reboot")
    except CommandError as error:
        raise HostError(Problem(ProblemKind.REBOOT_REFUSED)) from error
