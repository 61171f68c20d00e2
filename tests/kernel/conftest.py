# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel tier: the charm's code on a real kernel, with PCI cards that QEMU emulates.

What is real: the kernel with its sysfs, IOMMU groups, vfio-pci, SR-IOV, NUMA nodes and hotplug;
udev; systemd; optionally libvirt with QEMU guests. What is not: the cards, which have nothing
behind their configuration space; the drivers `nvidia` and `mlx5_core`, which do no more than bind
cards and create virtual functions, see `drivers`; the Debian, where a charm's host has Ubuntu.

`tests/kernel/setup` installs the programs that are needed. The rest is built on first use, in
build/kernel or in the folder that the environment variable KERNEL_BUILD names. The tests need root
but not KVM. A boot takes 10 seconds on an idle computer and longer on a busy one, so a test should
make many checks in few boots.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest
import root_image
from virtual_machine import VirtualMachine


def pytest_report_header() -> str:
    reason = root_image.why_unavailable()
    if reason:
        return f"no machine can be emulated here, so these tests are skipped: {reason}"
    return "machines that QEMU emulates"


@pytest.fixture(scope="session")
def image() -> root_image.Image:
    """What the machines boot; its parts are built on first use."""
    reason = root_image.why_unavailable()
    if reason:
        pytest.skip(f"no machine can be emulated here: {reason}")
    return root_image.Image(Path(os.environ.get("KERNEL_BUILD", root_image.FOLDER)))


@pytest.fixture(scope="session")
def boot(image: root_image.Image) -> Callable[..., AbstractContextManager[VirtualMachine]]:
    """Boots a machine with cards, for a `with` statement; for the options see the class."""

    def booted(cards: Sequence[str] = (), **options: Any) -> VirtualMachine:
        return VirtualMachine(image, cards, **options)

    return booted
