# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to the host's Debian packages with apt-get and dpkg."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

from gpu.problems import HostError, Problem, ProblemKind
from system import dpkg
from system.commands import CommandError, Result, Runner
from system.dpkg import Package
from system.text import one_line

__all__ = [
    "configure",
    "ensure_available_installed",
    "install",
    "reinstall_half_unpacked",
    "remove",
    "simulate",
]

# unattended-upgrades may keep the lock for minutes at a time, and so may the apt-get of a hook
# that was killed. dpkg itself does not wait for the lock, nor does apt-get on bionic.
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
_REMOVAL = re.compile(r"^Remv (\S+)", re.MULTILINE)
_FULL = "No space left on device"
# What names the cause, in the order of preference, and how it is reported: briefly, since a status
# has few characters. From dkms, dpkg, apt's resolver, and apt.
_REASONS = (
    (r"Error! (.*)", r"\1"),
    (r"\s*trying to overwrite '(.+)', which is also in package (\S+).*", r"\2 has \1, too"),
    (r"\s*installed \S+ package (\S+) script subprocess .*", r"its \1 script failed"),
    (r"\s+\S+ : ((?:Pre)?Depends: .*|Conflicts: .*|Breaks: .*)", r"\1"),
    (r"E: Held packages were changed .*", "it is on hold, see apt-mark"),
    (r"dpkg(?:-deb)?: error processing (?:archive|package) .*:\n\s*(.*)", r"\1"),
    (r"((?:dpkg|dpkg-deb): error.*)", r"\1"),
    (r"(E: .*)", r"\1"),
)

logger = logging.getLogger(__name__)


def install(run: Runner, *names: str) -> None:
    """Install packages by name, or by the absolute path of a file that ends in `.deb`.

    No other package is ever removed for it: libvirt and QEMU could be among them.

    Raises:
        HostError: DPKG_LOCKED or INSTALL_FAILED.
    """
    _apt_get(run, *_INSTALL, "--no-remove", *names)


def simulate(run: Runner, *names: str) -> None:
    """Check that an installation is possible, without a change to the host; see `install`.

    A name that ends in `-` is a package to remove; no other one may be removed.

    Raises:
        HostError: INSTALL_FAILED, with what is missing or would be removed.
    """
    output = _run_waiting_for_lock(run, *_APT_GET, *_INSTALL, "--simulate", *names).stdout
    removed = [name for name in _REMOVAL.findall(output) if f"{name}-" not in names]
    if removed:
        reason = one_line(f"it would remove {', '.join(removed)}", 200)
        raise HostError(Problem(ProblemKind.INSTALL_FAILED, reason=reason))


def remove(run: Runner, *packages: Package) -> None:
    """Remove packages, keeping their configuration.

    apt-get insists on reinstalling a half-unpacked package first, which is impossible without
    its archive; dpkg removes it.

    Raises:
        HostError: DPKG_LOCKED or INSTALL_FAILED.
    """
    half_unpacked = [package.name for package in packages if package.is_half_unpacked]
    if half_unpacked:
        arguments = ("--force-remove-reinstreq", "--remove", *half_unpacked)
        _run_waiting_for_lock(run, "dpkg", *arguments)
    others = [package.name for package in packages if not package.is_half_unpacked]
    if others:
        _apt_get(run, "remove", *others)


def configure(run: Runner) -> None:
    """Configure all packages that are unpacked but not configured.

    Raises:
        HostError: DPKG_LOCKED or INSTALL_FAILED.
    """
    _run_waiting_for_lock(run, "dpkg", "--force-confdef", "--force-confold", "--configure", "-a")


def reinstall_half_unpacked(root: Path, run: Runner, *, except_for: str) -> None:
    """Reinstall the archive's half-unpacked packages, which `apt-get install NAME` does not.

    Args:
        root: the root of the host's file system.
        run: starts apt-get.
        except_for: a regular expression for the complete names of packages that the archive lacks.

    Raises:
        HostError: DPKG_LOCKED or INSTALL_FAILED.
    """
    packages = dpkg.find(root, rf"(?!(?:{except_for})$)[a-z0-9][a-z0-9+.-]+")
    half_unpacked = [package.name for package in packages if package.is_half_unpacked]
    if half_unpacked:
        _apt_get(run, *_INSTALL, "--no-remove", "--reinstall", *half_unpacked)


def ensure_available_installed(root: Path, run: Runner, *names: str) -> tuple[str, ...]:
    """Install the missing packages among some of the archive; return what was installed.

    A name that the archive does not have is skipped: the headers of a custom kernel come from
    elsewhere, and some kernels have no linux-modules-extra.

    Raises:
        HostError: DPKG_LOCKED or INSTALL_FAILED.
    """
    pattern = "|".join(re.escape(name) for name in names)
    installed = {package.name for package in dpkg.find(root, pattern) if package.is_installed}
    missing = [name for name in names if name not in installed]
    if not missing:
        return ()
    available = _candidates(run, missing)
    if len(available) < len(missing):
        _apt_get(run, "update", check=False)  # one broken mirror must not stop the rest
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
    """Run a program, repeatedly while another one has dpkg's lock."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    for attempt in range(_LOCK_TIMEOUT // _LOCK_PAUSE):
        try:
            return run(*argv, timeout=_TIMEOUT, check=check)
        except CommandError as error:
            if not _LOCKED.search(error.output):
                problem = Problem(ProblemKind.INSTALL_FAILED, reason=_reason(error))
                raise HostError(problem) from error
            cause = error
        if time.monotonic() > deadline:
            break
        if not attempt:
            logger.info("waiting for dpkg's lock: %s", one_line(cause.output.strip(), 200))
        time.sleep(_LOCK_PAUSE)
    raise HostError(Problem(ProblemKind.DPKG_LOCKED)) from cause


def _reason(error: CommandError) -> str:
    """Pick the line that names the cause; dpkg writes it to stdout, before apt's own on stderr."""
    if _FULL in error.output:  # dpkg has this in the middle of its second line
        return _FULL
    for pattern, template in _REASONS:
        match = re.search(f"^{pattern}$", error.output, re.MULTILINE)
        if match is not None:
            return one_line(match.expand(template).strip(), 200)
    return error.reason
