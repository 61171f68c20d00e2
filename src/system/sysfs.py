# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of the kernel's devices, which may vanish or fail while they are read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gpu.pci import PciAddress
from system.commands import Runner
from system.text import one_line

__all__ = [
    "PCI_DEVICES",
    "device",
    "link_name",
    "names",
    "read",
    "read_hexadecimal",
    "read_number",
    "write",
    "write_in_process",
]

PCI_DEVICES = "sys/bus/pci/devices"  # https://docs.kernel.org/PCI/sysfs-pci.html
_WRITE = 'echo "$0" >"$1"'  # both are arguments, never part of the script
_MAX_DIGITS = 9  # more than any number of NVIDIA's driver has

logger = logging.getLogger(__name__)


def device(root: Path, address: PciAddress) -> str:
    """Return the folder of a PCI function; a text, since a Path costs more than the reading."""
    return os.path.join(root, PCI_DEVICES, str(address))


def names(folder: str | Path) -> list[str]:
    """List a folder; empty if it is missing or its card fell off the bus (EIO)."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read: %s", folder, error)
        return []


def read(path: str | Path) -> str:
    """Return the text of an attribute, empty if it is missing or cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0 \t\n")
    except OSError:
        return ""


def read_number(path: str | Path) -> int | None:
    """Return a decimal attribute; None if it is missing or not a plausible number."""
    text = read(path)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def read_hexadecimal(path: str | Path) -> int | None:
    """Return a hexadecimal attribute, `0x10de`; None if it is missing or not a number."""
    try:
        return int(read(path), 16)
    except ValueError:
        return None


def link_name(path: str | Path) -> str | None:
    """Return the name of what a link points to, such as a driver; None if there is no link."""
    try:
        return one_line(os.path.basename(os.readlink(path)), 60)
    except OSError:
        return None


def write(path: str | Path, text: str) -> None:
    """Write an attribute with a single write, as the kernel requires.

    Raises:
        OSError: the driver refuses the value, mostly with EIO.
    """
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


def write_in_process(run: Runner, path: str | Path, text: str, timeout: float) -> None:
    """Write an attribute in a process of its own, for writes that may wait in the kernel.

    Such a write cannot be interrupted; after the timeout it goes on, but nobody waits for it.

    Raises:
        CommandError: the driver refuses the value, or the write did not end in time.
    """
    run("sh", "-c", _WRITE, text, str(path), timeout=timeout)
