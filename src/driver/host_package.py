# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's host software as a package file, before it is installed."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import NamedTuple

from gpu.problems import HostError, Problem, ProblemKind
from host.driver_state import PACKAGE_PATTERN
from system.commands import CommandError, Runner
from system.text import ascii_line

__all__ = ["HostPackage", "inspect", "stamp", "verify", "with_deb_suffix"]

# What tarfile raises for a damaged archive, besides its own errors.
_DAMAGED = (ArithmeticError, EOFError, LookupError, RecursionError, ValueError)
_MAX_MEMBERS = 1000  # files of the control data; a package has a dozen
_MAX_CONTROL = 64 * 1024  # bytes; more than any package has
_MAGIC = b"!<arch>\ndebian-binary"
_FIELD = re.compile(r"^([A-Za-z-]+): *(.*)$", re.MULTILINE)
_GUEST_DRIVER = re.compile(r"nvidia-linux-grid|nvidia-grid|nvidia-driver", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z.+:~-]{1,64}", re.ASCII)


class HostPackage(NamedTuple):
    """A package file: its path and its control fields."""

    path: str
    name: str
    version: str
    depends: str = ""


def stamp(path: Path) -> str:
    """Return a short text that changes with the file; empty if there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a path with a NUL
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def inspect(path: Path, run: Runner) -> HostPackage:
    """Read a package's control fields and check that it is NVIDIA's host software for this host.

    Raises:
        HostError: RESOURCE_MISSING if the file is missing or empty; RESOURCE_INVALID, with the
            reason, if it cannot be used.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(_MAGIC))
    except (OSError, ValueError) as error:
        raise HostError(Problem(ProblemKind.RESOURCE_MISSING)) from error
    if not start:
        raise HostError(Problem(ProblemKind.RESOURCE_MISSING))
    if start != _MAGIC:
        raise _invalid("the file is not a Debian package")
    try:
        control = _control_file(run("dpkg-deb", "--ctrl-tarfile", str(path), binary=True).stdout)
        architecture = run("dpkg", "--print-architecture").stdout.strip()
    except CommandError as error:
        raise _invalid("the file is truncated or damaged") from error
    fields = dict(_FIELD.findall(control))
    name, version = fields.get("Package", ""), fields.get("Version", "")
    if re.fullmatch(PACKAGE_PATTERN, name, re.ASCII) is None or not _VERSION.fullmatch(version):
        kind = (
            "the guest driver" if _GUEST_DRIVER.match(name) else "not NVIDIA's vGPU host package"
        )
        raise _invalid(f"{_shown(name)} is {kind}")
    if fields.get("Architecture") not in (architecture, "all"):
        raise _invalid(f"it is for {_shown(fields.get('Architecture', '?'))}, not {architecture}")
    return HostPackage(str(path), name, version, fields.get("Depends", ""))


def _control_file(archive: str) -> str:
    """Return the control file in an archive, without writing to the disk.

    `dpkg-deb --field` unpacks the complete archive into /tmp first, however large it is. Only the
    end of a long output is kept, so an archive that exceeds that limit lacks its start and is
    rejected.

    Raises:
        HostError: RESOURCE_INVALID.
    """
    import tarfile  # most hooks inspect no package

    try:
        with tarfile.open(fileobj=io.BytesIO(archive.encode("latin-1")), mode="r:") as members:
            for number, member in enumerate(members):
                if member.size < 0 or number > _MAX_MEMBERS:  # tarfile would never end
                    break
                is_plain = member.isreg() and not member.issparse()
                if is_plain and member.name in ("./control", "control"):
                    file = members.extractfile(member)
                    text = file.read(_MAX_CONTROL) if file is not None else b""
                    return text.decode("utf-8", errors="replace")
    except (tarfile.TarError, *_DAMAGED) as error:
        raise _invalid("its control data is too large or damaged") from error
    raise _invalid("its control data is too large or damaged")


def verify(package: HostPackage, run: Runner) -> bool:
    """Read the package to its end; return whether DKMS builds its driver on the host.

    Raises:
        HostError: RESOURCE_INVALID if it is truncated or damaged, which the fields do not show.
    """
    try:
        contents = run("dpkg-deb", "--contents", package.path, timeout=600).stdout
    except CommandError as error:
        raise _invalid("the file is truncated or damaged") from error
    return "/dkms.conf" in contents or re.search(r"\bdkms\b", package.depends) is not None


def with_deb_suffix(package: HostPackage, folder: str) -> str:
    """Return a path of the package that apt-get accepts: absolute and ending in `.deb`."""
    path = os.path.abspath(package.path)
    if path.endswith(".deb"):
        return path
    link = os.path.join(folder, f"{package.name}.deb")
    os.symlink(path, link)
    return link


def _shown(text: str) -> str:
    return ascii_line(text, 40) or "it"


def _invalid(reason: str) -> HostError:
    return HostError(Problem(ProblemKind.RESOURCE_INVALID, reason=reason))
