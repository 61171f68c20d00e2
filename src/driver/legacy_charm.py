# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Removes what the charm that had this name before left on a host, when it is refreshed.

That charm wrote the guests' mediated devices into scripts that a service ran at each boot; the
boot service of this charm recreates them, so both together would create each device twice.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from driver import nouveau
from gpu.problems import HostError
from system import systemd
from system.commands import CommandError, Runner
from system.files import delete

__all__ = ["take_over"]

_SERVICE = "systemd-mdev-workaround.service"
_UNIT_FOLDERS = ("etc/systemd/system", "lib/systemd/system")
_SCRIPTS = ("opt/initialise_nova_mdevs.sh", "opt/remediate-nova-mdevs")
_NOUVEAU_FILE = Path("etc/modprobe.d/disable-nouveau.conf")
_NOUVEAU_LINES = {"blacklist nouveau", "options nouveau modeset=0"}

logger = logging.getLogger(__name__)


def take_over(root: Path, run: Runner) -> None:
    """Remove its boot service and scripts, and replace its file against nouveau.

    A file that somebody has edited stays. On a host without any of this, six paths are checked.
    """
    if any((root / folder / _SERVICE).exists() for folder in _UNIT_FOLDERS):
        logger.info("removing %s, which this charm's boot service replaces", _SERVICE)
        _systemctl(run, "disable", _SERVICE)
        for folder in _UNIT_FOLDERS:
            _remove(root / folder / _SERVICE)
        _systemctl(run, "daemon-reload")
    for name in _SCRIPTS:
        _remove(root / name)
    _replace_nouveau_file(root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        delete(path)


def _replace_nouveau_file(root: Path) -> None:
    path = root / _NOUVEAU_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    settings = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    if settings and settings <= _NOUVEAU_LINES:
        try:
            nouveau.ensure_file(root)  # the initramfs contains the same settings already
        except HostError as error:
            logger.warning("%s stays: %s", path, error)
            return
        delete(path)


def _systemctl(run: Runner, verb: str, *arguments: str) -> None:
    with contextlib.suppress(CommandError):
        systemd.systemctl(run, verb, *arguments)
