# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of a host: its cards in /sys, backed by a simulation of NVIDIA's driver.

No NVIDIA module can be loaded here. `nvidia.Driver` simulates it outside the host, where tests can
inspect it. The host reaches the driver in two ways: its /sys is a file system that forwards writes
(see `sysfs`), and the sample package's programs send requests over a socket (see `ask`).
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
# The parts of /sys that each host has for itself; overlays add mount points that the kernel lacks.
_OWN = ("bus/pci", "bus/mdev", "class/mdev_bus")
_IOMMU_GROUPS = "kernel/iommu_groups"
_OVERLAID = ("bus", "class", "devices", "module")


@lru_cache(maxsize=None)
def why_sys_is_static() -> str:
    """Return why writes to a host's /sys do not reach the driver here; empty if they do."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if ctypes.util.find_library("fuse") is None:
        return "needs libfuse2"
    return "" if importlib.util.find_spec("fuse") else "needs fusepy"


class Kernel:
    """The kernel of one host; use it as a context manager, within which the driver answers.

    Attributes:
        driver: the simulated driver.
        tree: the cards in /sys, as plain files.
        cut_power: called when a program on the host requests a power cut.
    """

    cut_power: Callable[[], None]

    def __init__(
        self, folder: Path, bed: Path, host: dict[str, Any], *, reacts: bool = True
    ) -> None:
        """Prepare a kernel.

        Args:
            folder: an empty folder for the trees.
            bed: the folder that the host has as /bed.
            host: the recorded host; see `recorded`.
            reacts: whether writes to /sys reach the driver, where possible. Each read then also
                goes through the file system, which takes far longer than the kernel would.
        """
        self._reacts = reacts and not why_sys_is_static()
        self._folder = folder
        self._bed = bed
        self._errors: list[str] = []
        self._stack = contextlib.ExitStack()
        self.driver = nvidia.Driver(folder / "tree", host)
        self.tree = folder / "tree/sys"

    def __enter__(self) -> Kernel:
        with contextlib.ExitStack() as stack:
            stack.callback(self._raise_errors)
            shutil.copy(HERE / "ask.py", self._bed / "ask")
            self._listen(stack)
            self.tree.mkdir(parents=True)
            if self._reacts:
                self._mount(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _raise_errors(self) -> None:
        """Report errors of the simulation, which a test could mistake for the driver's refusal."""
        if self._errors:
            raise AssertionError("\n".join(self._errors))

    def _listen(self, stack: contextlib.ExitStack) -> None:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(self._bed / "driver"))
        listener.listen()
        thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)  # wakes the thread

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # The client may be killed before it gets the answer or sends the request.
            with contextlib.suppress(OSError, ValueError):
                self._handle(connection)

    def _handle(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            json.dump(self._answer(*json.loads(stream.readline())), stream)

    def _answer(self, program: str, *arguments: str) -> nvidia.Answer:
        try:
            if program == "write":
                return self._write(*arguments)
            if program == "power-cut":
                self.cut_power()
                return 0, ""
            if program == "modprobe":
                self.driver.load(*arguments)
                return 0, ""
            answer = {
                "nvidia-smi": self.driver.nvidia_smi,
                "sriov-manage": self.driver.sriov_manage,
            }[program]
            return answer(*arguments)
        except Exception:
            self._errors.append(f"{program} {' '.join(arguments)}\n{traceback.format_exc()}")
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
        arguments = [self._folder / "tree", shown, self._bed / "driver"]
        process = subprocess.Popen(
            [sys.executable, HERE / "sysfs.py", *arguments], stdin=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        deadline = time.monotonic() + 30
        while not os.path.ismount(shown):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the file system for /sys does not start")
            time.sleep(0.005)
        stack.callback(subprocess.run, ["umount", "-l", shown], check=True)

    def boot(self, version: str | None, bound_driver: str | None) -> None:
        """Reset the cards; only a mode that they keep remains.

        Args:
            version: the version of NVIDIA's driver, if it is loaded.
            bound_driver: the driver to which the cards are bound.
        """
        functions = [
            {**function, "driver": bound_driver} if function.get("types") else function
            for function in self.driver.host["functions"]
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
        """Return the options that mount /sys in a container."""
        own = [*_OWN, *(f"devices/{path.name}" for path in (self.tree / "devices").iterdir())]
        places = self._folder / "places"
        shutil.rmtree(places, ignore_errors=True)
        for name in own:
            (places / name).mkdir(parents=True)
        shutil.copytree(self.tree / "module", places / "module")
        tree = self._folder / "shown/sys" if self._reacts else self.tree
        options = [f"--overlay=/sys/{name}:{places / name}:/sys/{name}" for name in _OVERLAID]
        escaped = [name.replace(":", "\\:") for name in own]
        escaped.append(_IOMMU_GROUPS)
        return [*options, *(f"--bind={tree / name}:/sys/{name}" for name in escaped)]
