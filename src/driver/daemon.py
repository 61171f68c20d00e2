# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Starts, restarts, pauses and resumes NVIDIA's daemon, nvidia-vgpu-mgr."""

from __future__ import annotations

import time
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from host.driver_state import DAEMON, VGPUD
from system import systemd
from system.commands import CommandError, Runner

__all__ = ["START_CHECK_DELAY", "is_active", "pause", "restart", "resume", "start"]

START_CHECK_DELAY = 0.5  # seconds, in which a daemon that fails at its start has failed


def is_active(root: Path, run: Runner) -> bool:
    """Whether the daemon is running; systemctl is asked only if no process is found."""
    return systemd.has_processes(root, DAEMON) or systemd.is_active(run, DAEMON)


def start(root: Path, run: Runner, *, registers_types: bool = True) -> None:
    """Register the vGPU types with the driver and start the daemon.

    Args:
        root: the root of the host's file system.
        run: starts systemctl.
        registers_types: False while a vGPU exists: the types are registered then.

    Raises:
        HostError: SERVICE_DOWN.
    """
    if registers_types:
        _systemctl(run, "start", VGPUD)
    _systemctl(run, "start", DAEMON)
    time.sleep(START_CHECK_DELAY)
    if not is_active(root, run):
        raise HostError(Problem(ProblemKind.SERVICE_DOWN, service=DAEMON))


def restart(run: Runner) -> None:
    """Restart the daemon; the caller ensures that no vGPU is in use.

    Raises:
        HostError: SERVICE_DOWN.
    """
    _systemctl(run, "restart", DAEMON)


def pause(run: Runner) -> None:
    """Stop, disable and mask the daemon, as the principal does with its own services.

    Raises:
        HostError: STILL_RUNNING if it does not stop.
    """
    _systemctl(run, "stop", DAEMON)
    if systemd.is_active(run, DAEMON):
        raise HostError(Problem(ProblemKind.STILL_RUNNING, service=DAEMON))
    _systemctl(run, "disable", DAEMON)
    _systemctl(run, "mask", DAEMON)


def resume(run: Runner) -> None:
    """Unmask and enable the daemon; the driver decides whether it can be started.

    Raises:
        HostError: SERVICE_DOWN if systemd refuses.
    """
    _systemctl(run, "unmask", DAEMON)
    _systemctl(run, "enable", DAEMON)


def _systemctl(run: Runner, verb: str, service: str) -> None:
    try:
        systemd.systemctl(run, verb, service)
    except CommandError as error:
        kind = ProblemKind.STILL_RUNNING if verb == "stop" else ProblemKind.SERVICE_DOWN
        raise HostError(Problem(kind, service=service)) from error
