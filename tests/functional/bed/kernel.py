# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of a host: what /sys shows of its cards, and NVIDIA's driver behind it.

No NVIDIA module can be loaded here. `nvidia.Driver` stands for it, outside the host, where tests
may look at it. The host reaches it in two ways: its /sys is a file system that hands on what is
written to it (see `sysfs`), and the sample package's programs ask at a socket (see `ask`).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

import nvidia
import recorded

HERE = Path(__file__).parent
# What of /sys is the host's own; overlays give them a place where the kernel has none.
_OWN = ("bus/pci", "bus/mdev", "class/mdev_bus")
_OVERLAID = ("bus", "class", "devices", "module")


@lru_cache(maxsize=None)
def why_still() -> str:
    """Say why nothing that is written to a host's /sys is heard here; empty if it is."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if ctypes.util.find_library("fuse") is None:
        return "needs libfuse2"
    return "" if importlib.util.find_spec("fuse") else "needs fusepy"


class Kernel:
    """The kernel of one host; use it as a context, in which the driver can be asked.

    Attributes:
        driver: NVIDIA's driver.
        tree: what /sys shows of the cards, as plain files.
        cut_power: what a program on the host that asks for a power cut gets.
    """

    cut_power: Callable[[], None]

    def __init__(
        self, folder: Path, bed: Path, host: dict[str, Any], *, reacts: bool = True
    ) -> None:
        """Plan a kernel.

        Args:
            folder: an empty one for the trees.
            bed: the folder that the host has as /bed.
            host: the recorded host; see `recorded`.
            reacts: whether the driver hears what is written to /sys, where that can be had. Each
                read then goes through it too, which takes far longer than the kernel would.
        """
        self._reacts = reacts and not why_still()
        self._folder = folder
        self._bed = bed
        self._errors: list[str] = []
        self._stack = contextlib.ExitStack()
        self.driver = nvidia.Driver(folder / "tree", host)
        self.tree = folder / "tree/sys"

    def __enter__(self) -> Kernel:
        with contextlib.ExitStack() as stack:
            stack.callback(self._complain)
            shutil.copy(HERE / "ask.py", self._bed / "ask")
            self._listen(stack)
            self.tree.mkdir(parents=True)
            if self._reacts:
                self._mount(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _complain(self) -> None:
        """Let no fault of the driver's simulation pass for a driver's refusal."""
        if self._errors:
            raise AssertionError("\n".join(self._errors))

    def _listen(self, stack: contextlib.ExitStack) -> None:
        door = stack.enter_context(socket.socket(socket.AF_UNIX))
        door.bind(str(self._bed / "driver"))
        door.listen()
        thread = threading.Thread(target=self._serve, args=(door,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(door.shutdown, socket.SHUT_RDWR)  # which wakes the thread

    def _serve(self, door: socket.socket) -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            # Who asks may be killed before the answer, or before the question.
            with contextlib.suppress(OSError, ValueError):
                self._hear(connection)

    def _hear(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            json.dump(self._answer(*json.loads(stream.readline())), stream)

    def _answer(self, program: str, *words: str) -> nvidia.Answer:
        try:
            if program == "write":
                return self._write(*words)
            if program == "power-cut":
                self.cut_power()
                return 0, ""
            if program == "modprobe":
                self.driver.load(*words)
                return 0, ""
            answer = {
                "nvidia-smi": self.driver.nvidia_smi,
                "sriov-manage": self.driver.sriov_manage,
            }[program]
            return answer(*words)
        except Exception:
            self._errors.append(f"{program} {' '.join(words)}\n{traceback.format_exc()}")
            return 255, self._errors[-1]

    def _write(self, path: str, text: str) -> nvidia.Answer:
        try:
            self.driver.write(self._folder / "tree" / path.lstrip("/"), text)
        except OSError as error:
            return error.errno or 5, ""
        return 0, ""

    def _mount(self, stack: contextlib.ExitStack) -> None:
        shown = self._folder / "shown"
        shown.mkdir()
        words = [self._folder / "tree", shown, self._bed / "driver"]
        process = subprocess.Popen(
            [sys.executable, HERE / "sysfs.py", *words], stdin=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + 30
        while not os.path.ismount(shown):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the file system for /sys does not come up")
            time.sleep(0.005)
        stack.callback(subprocess.run, ["umount", "-l", shown], check=True)

    def boot(self, version: str | None, holder: str | None) -> None:
        """Start anew: nothing that was made on the cards is left, but a mode that they keep.

        Args:
            version: the version of NVIDIA's driver, if that is loaded.
            holder: the driver that takes the cards.
        """
        functions = [
            {**known, "driver": holder} if known.get("types") else known
            for known in self.driver.host["functions"]
        ]
        self.driver.host = {
            **self.driver.host,
            "driver": {"loaded": version},
            "functions": functions,
        }
        self.driver.boot()
        shutil.rmtree(self.tree, ignore_errors=True)
        recorded.build_sys(self._folder / "tree", self.driver.host)
        for name in (*_OWN, "bus/mdev/devices", "module"):
            (self.tree / name).mkdir(parents=True, exist_ok=True)

    def mounts(self) -> list[str]:
        """Return the options that show a container its /sys."""
        own = [*_OWN, *(f"devices/{path.name}" for path in (self.tree / "devices").iterdir())]
        places = self._folder / "places"
        shutil.rmtree(places, ignore_errors=True)
        for name in own:
            (places / name).mkdir(parents=True)
        shutil.copytree(self.tree / "module", places / "module")
        tree = self._folder / "shown/sys" if self._reacts else self.tree
        options = [f"--overlay=/sys/{name}:{places / name}:/sys/{name}" for name in _OVERLAID]
        escaped = [name.replace(":", "\\:") for name in own]
        return [*options, *(f"--bind={tree / name}:/sys/{name}" for name in escaped)]
