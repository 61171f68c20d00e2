# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The tests' side of the connection to the agent of a machine."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Sequence

# How much longer than a program's own timeout its answer may take.
DELAY = 60


class AgentClient:
    """A connection to an agent; each method raises OSError if the agent does not answer."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._received = b""
        self._numbers = itertools.count()

    def close(self) -> None:
        self._socket.close()

    def wait_for_start(self, timeout: float) -> None:
        """Wait until the agent has started."""
        deadline = time.monotonic() + timeout
        while "boot" not in self._receive(deadline):
            pass

    def run(
        self, argv: Sequence[str], stdin: bytes, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        number = next(self._numbers)
        request = {"id": number, "argv": argv, "timeout": timeout, "stdin": _encode(stdin)}
        deadline = time.monotonic() + timeout + DELAY
        self._socket.settimeout(timeout + DELAY)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == number:  # and not the late answer to an earlier request
                stdout, stderr = _decode(answer["stdout"]), _decode(answer["stderr"])
                return subprocess.CompletedProcess(argv, answer["returncode"], stdout, stderr)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the connection is closed")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decode(content: str) -> str:
    return base64.b64decode(content).decode("utf-8", "surrogateescape")
