# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What lspci shows, compared with the GPUs that were found in sysfs.

Only numeric fields are used: the names that lspci prints depend on the age of its pci.ids.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterable

from gpu.pci import GPU_CLASSES, NVIDIA, Gpu, PciAddress
from host.gpus import is_virtual_function
from system import sysfs
from system.commands import CommandError, Runner

__all__ = ["capabilities", "compare", "is_installed"]

logger = logging.getLogger(__name__)


def is_installed(root: Path) -> bool:
    """Whether the host has lspci, of the package pciutils."""
    return any((root / folder / "lspci").exists() for folder in ("usr/bin", "usr/sbin"))


def compare(root: Path, run: Runner, gpus: Iterable[Gpu]) -> None:
    """Log each GPU that only one of sysfs and lspci shows; sysfs is what the charm goes by."""
    in_sysfs = frozenset(gpu.address for gpu in gpus)
    try:
        in_lspci = frozenset(_list_gpus(root, run))
    except (CommandError, ValueError) as error:
        # One device without `vendor`, `device` or `class` makes lspci print no device at all.
        logger.warning("lspci failed, using sysfs alone: %s", error)
        return
    for address in sorted(in_sysfs ^ in_lspci):
        source = "sysfs" if address in in_sysfs else "lspci"
        logger.warning("only %s shows %s as an NVIDIA GPU", source, address)


def _list_gpus(root: Path, run: Runner) -> list[PciAddress]:
    # Without -A, lspci silently uses another method if the path does not exist.
    path = f"sysfs.path={root / 'sys/bus/pci'}"
    command = ("lspci", "-A", "linux-sysfs", "-O", path, "-Dvmmn", "-d", f"{NVIDIA:04x}:")
    addresses = []
    for record in run(*command).stdout.split("\n\n"):
        fields = dict(line.split(":\t", 1) for line in record.splitlines() if ":\t" in line)
        if "Slot" in fields and int(fields.get("Class", "0"), 16) in GPU_CLASSES:
            addresses.append(PciAddress.parse(fields["Slot"]))
    return [
        address for address in addresses if not is_virtual_function(sysfs.device(root, address))
    ]


def capabilities(run: Runner) -> dict[str, str]:
    """Return what lspci shows of each function's configuration space, by address.

    Raises:
        CommandError: lspci is missing or fails.
    """
    blocks = run("lspci", "-Dvvv").stdout.split("\n\n")
    return {block.split(maxsplit=1)[0]: block for block in blocks if block.strip()}
