# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's systemd units on the host.

nvidia-vgpu-mgr is the daemon that serves running vGPUs. nvidia-vgpud is a oneshot that tells the
kernel driver its vGPU types and ends: inactive is its normal state, so it is no service that the
principal could watch.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from system.commands import CommandError, Runner

__all__ = [
    "DAEMON",
    "START_CHECK_DELAY",
    "is_active",
    "is_masked",
    "is_principal_paused",
    "is_shipped",
    "pause",
    "restart",
    "resume",
    "schedule_reboot",
    "start",
]

DAEMON = "nvidia-vgpu-mgr"
VGPUD = "nvidia-vgpud"
_NOVA = "nova-compute"
START_CHECK_DELAY = 0.5  # seconds in which a daemon that gives up at its start has done so
_TIMEOUT = 120.0  # seconds; nvidia-vgpu-mgr waits for the cards


def is_shipped(root: Path, unit: str = DAEMON) -> bool:
    """Whether the package that ships a service is there."""
    folders = ("lib/systemd/system", "usr/lib/systemd/system", "etc/systemd/system")
    return any((root / folder / f"{unit}.service").is_file() for folder in folders)


def is_principal_paused(root: Path) -> bool | None:
    """Whether nova-compute is masked, as the principal's pause does; None if it is not there."""
    if is_masked(root, _NOVA):
        return True
    return False if is_shipped(root, _NOVA) else None


def is_masked(root: Path, unit: str = DAEMON) -> bool:
    """Whether a service is masked; systemctl answers the same, in a process of its own."""
    folders = ("etc/systemd/system", "run/systemd/system")
    links = [root / folder / f"{unit}.service" for folder in folders]
    return any(link.is_symlink() and os.readlink(link) == "/dev/null" for link in links)


def is_active(root: Path, run: Runner) -> bool:
    """Whether the daemon runs.

    A service that runs has processes in a control group of its name, which costs no process to
    see; where there is none, systemctl has the last word.
    """
    for hierarchy in ("sys/fs/cgroup", "sys/fs/cgroup/systemd"):  # version 2, version 1
        processes = root / hierarchy / f"system.slice/{DAEMON}.service/cgroup.procs"
        with contextlib.suppress(OSError):
            if processes.read_bytes():
                return True
    return _is_said_active(run)


def start(root: Path, run: Runner) -> None:
    """Tell the driver its types and start the daemon.

    Raises:
        HostError: SERVICE_DOWN.
    """
    _systemctl(run, "start", VGPUD)
    _systemctl(run, "start", DAEMON)
    time.sleep(START_CHECK_DELAY)
    if not is_active(root, run):  # it may start and give up at once
        raise HostError(Problem(ProblemKind.SERVICE_DOWN, DAEMON))


def restart(run: Runner) -> None:
    """Restart the daemon; only while no vGPU is in use.

    Raises:
        HostError: SERVICE_DOWN.
    """
    _systemctl(run, "restart", DAEMON)


def pause(run: Runner) -> None:
    """Stop, disable and mask the daemon, as the principal does with its own services.

    Raises:
        HostError: STILL_RUNNING, if it does not stop.
    """
    _systemctl(run, "stop", DAEMON)
    if _is_said_active(run):
        raise HostError(Problem(ProblemKind.STILL_RUNNING, DAEMON))
    _systemctl(run, "disable", DAEMON)
    _systemctl(run, "mask", DAEMON)


def resume(run: Runner) -> None:
    """Unmask and enable the daemon; whether it can be started depends on the driver.

    Raises:
        HostError: SERVICE_DOWN, if systemd refuses.
    """
    _systemctl(run, "unmask", DAEMON)
    _systemctl(run, "enable", DAEMON)


def schedule_reboot(run: Runner) -> None:
    """Reboot the host in half a minute, so that an action still returns its results.

    juju-reboot is refused in an action.

    Raises:
        HostError: REBOOT_REFUSED.
    """
    try:
        run("systemd-run", "--on-active=30", "systemctl", "reboot")
    except CommandError as error:
        raise HostError(Problem(ProblemKind.REBOOT_REFUSED)) from error


def _is_said_active(run: Runner) -> bool:
    try:
        return run("systemctl", "is-active", DAEMON, check=False).stdout.strip() == "active"
    except CommandError:  # no systemctl, or it does not answer
        return False


def _systemctl(run: Runner, verb: str, *units: str) -> None:
    try:
        run("systemctl", verb, *units, timeout=_TIMEOUT)
    except CommandError as error:
        kind = ProblemKind.STILL_RUNNING if verb == "stop" else ProblemKind.SERVICE_DOWN
        raise HostError(Problem(kind, units[-1])) from error
