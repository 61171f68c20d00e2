# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Installs NVIDIA's driver on the host and loads it.

The package builds kernel modules with DKMS, so a host needs the headers of its kernel; and
pci-pf-stub, without which no card enables virtual functions, is in linux-modules-extra:
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from pathlib import Path
from typing import Callable, Iterator

from driver import daemon, host_package, kept_package, nouveau
from driver.host_package import HostPackage
from gpu.problems import HostError, Problem, ProblemKind
from host.driver_state import PACKAGE_PATTERN, DriverState, installed_packages
from system import apt, dpkg
from system.commands import CommandError, Runner
from system.dpkg import Package
from system.text import one_line

__all__ = ["ensure_installed", "ensure_loaded"]

_MODULES = ("nvidia", "nvidia-vgpu-vfio")

logger = logging.getLogger(__name__)


def ensure_installed(
    root: Path,
    run: Runner,
    state: DriverState,
    wanted: HostPackage | None,
    in_use: Callable[[], tuple[str, ...]],
) -> bool:
    """Install or repair the package; return whether anything was done.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        state: the driver as it is.
        wanted: the resource's package; None keeps what is installed.
        in_use: returns the vGPUs of this host; while there are any, nothing is changed.

    Raises:
        HostError: UPGRADE_PENDING, RESOURCE_INVALID, DPKG_LOCKED or INSTALL_FAILED.
    """
    if wanted is None:
        if not state.is_incomplete or in_use():
            return False
        apt.configure(run)
        return True
    if state.has(wanted.name, wanted.version):
        return False
    _refuse_in_use(wanted, in_use())
    is_built_by_dkms = host_package.verify(wanted, run)
    packages = _repair(root, run, state.packages, wanted, in_use)
    if is_built_by_dkms:
        names = (f"linux-headers-{state.kernel}", f"linux-modules-extra-{state.kernel}", "dkms")
        logger.info("installed %s", apt.ensure_available_installed(root, run, *names))
    _replace(root, run, packages, wanted, in_use)
    return True


def ensure_loaded(root: Path, run: Runner, state: DriverState) -> bool:
    """Load the installed driver, as far as that is possible without a reboot.

    Returns:
        Whether anything was done. While nouveau is bound to a card, it is only blocked
        for the next boot.

    Raises:
        HostError: INSTALL_FAILED, NOT_LOADED or SERVICE_DOWN.
    """
    if state.installed is None:
        return False
    if state.nouveau:
        return nouveau.ensure_blocked(root, run)
    is_changed = nouveau.is_half_blocked(root) and nouveau.ensure_blocked(root, run)
    if state.loaded is not None:
        return is_changed
    try:
        _load(root, run)
    except HostError:
        # After a kernel upgrade: with its headers, DKMS builds the driver for it.
        if not apt.ensure_available_installed(root, run, f"linux-headers-{state.kernel}"):
            raise
        _load(root, run)
    return True


def _repair(
    root: Path,
    run: Runner,
    packages: tuple[Package, ...],
    wanted: HostPackage,
    in_use: Callable[[], tuple[str, ...]],
) -> tuple[Package, ...]:
    """Repair what an interrupted dpkg left; return NVIDIA's packages afterwards."""
    if dpkg.is_interrupted(root):
        apt.configure(run)
        packages = installed_packages(root)  # only dpkg's journal had the last package's state
    half_unpacked = [package for package in packages if package.is_half_unpacked]
    if half_unpacked:  # apt-get refuses to work until it is gone, and cannot reinstall it
        _refuse_in_use(wanted, in_use())
        apt.remove(run, *half_unpacked)
        packages = installed_packages(root)
    apt.reinstall_half_unpacked(root, run, except_for=PACKAGE_PATTERN)
    return packages


def _replace(
    root: Path,
    run: Runner,
    packages: tuple[Package, ...],
    wanted: HostPackage,
    in_use: Callable[[], tuple[str, ...]],
) -> None:
    """Install a package in place of the present ones.

    Two branches contain the same files without declaring a conflict, so the old one is removed
    first; and so is an incomplete package of the wanted version, since apt-get would only run
    its maintainer scripts again.
    """
    conflicting = [
        package for package in packages if package.name != wanted.name or not package.is_installed
    ]
    with _temporary_folder() as folder:
        path = host_package.with_deb_suffix(wanted, folder)
        removals = [f"{package.name}-" for package in conflicting if package.name != wanted.name]
        if all(package.is_installed for package in conflicting):
            # An upgrade that is impossible must not remove the old branch, nor anything else.
            apt.simulate(run, path, *removals)
        _refuse_in_use(wanted, in_use())  # a guest may have started meanwhile
        try:
            if conflicting:
                names = ", ".join(package.name for package in conflicting)
                logger.info("removing %s before installing %s", names, wanted.name)
                apt.remove(run, *conflicting)
            logger.info("installing %s %s from %s", wanted.name, wanted.version, path)
            apt.install(run, path)
        except HostError as error:
            raise _undone(root, run, packages, wanted, error) from error


def _undone(
    root: Path,
    run: Runner,
    before: tuple[Package, ...],
    wanted: HostPackage,
    error: HostError,
) -> HostError:
    """Install the package again that was installed before; return the error to report."""
    previous = before[0] if len(before) == 1 and before[0].is_installed else None
    path = previous and kept_package.find(root, previous.name, previous.version)
    if previous is None or path is None or installed_packages(root) == before:
        return error
    logger.warning("%s; installing %s %s again", error, previous.name, previous.version)
    try:
        leftovers = [item for item in installed_packages(root) if item.name != previous.name]
        if leftovers:
            apt.remove(run, *leftovers)
        apt.install(run, str(path.resolve()))
    except HostError as second_error:
        logger.error("%s", second_error)
        return error
    with contextlib.suppress(HostError):
        daemon.start(root, run)
    reason = error.problem.argument("reason") or error.problem.kind.value
    return HostError(
        Problem(
            ProblemKind.INSTALL_UNDONE,
            previous=previous.version,
            wanted=wanted.version,
            reason=reason,
        )
    )


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="nvidia-vgpu-")
    except OSError as error:
        reason = error.strerror or "failed"
        problem = Problem(ProblemKind.DISK_WRITE_FAILED, path="a temporary folder", reason=reason)
        raise HostError(problem) from error
    with folder as path:
        yield path


def _refuse_in_use(wanted: HostPackage, in_use: tuple[str, ...]) -> None:
    if in_use:
        raise HostError(Problem(ProblemKind.UPGRADE_PENDING, version=wanted.version))


def _load(root: Path, run: Runner) -> None:
    """Load the modules and start the services, as a boot would."""
    try:
        run("modprobe", _MODULES[0], timeout=120)
    except CommandError as error:
        raise HostError(Problem(ProblemKind.NOT_LOADED, reason=_why_not_loaded(error))) from error
    if not (root / "sys/module" / _MODULES[0]).exists():  # as with `install nvidia /bin/true`
        raise HostError(Problem(ProblemKind.NOT_LOADED, reason="nothing was loaded"))
    with contextlib.suppress(CommandError):  # some branches have it built in
        run("modprobe", _MODULES[1], timeout=120)
    daemon.start(root, run)


def _why_not_loaded(error: CommandError) -> str:
    """Return modprobe's reason: its last line, or the one on an `install` line of modprobe.d."""
    lines = error.output.strip().splitlines() or [str(error)]
    install_lines = [line for line in lines if "install command" in line]
    line = (install_lines or lines[-1:])[0]
    return one_line(re.sub(r"^modprobe: \w+: ", "", line), 200)
