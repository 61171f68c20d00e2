# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""dpkg's record of the installed packages, /var/lib/dpkg/status."""

from __future__ import annotations

import errno
import fcntl
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Package", "find", "is_interrupted", "is_locked"]


class Package(NamedTuple):
    """A package as dpkg records it."""

    name: str
    version: str
    state: str  # third field of Status: installed, half-configured, config-files, ...
    flag: str = "ok"  # second field: ok, or reinstreq after a loss of power while unpacking

    @property
    def is_installed(self) -> bool:
        """Whether it is unpacked and configured."""
        return self.state == "installed"

    @property
    def is_removed(self) -> bool:
        """Whether at most its configuration is left."""
        return self.state in ("config-files", "not-installed")

    @property
    def is_half_unpacked(self) -> bool:
        """Whether its unpacking lost power; apt-get then refuses to do anything else."""
        return self.flag == "reinstreq"


def find(root: Path, pattern: str) -> tuple[Package, ...]:
    """Return the recorded packages whose complete name matches a regular expression.

    The file is read directly: dpkg-query reads the same one, in a process of its own.
    """
    try:
        status = (root / "var/lib/dpkg/status").read_bytes()
    except OSError:
        return ()
    packages = []
    end = 0
    for match in re.finditer(rb"^Package: (" + pattern.encode() + rb")$", status, re.MULTILINE):
        if match.start() < end:  # inside the paragraph that was read last
            continue
        end = status.find(b"\n\n", match.start())
        end = end if end >= 0 else len(status)
        paragraph = status[match.start() : end].decode(errors="replace")
        packages.append(_package(match[1].decode(), paragraph))
    return tuple(packages)


def is_locked(root: Path) -> bool:
    """Whether a program such as apt-get or unattended-upgrades has dpkg's lock."""
    try:
        with open(root / "var/lib/dpkg/lock-frontend", "rb+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when it is closed
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def is_interrupted(root: Path) -> bool:
    """Whether dpkg was interrupted; apt-get then refuses until `dpkg --configure -a` has run."""
    updates = root / "var/lib/dpkg/updates"
    return updates.is_dir() and any(updates.iterdir())


def _package(name: str, paragraph: str) -> Package:
    lines = (line for line in paragraph.splitlines() if re.match(r"\S+: ", line))
    fields = dict(line.split(": ", 1) for line in lines)
    status = fields.get("Status", "").split()
    _, flag, state = status if len(status) == 3 else ("", "ok", "not-installed")
    return Package(name, fields.get("Version", ""), state, flag)
