# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The file of the installed package, which is kept so that a failed upgrade can be undone.

Juju replaces the file of a resource when another one is attached, and no archive has the package.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from driver.host_package import HostPackage
from state.folders import KEPT
from system.files import delete

__all__ = ["ensure_kept", "find"]

_FOLDER = KEPT / "driver"

logger = logging.getLogger(__name__)


def ensure_kept(root: Path, package: HostPackage) -> None:
    """Keep a copy of the installed package in place of an earlier one, if the disk has room."""
    path = _path(root, package.name, package.version)
    if path.is_file():
        return
    partial = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < 3 * os.stat(package.path).st_size:
            logger.debug("no room to keep %s", package.path)
            return
        with open(package.path, "rb") as source, open(partial, "wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())  # the power may fail
        os.replace(partial, path)
        for other in path.parent.iterdir():
            if other != path:
                other.unlink()
    except OSError as error:
        logger.warning("%s cannot be kept: %s", package.path, error)
        delete(partial)


def find(root: Path, name: str, version: str) -> Path | None:
    """Return the kept file of a package; None if it was not kept."""
    path = _path(root, name, version)
    return path if path.is_file() else None


def _path(root: Path, name: str, version: str) -> Path:
    return root / _FOLDER / f"{name}_{version}.deb"
