# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""On the machine: opens cards through VFIO, as the QEMU of a guest does, and keeps them open.

Prints the id of the process that has them open. If the kernel refuses, prints the name of the
error and the step, and exits with 1.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import sys

# The requests of linux/vfio.h.
SET_IOMMU, GROUP_GET_STATUS, GROUP_SET_CONTAINER, GROUP_GET_DEVICE = (
    ord(";") << 8 | 100 + number for number in (2, 3, 4, 6)
)
TYPE1V2_IOMMU = 3
VIABLE = 1


class Guest:
    """The open files of a guest: one container, the groups in it, and their devices."""

    def __init__(self) -> None:
        self._container = os.open("/dev/vfio/vfio", os.O_RDWR)
        self._groups: dict[str, int] = {}

    def open(self, address: str) -> None:
        link = os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group")
        number = os.path.basename(link)
        if number not in self._groups:
            self._groups[number] = self._open_group(number)
        fcntl.ioctl(self._groups[number], GROUP_GET_DEVICE, address.encode() + b"\0")

    def _open_group(self, number: str) -> int:
        group = os.open(f"/dev/vfio/{number}", os.O_RDWR)
        status = bytearray(struct.pack("II", 8, 0))
        fcntl.ioctl(group, GROUP_GET_STATUS, status)
        if not struct.unpack("II", status)[1] & VIABLE:
            raise PermissionError(errno.EPERM, "the group is not viable", number)
        fcntl.ioctl(group, GROUP_SET_CONTAINER, struct.pack("i", self._container))
        if not self._groups:
            fcntl.ioctl(self._container, SET_IOMMU, TYPE1V2_IOMMU)
        return group


def main() -> None:
    guest = Guest()
    try:
        for address in sys.argv[1:]:
            guest.open(address)
    except OSError as error:
        sys.exit(f"{errno.errorcode[error.errno or 0]}: {error}")
    pid = os.fork()
    if pid:
        print(pid)
        sys.exit()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
