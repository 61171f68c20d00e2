#!/usr/bin/python3 -IS
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Sends a request to the simulated driver, which runs outside the host, over `kernel`'s socket.

A host has this as the program /bed/ask, which the sample package's programs start. It prints the
driver's output and exits with the driver's exit code.
"""

import json
import socket
import sys


def ask(address, *request):
    """Return the driver's answer: an exit code or an error number, and the output."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            return json.loads(stream.readline())


if __name__ == "__main__":
    code, output = ask("/bed/driver", *sys.argv[1:])
    sys.stdout.write(output)
    sys.exit(code)
