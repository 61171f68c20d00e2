# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Python as hooks and the boot service find it on a host where /bed/crash is: it ends at a step.

A step is whatever changes the host: a file opened to be written, renamed, removed; a program
started, unless it only looks; and the end. Each is noted in /bed/steps, one line a step, by hook
and boot service alike, so that their numbers go through. /bed/crash holds the number of the step
to end at, and how: `kill` ends this process as kill -9 does, `power` the host, with all that no
fsync has brought to the disk. It happens once.

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
NOTES = "/bed/steps"
# Programs that only look, or only talk to Juju, which forgets what a killed hook said.
_LOOKS = re.compile(
    r"(?:(?:config|resource|relation|action|status|network|state|credential)-get|is-leader"
    r"|relation-(?:ids|list)|juju-log|status-set|application-version-set|action-(?:log|set|fail)"
    r"|lspci|dpkg-(?:deb|query)|dpkg --print-architecture|apt-cache|uname"
    r"|systemctl (?:is-|show|cat)|apt-get .* --simulate|nvidia-smi .*(?:--query|-lgi|-s -v|-q))",
)
# Programs in whose midst it may end, too; the others are done at once.
_TAKES_TIME = re.compile(
    r"apt-get|dpkg|systemctl (?:start|stop|restart|disable --now)|sriov-manage|update-initramfs"
)
_ELSEWHERE = ("/bed/", "/dev/", "/proc/", "/tmp/", "/var/lib/juju/")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod")


class Observer:
    """Counts the steps of this process, and ends it at the one that is asked for."""

    def __init__(self, step: int, how: str) -> None:
        self._step = step
        self._how = how
        self._is_noting = False
        self._written: set[str] = set()
        self._synced: set[int] = set()
        self._under_way = ""

    def start(self) -> None:
        """Watch from now on."""
        sync, begin = os.fsync, subprocess.Popen.__init__

        def fsync(fd: int) -> None:
            sync(fd)
            self._synced.add(os.fstat(fd).st_ino)

        def start(process, *args, **kwargs):  # type: ignore[no-untyped-def]
            begin(process, *args, **kwargs)
            name, self._under_way = self._under_way, ""
            if name:
                time.sleep(0.15)  # it is at its work
                self._note(f"during {name}")

        os.fsync = fsync
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
        sys.addaudithook(self._hear)

    def end(self) -> None:
        """Note that all was done but to leave."""
        self._note("the end")

    def _hear(self, event, args):  # type: ignore[no-untyped-def]
        if self._is_noting:
            return
        if event == "subprocess.Popen":
            words = " ".join(map(str, args[1]))
            if _LOOKS.match(words) is None:
                self._note(words)
                self._under_way = words if _TAKES_TIME.search(words) else ""
        elif event == "open":
            path, _, flags = args
            if flags & (os.O_WRONLY | os.O_RDWR) and isinstance(path, (str, os.PathLike)):
                self._change("write", os.fspath(path))
        elif event in _CHANGES and isinstance(args[0], (str, os.PathLike)):
            self._change(event.partition(".")[2], os.fspath(args[0]))
            if event == "os.rename":
                self._written.add(os.fspath(args[1]))

    def _change(self, verb: str, path: str) -> None:
        is_idle = os.path.lexists(path) == (verb == "mkdir") and verb != "write"
        if not path.startswith(_ELSEWHERE) and not is_idle:
            self._note(f"{verb} {path}")
            self._written.add(path)

    def _note(self, step: str) -> None:
        self._is_noting = True
        with open(NOTES, "a+", encoding="utf-8") as notes:
            notes.write(step.replace("\n", " ") + "\n")
            notes.seek(0)
            number = len(notes.readlines())
        if number == self._step and os.path.exists(PLAN):
            os.unlink(PLAN)
            if self._how == "power":
                self._lose_power()
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_noting = False

    def _lose_power(self) -> None:
        for path in self._written:
            with contextlib.suppress(OSError):
                on_disk = path.startswith(("/etc", "/var", "/lib", "/usr", "/boot"))
                if on_disk and os.stat(path).st_ino not in self._synced:
                    os.truncate(path, 0)
        subprocess.run(["/bed/ask", "power-cut"], check=False)
        time.sleep(60)


def main(words: "list[str]") -> None:
    script = next(word for word in words if word.endswith(".py"))
    sys.argv = words[words.index(script) :]
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
