# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Gives single PCI functions to vfio-pci, or back to their own driver.

By driver_override, so that no other device of the same model is affected:
https://docs.kernel.org/driver-api/driver-model/binding.html

The kernel reports success for writes without effect, so only the driver that is bound afterwards
counts. A removed driver waits in the kernel for whoever uses the device, and cannot be
interrupted; therefore each write has a process of its own.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from gpu.pci import VFIO_PCI, PciAddress, PciFunction
from gpu.problems import HostError, Problem, ProblemKind
from host import libvirt_guests, pci_functions
from system import sysfs
from system.commands import CommandError, Runner

__all__ = ["bind", "ensure_module_loaded", "release"]

_DRIVERS = Path("sys/bus/pci/drivers")
_PROBE = Path("sys/bus/pci/drivers_probe")
_TIMEOUT = 30.0  # seconds; NVIDIA's driver needs some to stop a card
_NO_OVERRIDE = ""

logger = logging.getLogger(__name__)


def ensure_module_loaded(root: Path, run: Runner, address: PciAddress) -> None:
    """Load vfio-pci, which is built into Ubuntu's kernels since focal.

    Raises:
        HostError: BINDING_FAILED; there is no such module.
    """
    if (root / _DRIVERS / VFIO_PCI).is_dir():
        return
    try:
        run("modprobe", VFIO_PCI)
    except CommandError as error:
        raise _failed(address, VFIO_PCI, error.reason) from error


def bind(root: Path, run: Runner, function: PciFunction) -> None:
    """Bind vfio-pci to a function; if that fails, its own driver is bound again.

    The caller ensures that nothing uses the function, and that it has no virtual functions.

    Raises:
        HostError: BINDING_FAILED.
    """
    address = function.address
    try:
        _change_driver(root, run, function, VFIO_PCI)
    except CommandError as error:
        reason = f"{function.driver} does not release it" if error.timed_out else error.reason
        raise _failed(address, VFIO_PCI, reason) from error
    if _driver(root, address) == VFIO_PCI:
        logger.info("%s is bound to %s", address, VFIO_PCI)
        return
    try:
        _change_driver(root, run, function._replace(driver=None), _NO_OVERRIDE)
    except CommandError as error:
        logger.warning("%s", error)
    raise _failed(address, VFIO_PCI, "refused, see dmesg")


def release(root: Path, run: Runner, function: PciFunction) -> None:
    """Give a function back to its own driver, if that is loaded.

    Also one that has lost vfio-pci, or has not got it yet, since a hook was killed.

    Raises:
        HostError: BINDING_FAILED; a guest uses it, or the driver could not be changed.
    """
    address = function.address
    if _is_in_use(root, function):
        raise _failed(address, "its own driver", "a guest uses it")
    try:
        if function.driver in (VFIO_PCI, None):
            _change_driver(root, run, function, _NO_OVERRIDE)
        else:
            _override(root, run, address, _NO_OVERRIDE)
    except CommandError as error:
        raise _failed(address, "its own driver", error.reason) from error
    if _driver(root, address) == VFIO_PCI:
        raise _failed(address, "its own driver", "vfio-pci does not release it")
    logger.info("%s is released from %s", address, VFIO_PCI)


def _change_driver(root: Path, run: Runner, function: PciFunction, driver: str) -> None:
    """Remove the present driver and let the kernel bind another.

    Raises:
        CommandError: a write failed, or did not end in time.
    """
    folder, address = Path(sysfs.device(root, function.address)), str(function.address)
    _override(root, run, function.address, driver)
    if function.driver is not None:
        sysfs.write_in_process(run, folder / "driver/unbind", address, _TIMEOUT)
    sysfs.write_in_process(run, root / _PROBE, address, _TIMEOUT)


def _override(root: Path, run: Runner, address: PciAddress, driver: str) -> None:
    path = Path(sysfs.device(root, address), "driver_override")
    sysfs.write_in_process(run, path, driver, _TIMEOUT)


def _driver(root: Path, address: PciAddress) -> str | None:
    function = pci_functions.read(root, address)
    return None if function is None else function.driver


def _is_in_use(root: Path, function: PciFunction) -> bool:
    """Whether a guest uses a function: its VFIO group can be opened only once."""
    if libvirt_guests.open_functions(root, [function.address]):
        return True
    try:
        os.close(os.open(root / "dev/vfio" / str(function.iommu_group), os.O_RDWR))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _failed(address: PciAddress, driver: str, reason: str) -> HostError:
    kind = ProblemKind.BINDING_FAILED
    return HostError(Problem(kind, address, driver=driver, reason=reason))
