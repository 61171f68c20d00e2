#!/usr/bin/env python3
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Adds two vectors on the guest's vGPU and prints the result; runs in the guest at each boot.

It needs Python and NVIDIA's guest driver, whose libcuda.so.1 compiles the program below for the
vGPU. It does not need the CUDA toolkit. https://docs.nvidia.com/cuda/cuda-driver-api/
"""

import ctypes
import sys
from array import array

LENGTH = 1 << 20
BLOCK = 256
BOOT_ID = "/proc/sys/kernel/random/boot_id"

# The oldest target of the cards that offer vGPUs; the driver compiles it for newer cards.
PROGRAM = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry add(
    .param .u64 first, .param .u64 second, .param .u64 sums, .param .u32 length)
{
    .reg .pred %outside;
    .reg .b32 %index, %block, %size, %thread, %end;
    .reg .b64 %offset, %a, %b, %c;
    .reg .f32 %x, %y;
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %index, %block, %size, %thread;
    ld.param.u32 %end, [length];
    setp.ge.u32 %outside, %index, %end;
    @%outside bra done;
    mul.wide.u32 %offset, %index, 4;
    ld.param.u64 %a, [first];
    ld.param.u64 %b, [second];
    ld.param.u64 %c, [sums];
    add.u64 %a, %a, %offset;
    add.u64 %b, %b, %offset;
    add.u64 %c, %c, %offset;
    ld.global.f32 %x, [%a];
    ld.global.f32 %y, [%b];
    add.f32 %x, %x, %y;
    st.global.f32 [%c], %x;
done:
    ret;
}
"""


class VectorError(Exception):
    """A driver call failed, or a sum is wrong."""


class Driver:
    """NVIDIA's driver API; a call that does not return 0 raises VectorError."""

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so.1")

    def __getattr__(self, name):
        function = getattr(self._library, name)

        def call(*arguments):
            code = function(*arguments)
            if code:
                raise VectorError("{} returned {}".format(name, code))

        return call


def main():
    """Print `vgpu-test BOOT passed: ...` or `vgpu-test BOOT failed: ...`."""
    with open(BOOT_ID) as stream:
        boot = stream.read().strip()
    try:
        verdict, text = "passed", add()
    except (OSError, AttributeError, VectorError) as error:
        verdict, text = "failed", error
    print("vgpu-test {} {}: {}".format(boot, verdict, text))
    return 0 if verdict == "passed" else 1


def add():
    """Add the vectors on the first vGPU; return the number of sums and the vGPU's name."""
    cuda = Driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    name = ctypes.create_string_buffer(256)
    cuda.cuInit(0)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device)
    cuda.cuModuleLoadData(ctypes.byref(module), PROGRAM)
    cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"add")

    # All values are integers below 2^24, which a float represents exactly.
    first = array("f", (float(number) for number in range(LENGTH)))
    second = array("f", (float(2 * number + 1) for number in range(LENGTH)))
    sums = array("f", bytes(4 * LENGTH))
    size = ctypes.c_size_t(sums.itemsize * LENGTH)
    addresses = [ctypes.c_uint64() for _ in range(3)]
    for address, values in zip(addresses, (first, second, sums)):
        cuda.cuMemAlloc_v2(ctypes.byref(address), size)
        cuda.cuMemcpyHtoD_v2(address, ctypes.c_void_p(values.buffer_info()[0]), size)

    length = ctypes.c_uint32(LENGTH)
    parameters = (ctypes.c_void_p * 4)(
        *(ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in [*addresses, length])
    )
    blocks = (LENGTH + BLOCK - 1) // BLOCK
    cuda.cuLaunchKernel(kernel, blocks, 1, 1, BLOCK, 1, 1, 0, None, parameters, None)
    cuda.cuCtxSynchronize()
    cuda.cuMemcpyDtoH_v2(ctypes.c_void_p(sums.buffer_info()[0]), addresses[2], size)
    wrong = sum(value != 3 * number + 1 for number, value in enumerate(sums))
    if wrong:
        raise VectorError("{} of {} sums are wrong".format(wrong, LENGTH))
    return "{} sums on {}".format(LENGTH, name.value.decode())


if __name__ == "__main__":
    sys.exit(main())
