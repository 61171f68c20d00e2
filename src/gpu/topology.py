# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How far two PCI functions are from each other, as `nvidia-smi topo -m` names it.

https://docs.nvidia.com/multi-node-nvlink-systems/multi-node-tuning-guide/system.html
"""

from __future__ import annotations

import enum

from gpu.pci import PciFunction

__all__ = ["Distance", "distance"]


class Distance(enum.IntEnum):
    """What lies between two functions, the nearest first."""

    PIX = 0  # one switch
    PXB = 1  # several switches, but no root complex
    PHB = 2  # the root complex
    NODE = 3  # the root complexes of one NUMA node
    SYS = 4  # the interconnect of NUMA nodes


def distance(first: PciFunction, second: PciFunction) -> Distance:
    """Return the distance of two functions by their places below /sys/devices.

    A place starts with the root complex, `pci0000:00`, and the root port. A switch has an
    upstream port and, for each device, a downstream port.
    """
    shared = 0
    for one, other in zip(first.bridges, second.bridges):
        if one != other:
            break
        shared += 1
    if shared > 1:  # below one root port
        longest = max(len(first.bridges), len(second.bridges))
        return Distance.PIX if longest - shared <= 1 else Distance.PXB
    if shared == 1:
        return Distance.PHB
    same_node = first.numa_node is not None and first.numa_node == second.numa_node
    return Distance.NODE if same_node else Distance.SYS
