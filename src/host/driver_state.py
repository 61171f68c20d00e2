# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's driver on a host: the installed package, the loaded module, and nouveau."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, NamedTuple

from gpu.pci import Gpu, PciAddress
from gpu.problems import Problem, ProblemKind
from system import dpkg, sysfs
from system.dpkg import Package
from system.text import one_line

__all__ = ["DAEMON", "PACKAGE_PATTERN", "VGPUD", "DriverState", "installed_packages", "query"]

# nvidia-vgpu-ubuntu-570, or nvidia-vgpu-ubuntu-aie-570 of NVIDIA AI Enterprise.
PACKAGE_PATTERN = r"nvidia-vgpu-ubuntu(?:-aie)?(?:-[0-9]+)?"
# The daemon that serves running vGPUs.
DAEMON = "nvidia-vgpu-mgr"
# A oneshot that registers vGPU types with the kernel driver and ends: inactive is its normal
# state, so the principal cannot watch it as a service.
VGPUD = "nvidia-vgpud"


class DriverState(NamedTuple):
    """NVIDIA's driver on one host.

    Attributes:
        packages: NVIDIA's host packages that dpkg knows and that are not removed.
        loaded: version of the loaded module, /sys/module/nvidia/version; None: not loaded.
        nouveau: the cards that are bound to nouveau, the kernel's own driver.
        kernel: the running kernel's release, /proc/sys/kernel/osrelease.
        is_open: whether the loaded module is the open one, /proc/driver/nvidia/version.
    """

    packages: tuple[Package, ...] = ()
    loaded: str | None = None
    nouveau: tuple[PciAddress, ...] = ()
    kernel: str = ""
    is_open: bool = False

    @property
    def installed(self) -> Package | None:
        """The package, if it is installed and the only one."""
        is_complete = len(self.packages) == 1 and self.packages[0].is_installed
        return self.packages[0] if is_complete else None

    def has(self, name: str, version: str) -> bool:
        """Whether exactly this package is installed."""
        package = self.installed
        return package is not None and (package.name, package.version) == (name, version)

    @property
    def is_incomplete(self) -> bool:
        """Whether a package is unpacked, but not configured."""
        return any(not package.is_installed for package in self.packages)

    def reboot_reason(self) -> Problem | None:
        """Return why the installed driver needs a reboot to work; None if it does not."""
        if self.installed is None:
            return None
        if self.nouveau:
            return Problem(ProblemKind.NOUVEAU, self.nouveau[0])
        version = _upstream_version(self.installed.version)
        if self.loaded is not None and self.loaded != version:
            return Problem(ProblemKind.OTHER_VERSION_LOADED, loaded=self.loaded, installed=version)
        return None


def query(root: Path, gpus: Iterable[Gpu]) -> DriverState:
    """Read the state of NVIDIA's driver."""
    return DriverState(
        packages=installed_packages(root),
        loaded=_read_line(root / "sys/module/nvidia/version"),
        nouveau=tuple(gpu.address for gpu in gpus if gpu.driver == "nouveau"),
        kernel=_read_line(root / "proc/sys/kernel/osrelease") or os.uname().release,
        is_open="Open Kernel Module" in (_read_line(root / "proc/driver/nvidia/version") or ""),
    )


def installed_packages(root: Path) -> tuple[Package, ...]:
    """Return NVIDIA's host packages that dpkg knows and that are not removed."""
    packages = dpkg.find(root, PACKAGE_PATTERN)
    return tuple(package for package in packages if not package.is_removed)


def _upstream_version(version: str) -> str:
    """Drop the epoch and the revision that a repackaged driver may have."""
    return version.split(":", 1)[-1].split("-", 1)[0].split("~", 1)[0]


def _read_line(path: Path) -> str | None:
    return one_line(sysfs.read(path), 200) or None
