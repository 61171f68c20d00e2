#!/usr/bin/python3 -IS
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Asks the driver, which lives outside the host, over the socket that `kernel` listens at.

A host has this as the program /bed/ask, which the sample package's programs start: it prints what
the driver says and ends as it says.
"""

import json
import socket
import sys


def ask(address, *words):
    """Return the driver's answer: an exit code or an error's number, and what it says."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(address)
        with door.makefile("rw") as stream:
            stream.write(json.dumps(words) + "\n")
            stream.flush()
            return json.loads(stream.readline())


if __name__ == "__main__":
    code, said = ask("/bed/driver", *sys.argv[1:])
    sys.stdout.write(said)
    sys.exit(code)
