# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Debian packages of the host: dpkg's record of them, and apt-get to change it."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import NamedTuple

from gpu.problems import HostError, Problem, ProblemKind
from system.commands import CommandError, Result, Runner
from system.text import one_line

__all__ = [
    "Package",
    "configure",
    "ensure_available_installed",
    "find",
    "install",
    "is_interrupted",
    "reinstall_half_unpacked",
    "remove",
    "simulate",
]

# unattended-upgrades may hold the lock for minutes at a time, and so does the apt-get of a hook
# that was killed. dpkg itself does not wait for it, nor does apt-get on bionic.
_LOCK_TIMEOUT, _LOCK_PAUSE = 300, 2  # seconds
_TIMEOUT = 3600.0  # seconds; DKMS builds a driver for each kernel
_APT_GET = (
    "apt-get", "-y", "-q",
    "-o", "Dpkg::Options::=--force-confdef",
    "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip
_INSTALL = ("install", "--no-install-recommends", "--allow-downgrades")
_LOCKED = re.compile(
    r"^(?:E: (?:Could not get lock|Unable to (?:lock|acquire)(?!.*are you root))"
    r"|dpkg: error: .* (?:is|was) locked by another)",
    re.MULTILINE,
)
_FULL = "No space left on device"
_REASON = re.compile(r"^(?:E: |dpkg: error|dpkg-deb: error|\s*trying to overwrite)", re.MULTILINE)

logger = logging.getLogger(__name__)


class Package(NamedTuple):
    """A package as dpkg records it in /var/lib/dpkg/status."""

    name: str
    version: str
    state: str  # the third word of Status: installed, half-configured, config-files, ...
    flag: str = "ok"  # its second word: ok, or reinstreq after a loss of power while unpacking

    @property
    def is_installed(self) -> bool:
        """Whether it is unpacked and configured."""
        return self.state == "installed"

    @property
    def is_removed(self) -> bool:
        """Whether at most its configuration is left."""
        return self.state in ("config-files", "not-installed")


def find(root: Path, pattern: str) -> tuple[Package, ...]:
    """Return the packages whose whole name matches a regular expression, known to dpkg.

    The file is read directly: dpkg-query reads the same one, in a process of its own.
    """
    try:
        status = (root / "var/lib/dpkg/status").read_bytes()
    except OSError:
        return ()
    found = []
    end = 0
    for match in re.finditer(rb"^Package: (" + pattern.encode() + rb")$", status, re.MULTILINE):
        if match.start() < end:  # each paragraph is of one package, and read once
            continue
        end = status.find(b"\n\n", match.start())
        end = end if end >= 0 else len(status)
        paragraph = status[match.start() : end].decode(errors="replace")
        fields = dict(
            line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"\S+: ", line)
        )
        words = fields.get("Status", "").split()
        _, flag, state = words if len(words) == 3 else ("", "ok", "not-installed")
        found.append(Package(match[1].decode(), fields.get("Version", ""), state, flag))
    return tuple(found)


def install(run: Runner, *names: str) -> None:
    """Install packages by name, or by the absolute path of a file that ends in `.deb`.

    Raises:
        HostError: LOCKED or INSTALL_FAILED.
    """
    _apt_get(run, *_INSTALL, *names)


def simulate(run: Runner, *names: str) -> None:
    """Make sure that an installation could be done, before anything is touched; see `install`.

    A name that ends in `-` is one to remove.

    Raises:
        HostError: INSTALL_FAILED, with what is missing.
    """
    _apt_get(run, *_INSTALL, "--simulate", *names)


def remove(run: Runner, *packages: Package) -> None:
    """Remove packages, keeping their configuration.

    apt wants a package whose unpacking lost power to be installed again first, which cannot be
    done without its archive.

    Raises:
        HostError: LOCKED or INSTALL_FAILED.
    """
    torn = [package.name for package in packages if package.flag == "reinstreq"]
    if torn:
        _run_waiting_for_lock(run, "dpkg", "--force-remove-reinstreq", "--remove", *torn)
    whole = [package.name for package in packages if package.flag != "reinstreq"]
    if whole:
        _apt_get(run, "remove", *whole)


def configure(run: Runner) -> None:
    """Finish what was unpacked and not configured.

    Raises:
        HostError: LOCKED or INSTALL_FAILED.
    """
    _run_waiting_for_lock(run, "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")


def reinstall_half_unpacked(root: Path, run: Runner, *, but: str) -> None:
    """Mend packages of the archive whose unpacking lost power; asked to install one, apt does not.

    Args:
        root: the root of the host's file system.
        run: starts apt-get.
        but: a regular expression of whole names that the archive does not have.

    Raises:
        HostError: LOCKED or INSTALL_FAILED.
    """
    found = find(root, rf"(?!(?:{but})$)[a-z0-9][a-z0-9+.-]+")
    torn = [package.name for package in found if package.flag == "reinstreq"]
    if torn:
        _apt_get(run, *_INSTALL, "--reinstall", *torn)


def is_interrupted(root: Path) -> bool:
    """Whether dpkg lost power at its work; apt-get then refuses until `configure` was run."""
    updates = root / "var/lib/dpkg/updates"
    return updates.is_dir() and any(updates.iterdir())


def ensure_available_installed(root: Path, run: Runner, *names: str) -> tuple[str, ...]:
    """Install those of some archive packages that are missing here; return what was installed.

    A name that the archive does not have is passed over: a custom kernel has its headers from
    elsewhere, and some kernels have no linux-modules-extra.

    Raises:
        HostError: LOCKED or INSTALL_FAILED.
    """
    pattern = "|".join(re.escape(name) for name in names)
    present = {package.name for package in find(root, pattern) if package.is_installed}
    missing = [name for name in names if name not in present]
    if not missing:
        return ()
    available = _candidates(run, missing)
    if len(available) < len(missing):
        _apt_get(run, "update", check=False)  # a mirror that is down must not stop the rest
        available = _candidates(run, missing)
    if available:
        install(run, *available)
    return tuple(available)


def _candidates(run: Runner, names: list[str]) -> list[str]:
    output = _run_waiting_for_lock(run, "apt-cache", "policy", *names, check=False).stdout
    blocks = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)$", output, re.MULTILINE)
    return [name for name, candidate in blocks if name in names and candidate != "(none)"]


def _apt_get(run: Runner, *arguments: str, check: bool = True) -> None:
    _run_waiting_for_lock(run, *_APT_GET, *arguments, check=check)


def _run_waiting_for_lock(run: Runner, *argv: str, check: bool = True) -> Result:
    """Run a program, again while another one holds dpkg's lock."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    for attempt in range(_LOCK_TIMEOUT // _LOCK_PAUSE):
        try:
            return run(*argv, timeout=_TIMEOUT, check=check)
        except CommandError as error:
            if not _LOCKED.search(error.output):
                raise HostError(Problem(ProblemKind.INSTALL_FAILED, _reason(error))) from error
            cause = error
        if time.monotonic() > deadline:
            break
        if not attempt:
            logger.info("waiting for dpkg's lock: %s", one_line(cause.output.strip(), 200))
        time.sleep(_LOCK_PAUSE)
    raise HostError(Problem(ProblemKind.DPKG_LOCKED)) from cause


def _reason(error: CommandError) -> str:
    """Pick the line that names the cause; dpkg's stand on stdout, before apt's own on stderr."""
    if _FULL in error.output:  # which dpkg says in the middle of its second line
        return _FULL
    lines = [line.strip() for line in error.output.splitlines() if _REASON.match(line)]
    return one_line(lines[0] if lines else str(error).rsplit(": ", 1)[-1], 200)
