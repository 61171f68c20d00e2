# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the charm that had this name before left on a host, taken over when it is refreshed.

It wrote guests' mediated devices into scripts that a service ran at each boot; `guest_mdevs` and
`boot` do that now, so both at once would make each device twice.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from driver import installation
from gpu.problems import HostError
from system.commands import CommandError, Runner

__all__ = ["take_over"]

_UNIT = "systemd-mdev-workaround.service"
_FOLDERS = ("etc/systemd/system", "lib/systemd/system")
_SCRIPTS = ("opt/initialise_nova_mdevs.sh", "opt/remediate-nova-mdevs")
_NO_NOUVEAU = Path("etc/modprobe.d/disable-nouveau.conf")
_LINES = {"blacklist nouveau", "options nouveau modeset=0"}

logger = logging.getLogger(__name__)


def take_over(root: Path, run: Runner) -> None:
    """Remove its boot service, its scripts and, in favour of ours, its file against nouveau.

    What somebody changed in that file is theirs and stays. A host without any of it costs a look
    at six paths.
    """
    if any((root / folder / _UNIT).exists() for folder in _FOLDERS):
        logger.info("%s makes way for our own boot service", _UNIT)
        _systemctl(run, "disable", _UNIT)
        for folder in _FOLDERS:
            _remove(root / folder / _UNIT)
        _systemctl(run, "daemon-reload")
    for name in _SCRIPTS:
        _remove(root / name)
    _replace_nouveau_file(root / _NO_NOUVEAU, root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_nouveau_file(path: Path, root: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    told = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    if told and told <= _LINES:
        try:
            installation.keep_nouveau_away(
                root
            )  # its bytes are in the initramfs, which says the same
        except HostError as error:
            logger.warning("%s stays: %s", path, error)
            return
        path.unlink()


def _systemctl(run: Runner, *words: str) -> None:
    with contextlib.suppress(CommandError):
        run("systemctl", *words, check=False)
