# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The program of the early boot service: binds whole cards before any other driver sees them.

It runs before udev loads the drivers of devices. It binds only what the charm has bound before,
where the same device is still in the same slot. All else is left to `boot`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from gpu.pci import VFIO_PCI
from host import pci_functions
from state import bound_functions
from system import commands, sysfs
from system.commands import CommandError, Runner

_DRIVER = Path("sys/bus/pci/drivers") / VFIO_PCI
_PROBE = Path("sys/bus/pci/drivers_probe")

logger = logging.getLogger(__name__)


def main(root: Path, run: Runner) -> int:
    """Bind the recorded functions to vfio-pci; return the exit code."""
    bound = bound_functions.load(root)
    if not bound:
        return 0
    if not (root / _DRIVER).is_dir():  # built into Ubuntu's kernels since focal
        try:
            run("modprobe", VFIO_PCI)
        except CommandError as error:
            logger.error("%s", error)
            return 1
    failed = False
    for address, pci_id in bound.items():
        function = pci_functions.read(root, address)
        if function is None or function.id != pci_id or function.driver is not None:
            logger.info("%s is left to the boot service", address)
            continue
        try:  # no driver is bound, so neither write has to wait
            folder = sysfs.device(root, address)
            sysfs.write(os.path.join(folder, "driver_override"), VFIO_PCI)
            sysfs.write(root / _PROBE, str(address))
            logger.info("%s is bound to %s", address, VFIO_PCI)
        except OSError as error:
            logger.error("%s cannot be bound to %s: %s", address, VFIO_PCI, error)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    sys.exit(main(Path("/"), commands.run))
