# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The host driver: what of it is installed and loaded, and how to get it there.

The package builds kernel modules with DKMS, so a host needs its kernel's headers; and
pci-pf-stub, without which no card enables virtual functions, comes in linux-modules-extra:
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

from driver import daemon, host_package
from driver.host_package import HostPackage
from gpu.problems import HostError, Problem, ProblemKind
from host.gpus import Gpu, PciAddress
from system import apt
from system.commands import CommandError, Runner
from system.files import ensure_contents
from system.sysfs import read
from system.text import one_line

__all__ = ["DriverState", "ensure_installed", "ensure_loaded", "keep_nouveau_away", "query"]

_NO_NOUVEAU = """\
# Written by the charm nova-compute-nvidia-vgpu: nouveau would take the cards first.
blacklist nouveau
options nouveau modeset=0
"""
_DONE = "# The initramfs knows it too.\n"
_MODPROBE = Path("etc/modprobe.d/nova-compute-nvidia-vgpu.conf")
_PAUSE = 10  # seconds; an initramfs is written in less
_MODULES = ("nvidia", "nvidia-vgpu-vfio")

logger = logging.getLogger(__name__)


class DriverState(NamedTuple):
    """The host driver on one host.

    Attributes:
        packages: NVIDIA's host packages that dpkg knows and has not removed.
        loaded: version of the module in the kernel, /sys/module/nvidia/version; None: none.
        nouveau: the cards that the kernel's own driver holds.
        kernel: the running kernel's release, /proc/sys/kernel/osrelease.
        is_open: whether the loaded module is the open flavour, /proc/driver/nvidia/version.
    """

    packages: tuple[apt.Package, ...] = ()
    loaded: str | None = None
    nouveau: tuple[PciAddress, ...] = ()
    kernel: str = ""
    is_open: bool = False

    @property
    def installed(self) -> apt.Package | None:
        """The package, if one is installed and no other is in its way."""
        whole = len(self.packages) == 1 and self.packages[0].is_installed
        return self.packages[0] if whole else None

    def has(self, wanted: HostPackage) -> bool:
        """Whether this very package is installed."""
        found = self.installed
        return found is not None and (found.name, found.version) == (wanted.name, wanted.version)

    def reboot_reason(self) -> Problem | None:
        """Say why only a reboot makes the installed driver work; None if none is needed."""
        if self.installed is None:
            return None
        if self.nouveau:
            return Problem(ProblemKind.NOUVEAU, str(self.nouveau[0]))
        version = _upstream(self.installed.version)
        if self.loaded is not None and self.loaded != version:
            return Problem(ProblemKind.OTHER_VERSION_LOADED, self.loaded, version)
        return None


def query(root: Path, gpus: Iterable[Gpu]) -> DriverState:
    """Read the state of the host driver."""
    return DriverState(
        packages=_packages(root),
        loaded=_text(root / "sys/module/nvidia/version"),
        nouveau=tuple(gpu.address for gpu in gpus if gpu.driver == "nouveau"),
        kernel=_text(root / "proc/sys/kernel/osrelease") or os.uname().release,
        is_open="Open Kernel Module" in (_text(root / "proc/driver/nvidia/version") or ""),
    )


def _packages(root: Path) -> tuple[apt.Package, ...]:
    found = apt.find(root, host_package.NAME_PATTERN)
    return tuple(known for known in found if not known.is_removed)


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
        state: what `query` found.
        wanted: the resource's package; None keeps to what is installed.
        in_use: tells the vGPUs of this host; while there are any, nothing is changed.

    Raises:
        HostError: IN_USE, RESOURCE_INVALID, LOCKED or INSTALL_FAILED.
    """
    if wanted is None:
        is_half_done = any(not found.is_installed for found in state.packages) and not in_use()
        if is_half_done:
            apt.configure(run)
        return is_half_done
    if state.has(wanted):
        return False
    _keep_off(wanted, in_use())
    _install(root, run, state, wanted, in_use)
    return True


def ensure_loaded(root: Path, run: Runner, state: DriverState) -> bool:
    """Get the installed driver to the cards, as far as that goes without a reboot.

    Returns:
        Whether anything was done. nouveau is only kept away from the next boot on: it cannot be
        taken from a card that it holds.

    Raises:
        HostError: INSTALL_FAILED, NOT_LOADED or SERVICE_DOWN.
    """
    if state.installed is None:
        return False
    if state.nouveau:
        return _disable_nouveau(root, run)
    # Power may have gone before the initramfs knew.
    is_half_told = (root / _MODPROBE).is_file() and _disable_nouveau(root, run)
    if state.loaded is not None:
        return is_half_told
    try:
        _load(root, run)
    except HostError:
        # After a change of kernel: its headers make DKMS build the driver for it.
        if not apt.ensure_available_installed(root, run, f"linux-headers-{state.kernel}"):
            raise
        _load(root, run)
    return True


def _install(
    root: Path,
    run: Runner,
    state: DriverState,
    wanted: HostPackage,
    in_use: Callable[[], tuple[str, ...]],
) -> None:
    is_built_here = host_package.verify(wanted, run)
    packages = state.packages
    if apt.is_interrupted(root):
        apt.configure(run)
        packages = _packages(root)  # what was being unpacked stood in dpkg's journal only
    torn = [found for found in packages if found.flag == "reinstreq"]
    if torn:  # the archive does not have it, and until it is gone apt-get does nothing else
        _keep_off(wanted, in_use())
        apt.remove(run, *torn)
        packages = _packages(root)
    apt.reinstall_half_unpacked(root, run, but=host_package.NAME_PATTERN)
    if is_built_here:
        names = (f"linux-headers-{state.kernel}", f"linux-modules-extra-{state.kernel}", "dkms")
        logger.info("installed %s", apt.ensure_available_installed(root, run, *names))
    # Two branches ship the same files and declare no conflict. And over a package of the same
    # version that is half installed, apt would only run that package's own scripts again.
    in_the_way = [
        found for found in packages if found.name != wanted.name or not found.is_installed
    ]
    with tempfile.TemporaryDirectory(prefix="nvidia-vgpu-") as folder:
        path = host_package.absolute_deb(wanted, folder)
        others = [f"{found.name}-" for found in in_the_way if found.name != wanted.name]
        if others and all(found.is_installed for found in in_the_way):
            apt.simulate(run, path, *others)  # a branch that cannot come must not cost the old one
        _keep_off(wanted, in_use())  # a guest may have started meanwhile
        if in_the_way:
            logger.info("removing %s, to make way for %s", others, wanted.name)
            apt.remove(run, *in_the_way)
        logger.info("installing %s %s from %s", wanted.name, wanted.version, path)
        apt.install(run, path)


def _keep_off(wanted: HostPackage, in_use: tuple[str, ...]) -> None:
    if in_use:
        raise HostError(Problem(ProblemKind.UPGRADE_PENDING, wanted.version, in_use[0]))


def keep_nouveau_away(root: Path) -> None:
    """Write our file against nouveau where another has kept it away until now.

    Raises:
        HostError: DISK.
    """
    ensure_contents(root / _MODPROBE, _NO_NOUVEAU + _DONE)


def _disable_nouveau(root: Path, run: Runner) -> bool:
    path = root / _MODPROBE
    if path.is_file() and read(path) == (_NO_NOUVEAU + _DONE).strip():
        return False
    ensure_contents(path, _NO_NOUVEAU)
    # The initramfs may hold nouveau, which then takes the cards before /etc is there to say no.
    for command in (("update-initramfs", "-u"), ("dracut", "--force", "--regenerate-all")):
        if any((root / folder / command[0]).exists() for folder in ("usr/sbin", "usr/bin")):
            _write_initramfs(run, *command)
            break
    keep_nouveau_away(root)  # until then the next hook begins anew
    return True


def _write_initramfs(run: Runner, *command: str, again: bool = True) -> None:
    try:
        run(*command, timeout=600)
    except CommandError as error:
        if not again:
            problem = Problem(ProblemKind.INSTALL_FAILED, f"{command[0]} failed")
            raise HostError(problem) from error
        # The one that a killed hook had begun may still be at work, and in the way.
        logger.warning("%s, trying again in %d s", error, _PAUSE)
        time.sleep(_PAUSE)
        _write_initramfs(run, *command, again=False)


def _load(root: Path, run: Runner) -> None:
    """Load the modules and start the services, as a boot would."""
    try:
        run("modprobe", _MODULES[0], timeout=120)
    except CommandError as error:
        lines = error.output.strip().splitlines() or [str(error)]
        reason = re.sub(r"^modprobe: \w+: ", "", lines[-1])
        raise HostError(Problem(ProblemKind.NOT_LOADED, one_line(reason, 200))) from error
    with contextlib.suppress(CommandError):  # some branches have it built in
        run("modprobe", _MODULES[1], timeout=120)
    daemon.start(root, run)


def _upstream(version: str) -> str:
    """Drop the epoch and the revision that a repackaged driver may carry."""
    return version.split(":", 1)[-1].split("-", 1)[0].split("~", 1)[0]


def _text(path: Path) -> str | None:
    return one_line(read(path), 200) or None
