# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""On the machine: runs the programs that the tests request over a virtio port.

A request and its answer are lines of JSON. At its start, the agent sends the boot's id. Programs
write to files instead of pipes, so one that stays in the background does not delay the answer. A
program that does not end in time is killed but not waited for: it may be blocked in the kernel.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import json
import os
import signal
import subprocess
import tempfile
import time
from typing import Any, BinaryIO

PORT = "bed"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}
TIMED_OUT, NOT_STARTED = 124, 127


def main() -> None:
    port = os.open(find_port(), os.O_RDWR)
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        send(port, {"boot": file.read().strip()})
    with open(port, "rb", 1 << 16) as requests:
        while True:
            line = requests.readline()
            if line:
                send(port, answer(json.loads(line)))
            else:  # nobody is connected
                time.sleep(0.02)


def find_port() -> str:
    while True:
        for path in glob.glob("/sys/class/virtio-ports/*/name"):
            with open(path, encoding="ascii") as file:
                if file.read().strip() == PORT:
                    return "/dev/" + os.path.basename(os.path.dirname(path))
        time.sleep(0.05)


def send(port: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def answer(request: dict[str, Any]) -> dict[str, Any]:
    with new_file() as stdin, new_file() as stdout, new_file() as stderr:
        stdin.write(base64.b64decode(request["stdin"]))
        stdin.seek(0)
        try:
            returncode = run(request["argv"], request["timeout"], stdin, stdout, stderr)
        except OSError as error:
            returncode = NOT_STARTED
            stderr.write(str(error).encode())
        return {
            "id": request["id"],
            "returncode": returncode,
            "stdout": encoded(stdout),
            "stderr": encoded(stderr),
        }


def new_file() -> BinaryIO:
    return tempfile.TemporaryFile(dir="/run")


def encoded(file: BinaryIO) -> str:
    file.seek(0)
    return base64.b64encode(file.read()).decode()


def run(
    argv: list[str], timeout: float, stdin: BinaryIO, stdout: BinaryIO, stderr: BinaryIO
) -> int:
    process = subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd="/",
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return TIMED_OUT


if __name__ == "__main__":
    main()
