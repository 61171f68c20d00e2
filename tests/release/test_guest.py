# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The program that a guest runs on its vGPU, tested without a vGPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from target import cloud, vector_add

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


class SimulatedCuda:
    """Simulates NVIDIA's driver: it decodes its arguments as the driver would."""

    def __init__(self, wrong: int = 0) -> None:
        self._wrong = wrong
        self._memory: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0

    def cuDeviceGetName(self, name: Any, size: int, _: Any) -> int:  # noqa: N802
        name.value = b"GRID T4-8Q"
        return 0 if size == 256 else 1

    def cuMemAlloc_v2(self, address: Any, size: ctypes.c_size_t) -> int:  # noqa: N802
        self._memory.append(ctypes.create_string_buffer(size.value))
        address._obj.value = ctypes.addressof(self._memory[-1])
        return 0

    def cuMemcpyHtoD_v2(self, address: Any, values: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(address.value, values.value, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, values: Any, address: Any, size: Any) -> int:  # noqa: N802
        ctypes.memmove(values.value, address.value, size.value)
        return 0

    def cuLaunchKernel(self, *arguments: Any) -> int:  # noqa: N802
        _, grid, _, _, block, _, _, shared, stream, parameters, extra = arguments
        assert (shared, stream, extra) == (0, None, None)
        addresses = [ctypes.c_uint64.from_address(pointer).value for pointer in parameters[:3]]
        length = ctypes.c_uint32.from_address(parameters[3]).value
        first, second, sums = (
            (ctypes.c_float * length).from_address(address) for address in addresses
        )
        for index in range(min(grid * block, length) - self._wrong):
            sums[index] = first[index] + second[index]
        return 0


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (0, f"vgpu-test {BOOT} passed: 4096 sums on GRID T4-8Q\n"),
        (1, f"vgpu-test {BOOT} failed: 1 of 4096 sums are wrong\n"),
    ],
)
def test_the_program_checks_the_sums(wrong, line, monkeypatch, capsys):
    monkeypatch.setattr(vector_add, "LENGTH", 4096)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimulatedCuda(wrong))
    assert vector_add.main() == wrong
    assert capsys.readouterr().out == line


def test_a_failed_driver_call_is_reported(monkeypatch, capsys):
    cuda = SimulatedCuda()
    cuda.cuInit = lambda _: 100  # CUDA_ERROR_NO_DEVICE
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda)
    assert vector_add.main() == 1
    assert capsys.readouterr().out == f"vgpu-test {BOOT} failed: cuInit returned 100\n"


def test_a_missing_guest_driver_is_reported():
    result = subprocess.run(
        [sys.executable, cloud.PROGRAM], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == (
        f"vgpu-test {BOOT} failed: libcuda.so.1: cannot open shared object file: "
        "No such file or directory\n"
    )


def test_the_guest_gets_the_program_and_a_service_that_runs_it_at_each_boot():
    head, _, body = cloud.user_data().partition("\n")
    assert head == "#cloud-config"
    data = yaml.safe_load(body)
    program, service = data["write_files"]
    assert program["content"] == cloud.PROGRAM.read_text(encoding="utf-8")
    assert program["permissions"] == "0755"
    assert f"ExecStart={program['path']}\n" in service["content"]
    assert "StandardOutput=journal+console\n" in service["content"]
    assert data["runcmd"][-1] == ["systemctl", "enable", "--now", "vgpu-test.service"]


def test_results_are_found_among_other_lines_on_the_console():
    console = (
        "[    1.0] systemd[1]: Starting\r\n"
        "[    9.1] vgpu-test[512]: vgpu-test 11 failed: cuInit returned 100\r\n"
        "login: vgpu-test 22 passed: 1048576 sums on GRID T4-8Q\r\nlogin: "
    )
    assert cloud.verdicts(console) == [
        ("11", "failed", "cuInit returned 100"),
        ("22", "passed", "1048576 sums on GRID T4-8Q"),
    ]
