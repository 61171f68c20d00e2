# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a hook or the boot service, and crashes it at the step that /bed/crash names.

A step is anything that changes the host: opening a file for writing, renaming or removing a file,
starting a program that does more than read, and the end. Hooks and the boot service record their
steps in /bed/steps, one per line, so that the steps of both are numbered consecutively. /bed/crash
contains the number of the step to crash at, and how: `kill` ends this process as kill -9 does;
`power` ends the host, and everything that no fsync has written to disk is lost. It happens once.

    crash.py [OPTION...] SCRIPT.py [ARGUMENT...]
"""

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

PLAN = "/bed/crash"
STEPS = "/bed/steps"
# Programs that only read, or only talk to Juju, which discards the changes of a killed hook.
_READ_ONLY = re.compile(
    r"(?:(?:config|resource|relation|action|status|network|state|credential)-get|is-leader"
    r"|relation-(?:ids|list)|juju-log|status-set|application-version-set|action-(?:log|set|fail)"
    r"|lspci|dpkg-(?:deb|query)|dpkg --print-architecture|apt-cache|uname"
    r"|systemctl (?:is-|show|cat)|apt-get .* --simulate|nvidia-smi .*(?:--query|-lgi|-s -v|-q))",
)
# Programs that a crash may also interrupt; the others take too little time.
_LONG_RUNNING = re.compile(
    r"apt-get|dpkg|systemctl (?:start|stop|restart|disable --now)|sriov-manage|update-initramfs"
)
_IGNORED_PATHS = ("/bed/", "/dev/", "/proc/", "/tmp/", "/var/lib/juju/")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod")


class Observer:
    """Counts the steps of this process, and ends it at the requested step."""

    def __init__(self, step: int, how: str) -> None:
        self._step = step
        self._how = how
        self._is_recording = False
        self._written: set[str] = set()
        self._synced: set[int] = set()
        self._running = ""

    def start(self) -> None:
        """Start counting."""
        sync, begin = os.fsync, subprocess.Popen.__init__

        def fsync(fd: int) -> None:
            sync(fd)
            self._synced.add(os.fstat(fd).st_ino)

        def start(process, *args, **kwargs):  # type: ignore[no-untyped-def]
            begin(process, *args, **kwargs)
            name, self._running = self._running, ""
            if name:
                time.sleep(0.15)  # now the program runs
                self._record(f"during {name}")

        os.fsync = fsync
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
        sys.addaudithook(self._audit)

    def end(self) -> None:
        """Record that everything except the exit is done."""
        self._record("the end")

    def _audit(self, event, args):  # type: ignore[no-untyped-def]
        if self._is_recording:
            return
        if event == "subprocess.Popen":
            command = " ".join(map(str, args[1]))
            if _READ_ONLY.match(command) is None:
                self._record(command)
                self._running = command if _LONG_RUNNING.search(command) else ""
        elif event == "open":
            path, _, flags = args
            if flags & (os.O_WRONLY | os.O_RDWR) and isinstance(path, (str, os.PathLike)):
                self._change("write", os.fspath(path))
        elif event in _CHANGES and isinstance(args[0], (str, os.PathLike)):
            self._change(event.partition(".")[2], os.fspath(args[0]))
            if event == "os.rename":
                self._written.add(os.fspath(args[1]))

    def _change(self, verb: str, path: str) -> None:
        has_no_effect = os.path.lexists(path) == (verb == "mkdir") and verb != "write"
        if not path.startswith(_IGNORED_PATHS) and not has_no_effect:
            self._record(f"{verb} {path}")
            self._written.add(path)

    def _record(self, step: str) -> None:
        self._is_recording = True
        with open(STEPS, "a+", encoding="utf-8") as steps:
            steps.write(step.replace("\n", " ") + "\n")
            steps.seek(0)
            number = len(steps.readlines())
        if number == self._step and os.path.exists(PLAN):
            os.unlink(PLAN)
            if self._how == "power":
                self._lose_power()
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_recording = False

    def _lose_power(self) -> None:
        for path in self._written:
            with contextlib.suppress(OSError):
                on_disk = path.startswith(("/etc", "/var", "/lib", "/usr", "/boot"))
                if on_disk and os.stat(path).st_ino not in self._synced:
                    os.truncate(path, 0)
        subprocess.run(["/bed/ask", "power-cut"], check=False)
        time.sleep(60)


def main(arguments: "list[str]") -> None:
    script = next(argument for argument in arguments if argument.endswith(".py"))
    sys.argv = arguments[arguments.index(script) :]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    with open(PLAN, encoding="utf-8") as plan:
        observer = Observer(**json.load(plan))
    observer.start()
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        observer.end()


if __name__ == "__main__":
    main(sys.argv[1:])
