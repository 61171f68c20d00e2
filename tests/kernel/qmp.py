# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's machine protocol: lines of JSON on a socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Mapping

TIMEOUT = 60


class QmpError(Exception):
    """QEMU refused a command."""


def execute(path: Path, command: str, arguments: Mapping[str, Any]) -> Any:
    """Send a command to the socket of a machine, and return the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(path))
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.readline()  # the greeting
            for name, options in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": options}) + "\n")
                stream.flush()
                answer = _next_answer(stream)
    return answer


def _next_answer(stream: Any) -> Any:
    """Return the next answer; events can precede it."""
    while True:
        message = json.loads(stream.readline())
        if "error" in message:
            raise QmpError(message["error"]["desc"])
        if "return" in message:
            return message["return"]
