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

# A hook's environment is Juju's; programs on the host get a fixed one instead.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    # needrestart (in jammy and later) restarts services after an apt run, libvirt among them:
    # https://manpages.ubuntu.com/manpages/jammy/man1/needrestart.1.html
    "NEEDRESTART_SUSPEND": "1",
}
# A program that waits for a hanging card cannot even be killed; the hook goes on without it.
_KILL_TIMEOUT = 5  # seconds
_POLL = 0.2  # seconds, after which a program is checked that prints nothing
_OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes kept of each stream, from its end


class Result(NamedTuple):
    """Exit code and output of a finished program."""

    returncode: int
    stdout: str
    stderr: str


class CommandError(Exception):
    """A program is missing, failed, or did not end in time.

    Attributes:
        argv: program and arguments.
        reason: why it failed, the last line of its output if it has any: one printable line of
            at most 200 characters.
        result: what it returned; None if it is missing or was stopped at its time limit.
        timed_out: whether it was stopped at its time limit.
    """

    def __init__(
        self,
        argv: Sequence[str],
        reason: str,
        result: Result | None = None,
        *,
        timed_out: bool = False,
    ) -> None:
        self.argv = tuple(argv)
        self.reason = one_line(reason, 200)
        self.result = result
        self.timed_out = timed_out
        code = "" if result is None else f"exit {result.returncode}: "
        super().__init__(f"{one_line(' '.join(argv), 300)}: {code}{self.reason}")

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return "" if self.result is None else self.result.stdout + self.result.stderr


class Runner(Protocol):
    """Starts programs on the host; `run` is the implementation."""

    def __call__(
        self, *argv: str, timeout: float = 60.0, check: bool = True, binary: bool = False
    ) -> Result:
        """Start a program and wait for it; see `run`."""
        ...


def run(*argv: str, timeout: float = 60.0, check: bool = True, binary: bool = False) -> Result:
    """Start a program, without a shell and without standard input, and wait for it.

    Args:
        argv: program and arguments; the program is looked up in the system's own folders.
        timeout: seconds, after which the program and all that it started are killed.
        check: whether an exit code other than 0 is an error.
        binary: whether the output is not text: each character then is one byte, as in latin-1.

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
        outputs = _outputs(process, timeout)
    except TimeoutError as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_TIMEOUT)
        reason = f"did not end within {timeout:.0f} s"
        raise CommandError(argv, reason, timed_out=True) from error
    finally:
        for stream in filter(None, (process.stdout, process.stderr)):
            stream.close()
    stdout, stderr = (
        output.decode("latin-1") if binary else _as_text(output) for output in outputs
    )
    result = Result(process.returncode, stdout, stderr)
    if check and result.returncode != 0:
        lines = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
        raise CommandError(argv, lines[-1], result)
    return result


def _outputs(process: subprocess.Popen[bytes], timeout: float) -> list[bytearray]:
    """Read both streams until the program ends, keeping the last `_OUTPUT_LIMIT` bytes of each.

    Raises:
        TimeoutError: the program did not end in time.
    """
    deadline = time.monotonic() + timeout
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, kept):
            selector.register(stream, selectors.EVENT_READ, kept[stream])
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            ready = selector.select(min(remaining, _POLL))
            # A background process that the program started may keep the streams open.
            if not ready and process.poll() is not None:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 64 * 1024)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                del key.data[:-_OUTPUT_LIMIT]
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    return list(kept.values())


def _as_text(output: bytearray) -> str:
    text = output.decode("utf-8", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")
