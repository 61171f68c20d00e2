# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Installs, runs and removes the systemd services that prepare the cards at each boot.

The early one binds whole cards before udev loads drivers; the other one does the rest.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from state import boot_result
from state.folders import KEPT, UNTIL_BOOT
from system import systemd
from system.commands import CommandError, Runner
from system.files import delete, ensure_contents, has_contents

__all__ = ["EARLY_SERVICE", "SERVICE", "ensure_installed", "remove", "run_now", "why_off"]

SERVICE = "nova-compute-nvidia-vgpu"
EARLY_SERVICE = "nova-compute-nvidia-vgpu-early"
# Not in /etc, where `systemctl mask` puts its own link.
_UNITS = Path("usr/local/lib/systemd/system")
_UNIT_PATH = _UNITS / f"{SERVICE}.service"
_EARLY_UNIT_PATH = _UNITS / f"{EARLY_SERVICE}.service"
_WANTED_PATH = Path("etc/systemd/system/multi-user.target.wants") / f"{SERVICE}.service"
# Exists while systemd has not read the unit file and enabled the service yet.
_RELOAD_PENDING = KEPT / "daemon-reload"
_TIMEOUT = 600  # seconds, after which the boot continues
# Both services write attributes of devices and load modules. They need no network and no folder
# but their own: https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#Sandboxing
_SANDBOX = """\
NoNewPrivileges=yes
ProtectSystem=strict
ReadOnlyPaths=/run
ProtectHome=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @debug @keyring @mount @obsolete @raw-io @reboot
SystemCallFilter=~@resources @swap
SystemCallErrorNumber=EPERM
UMask=0022"""
# This one also starts NVIDIA's tools, and reads the open files of all processes. It has no network
# of its own (PrivateNetwork), in which it could not see what the host uses.
_UNIT_TEXT = """\
# Written by the charm nova-compute-nvidia-vgpu, which also removes it.
[Unit]
Description=Prepare NVIDIA vGPUs and whole cards for Nova
Documentation=https://docs.openstack.org/nova/latest/admin/virtual-gpu.html
After=nvidia-vgpud.service nvidia-vgpu-mgr.service
Before=nova-compute.service
ConditionPathExists={charm}/src/boot.py

[Service]
Type=oneshot
Environment=PYTHONPATH={charm}/lib:{charm}/venv PYTHONDONTWRITEBYTECODE=1
RemainAfterExit=yes
ExecStart={python} -S -W ignore {charm}/src/boot.py
ExecStop={python} -S -W ignore {charm}/src/boot.py record
TimeoutStartSec={timeout}
TimeoutStopSec=30
StateDirectory={service}
RuntimeDirectory={service}
RuntimeDirectoryPreserve=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_MKNOD CAP_SYS_ADMIN CAP_SYS_MODULE CAP_SYS_PTRACE
PrivateTmp=yes
{sandbox}

[Install]
WantedBy=multi-user.target
"""
# Before udev, whose events load the drivers that would take the cards. If /var is a file system
# of its own, it is not mounted yet, the conditions are not met, and the other service binds them.
_EARLY_UNIT_TEXT = """\
# Written by the charm nova-compute-nvidia-vgpu, which also removes it.
[Unit]
Description=Bind whole cards to vfio-pci before other drivers
DefaultDependencies=no
Before=systemd-udev-trigger.service systemd-modules-load.service sysinit.target shutdown.target
Conflicts=shutdown.target
ConditionPathExists={charm}/src/early_boot.py
ConditionPathExists=/var/lib/{service}/bound-functions.json

[Service]
Type=oneshot
Environment=PYTHONDONTWRITEBYTECODE=1
RemainAfterExit=yes
ExecStart={python} -S -W ignore {charm}/src/early_boot.py
TimeoutStartSec=60
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_SYS_ADMIN CAP_SYS_MODULE
PrivateNetwork=yes
{sandbox}

[Install]
WantedBy=sysinit.target
"""
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]+", re.ASCII)


def why_off(root: Path) -> Problem | None:
    """Return why the service must not run: an administrator has disabled or masked it."""
    if systemd.is_masked(root, SERVICE):
        return Problem(ProblemKind.BOOT_SERVICE_OFF, state="masked", verb="unmask")
    is_installed = (root / _UNIT_PATH).exists() and not (root / _RELOAD_PENDING).exists()
    if is_installed and not (root / _WANTED_PATH).is_symlink():
        return Problem(ProblemKind.BOOT_SERVICE_OFF, state="disabled", verb="enable")
    return None


def ensure_installed(root: Path, run: Runner, charm: Path) -> bool:
    """Install or update the services; return whether anything was done.

    The caller checks `why_off` first.

    Args:
        root: the root of the host's file system.
        run: starts systemctl.
        charm: the folder of the charm.

    Raises:
        HostError: BOOT_SERVICE_FAILED if systemd rejects it; DISK_WRITE_FAILED.
    """
    for name in (str(charm), sys.executable):  # a unit file expands %, $ and blanks
        if _PLAIN_PATH.fullmatch(name) is None:
            raise _failed("the path of the charm has unsupported characters")
    units = _unit_texts(charm)
    is_current = all(has_contents(root / path, text) for path, text in units.items())
    if is_current and not (root / _RELOAD_PENDING).exists():
        return False
    ensure_contents(root / _RELOAD_PENDING, "")  # the hook may be killed before the reload
    for path, text in units.items():
        ensure_contents(root / path, text)
    _systemctl(run, "daemon-reload")
    _systemctl(run, "enable", SERVICE, EARLY_SERVICE)
    delete(root / _RELOAD_PENDING)
    return True


def _unit_texts(charm: Path) -> dict[Path, str]:
    values = {
        "charm": str(charm),
        "python": sys.executable,
        "service": SERVICE,
        "sandbox": _SANDBOX,
    }
    return {
        _UNIT_PATH: _UNIT_TEXT.format(timeout=_TIMEOUT, **values),
        _EARLY_UNIT_PATH: _EARLY_UNIT_TEXT.format(**values),
    }


def remove(root: Path, run: Runner) -> bool:
    """Remove the services and their files; return whether there were any.

    What it prepared on the cards stays until the next boot.
    """
    if not any((root / path).exists() for path in (_UNIT_PATH, _EARLY_UNIT_PATH, UNTIL_BOOT)):
        return False
    for arguments in (("disable", "--now", SERVICE, EARLY_SERVICE), ("daemon-reload",)):
        with contextlib.suppress(CommandError):
            run("systemctl", *arguments, check=False)
        for path in (_UNIT_PATH, _EARLY_UNIT_PATH):
            delete(root / path)
    shutil.rmtree(root / UNTIL_BOOT, ignore_errors=True)
    return True


def run_now(root: Path, run: Runner) -> None:
    """Run the service and wait for it; a run in progress is completed first.

    Raises:
        HostError: BOOT_SERVICE_FAILED; `boot_result.failures` may have the reasons.
    """
    if not boot_result.has_run(root):
        with contextlib.suppress(CommandError, HostError):
            state = run("systemctl", "is-active", SERVICE, check=False).stdout.strip()
            if state == "activating":  # that of this boot, perhaps with an earlier mapping
                _systemctl(run, "start", SERVICE)
    try:
        _systemctl(run, "restart", SERVICE)
    except HostError:
        if not boot_result.failures(root):  # killed before it could complete
            boot_result.clear(root)
        raise


def _failed(reason: str) -> HostError:
    return HostError(Problem(ProblemKind.BOOT_SERVICE_FAILED, reason=reason))


def _systemctl(run: Runner, verb: str, *services: str) -> None:
    try:
        systemd.systemctl(run, verb, *services, timeout=_TIMEOUT + 30)
    except CommandError as error:
        raise _failed(f"systemctl {verb} failed") from error
