# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The one place that starts other programs."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import NamedTuple, Protocol, Sequence

from system.text import one_line

__all__ = ["CommandError", "Result", "Runner", "run"]

# A hook's environment is Juju's; what we start on the host sees a fixed one.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    # needrestart (in jammy and later) restarts services behind an apt run, libvirt among them:
    # https://manpages.ubuntu.com/manpages/jammy/man1/needrestart.1.html
    "NEEDRESTART_SUSPEND": "1",
}
# A program that waits for a card that hangs cannot even be killed; it must not hold the hook.
_GRACE = 5  # seconds
_OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes kept of each stream, from its end


class Result(NamedTuple):
    """What a finished program left."""

    returncode: int
    stdout: str
    stderr: str


class CommandError(Exception):
    """A program is missing, failed, or did not end in time.

    Attributes:
        argv: what was started.
        result: what it left; None if it is missing or was stopped at its time limit.
    """

    def __init__(self, argv: Sequence[str], reason: str, result: Result | None = None) -> None:
        super().__init__(f"{one_line(' '.join(argv), 300)}: {one_line(reason, 200)}")
        self.argv = tuple(argv)
        self.result = result

    @property
    def output(self) -> str:
        """Both streams, as a person would have read them."""
        return "" if self.result is None else self.result.stdout + self.result.stderr


class Runner(Protocol):
    """How writers reach the host; `run` is the real one."""

    def __call__(self, *argv: str, timeout: float = 60.0, check: bool = True) -> Result:
        """Start a program and wait for it; see `run`."""
        ...


def run(*argv: str, timeout: float = 60.0, check: bool = True) -> Result:
    """Start a program, without a shell and without standard input, and wait for it.

    Args:
        argv: program and arguments; the program is looked up in the system's own folders.
        timeout: seconds, after which the program and all that it started are killed.
        check: whether an exit code other than 0 is an error.

    Raises:
        CommandError: the program is missing, took too long, or (with `check`) failed.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(argv, error.strerror or "cannot be started") from error
    try:
        stdout, stderr = _outputs(process, timeout)
    except TimeoutError as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        raise CommandError(argv, f"did not end within {timeout:.0f} s") from error
    finally:
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()
    result = Result(process.returncode, stdout, stderr)
    if check and result.returncode != 0:
        lines = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
        raise CommandError(argv, f"exit {result.returncode}: {lines[-1]}", result)
    return result


def _outputs(process: subprocess.Popen[bytes], timeout: float) -> tuple[str, str]:
    """Read both streams until the program ends; no more of a flood is held than is kept.

    Raises:
        TimeoutError: it did not end in time.
    """
    deadline = time.monotonic() + timeout
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, kept):
            selector.register(stream, selectors.EVENT_READ, kept[stream])
        while selector.get_map():
            room = deadline - time.monotonic()
            ready = selector.select(room) if room > 0 else []
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                piece = os.read(key.fd, 64 * 1024)
                if not piece:
                    selector.unregister(key.fileobj)
                key.data.extend(piece)
                del key.data[:-_OUTPUT_LIMIT]
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    stdout, stderr = (data.decode("utf-8", errors="replace") for data in kept.values())
    return _with_plain_ends(stdout), _with_plain_ends(stderr)


def _with_plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
