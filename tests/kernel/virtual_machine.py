# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A compute host with a real kernel: a machine that QEMU emulates, with PCI cards of any id.

QEMU always emulates the processor, so no KVM is needed. The machine's disk is an overlay over an
image that is built once. The disk keeps what is written to it when the machine reboots.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import qmp
import topology
from agent import PORT
from agent_client import AgentClient
from root_image import GUEST_HOLD, Image

QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT = 300
REBOOT_TIMEOUT = 300
PROCESSORS = 2
DEVICES = "/sys/bus/pci/devices"
# Without everything at which emulation is slow: mitigations, self-tests, checks of the clock.
KERNEL_ARGUMENTS = (
    "console=ttyS0 root=/dev/vda rw panic=-1 loglevel=6 net.ifnames=0 mitigations=off nokaslr"
    " no_timer_check tsc=reliable raid=noautodetect cryptomgr.notests audit=0"
    " systemd.show_status=error"
)
_TAIL, _SHORT_TAIL = 3000, 1000  # characters of the console in an error
_PR_SET_PDEATHSIG = 1


class MachineError(Exception):
    """The machine does not boot, does not answer or is off."""


class VirtualMachine:
    """One machine; use it as a context manager, which boots it and cuts its power at the end.

    The attributes can be changed; a change has an effect when the machine boots next.

    Attributes:
        cards: the devices, as arguments for QEMU; see `topology`.
        iommu: whether the machine has an IOMMU; a machine without one is like one on which it is
            disabled in the firmware.
        kernel_arguments: what is added to the command line of the kernel.
        memory: MB of memory; a machine that runs guests needs 1536.
        numa_nodes: how many NUMA nodes share the memory and the two processors.
        initramfs: the file of the initramfs; see `Image.initramfs`.
    """

    def __init__(
        self,
        image: Image,
        cards: Sequence[str] = (),
        *,
        iommu: bool = True,
        kernel_arguments: str = "intel_iommu=on",
        memory: int = 512,
        numa_nodes: int = 1,
        vfio_built_in: bool = False,
        libvirt: bool = False,
    ) -> None:
        """Prepare a machine; arguments that are not described here are attributes.

        Args:
            image: what it boots.
            vfio_built_in: whether vfio-pci is there before udev; see `Image.initramfs`.
            libvirt: whether it has libvirt and QEMU.
        """
        self.cards = list(cards)
        self.iommu = iommu
        self.kernel_arguments = kernel_arguments
        self.memory = memory
        self.numa_nodes = numa_nodes
        self.initramfs = image.initramfs(vfio_built_in=vfio_built_in)
        self._image = image
        self._root = image.root(libvirt=libvirt)
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: AgentClient | None = None

    def __enter__(self) -> VirtualMachine:
        self._folder = Path(tempfile.mkdtemp(prefix="kernel-"))
        try:
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
            subprocess.run([*command, "-b", self._root, self._folder / "disk"], check=True)
            self.power_on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        shutil.rmtree(self._folder)

    @property
    def console(self) -> str:
        """What the kernel has printed since the machine was created."""
        return self._text("console")

    def _text(self, name: str) -> str:
        file = self._folder / name
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def power_on(self, *, wait: bool = True) -> None:
        """Boot.

        Args:
            wait: whether to wait until all services have started; the machine runs programs as
                soon as its disk is mounted.
        """
        self.cut_power()
        environment = {"CARDS": topology.environment(), "LD_PRELOAD": str(self._image.cards)}
        with open(self._folder / "qemu", "wb") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                preexec_fn=_end_with_parent,
            )
        with self._reported("does not boot"):
            self._agent = self._connect()
            self._agent.wait_for_start(BOOT_TIMEOUT)
        if wait:
            self.wait_until_running()

    def _command(self) -> list[str]:
        socket = f"path={self._folder}/agent,server=on,wait=off"
        arguments = {
            "-accel": "tcg,thread=multi,tb-size=256",
            "-machine": "q35,kernel-irqchip=split",
            "-cpu": "Nehalem",
            "-smp": f"{PROCESSORS}",
            "-m": f"{self.memory}M",
            "-kernel": f"{self._image.kernel}",
            "-initrd": f"{self.initramfs}",
            "-append": f"{KERNEL_ARGUMENTS} {self.kernel_arguments}",
            "-display": "none",
            "-chardev": f"file,id=console,path={self._folder}/console,append=on",
            "-serial": "chardev:console",
            "-qmp": f"unix:{self._folder}/qmp,server=on,wait=off",
        }
        command = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot"]
        command += itertools.chain.from_iterable(arguments.items())
        command += self._numa()
        if self.iommu:  # which handles only the devices that follow it
            command += ["-device", "intel-iommu,intremap=on,caching-mode=on,device-iotlb=on"]
        command += ["-device", "virtio-serial-pci,id=ports,bus=pcie.0,disable-legacy=on"]
        command += ["-chardev", f"socket,id=agent,{socket}"]
        command += ["-device", f"virtserialport,bus=ports.0,chardev=agent,name={PORT}"]
        command += ["-drive", f"file={self._folder}/disk,if=none,id=disk"]
        command += ["-device", "virtio-blk-pci,drive=disk,bus=pcie.0,disable-legacy=on"]
        return [*command, *self.cards]

    def _numa(self) -> list[str]:
        """Divide the memory and the processors between the nodes."""
        if self.numa_nodes == 1:
            return []
        arguments = []
        for node in range(self.numa_nodes):
            size = self.memory // self.numa_nodes
            if node == 0:
                size += self.memory % self.numa_nodes
            arguments += ["-object", f"memory-backend-ram,id=memory{node},size={size}M"]
            processor = f",cpus={node}" if node < PROCESSORS else ""
            arguments += ["-numa", f"node,nodeid={node},memdev=memory{node}{processor}"]
        return arguments

    def _connect(self) -> AgentClient:
        deadline = time.monotonic() + BOOT_TIMEOUT
        while True:
            try:
                return AgentClient(self._folder / "agent")
            except OSError:  # QEMU has not created the socket yet, or has ended
                if not self._is_on or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @property
    def _is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextlib.contextmanager
    def _reported(self, problem: str) -> Iterator[None]:
        """Convert an error of the connection to one that shows what the machine printed."""
        try:
            yield
        except OSError as error:
            raise MachineError(f"the machine {problem}: {error}{self._output()}") from error

    def _output(self) -> str:
        return f"\n{self.console[-_TAIL:]}\n{self._text('qemu')[-_TAIL:]}".rstrip()

    def wait_until_running(self, timeout: float = BOOT_TIMEOUT) -> str:
        """Wait until all services have started; return systemd's state: running or degraded."""
        command = ("systemctl", "is-system-running", "--wait")
        state = self.run(*command, check=False, timeout=timeout).stdout.strip()
        if state not in ("running", "degraded"):
            raise MachineError(f"the machine is {state or 'not running'}{self._output()}")
        return state

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until a condition on the machine is true."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise MachineError(f"{timeout} seconds have passed{self._output()}")
            time.sleep(0.1)

    def reboot(self, *, wait: bool = True) -> None:
        """Shut down and boot; for `wait` see `power_on`."""
        with contextlib.suppress(MachineError):  # it can be off before it answers
            self.run("systemctl", "reboot", check=False)
        assert self._process is not None
        try:
            self._process.wait(REBOOT_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"the machine does not shut down{self._output()}") from error
        self.power_on(wait=wait)

    def cut_power(self) -> None:
        """End the machine at once: what it has not written to its disk is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._agent is not None:
            self._agent.close()
        self._process, self._agent = None, None

    def run(
        self, *argv: str, check: bool = True, stdin: str | bytes = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the machine.

        Args:
            argv: the program and its arguments; there is no shell.
            check: whether an exit status that is not 0 raises AssertionError.
            stdin: the program's input.
            timeout: the program is killed after these seconds, and its exit status is 124.
        """
        given = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        if self._agent is None:
            raise MachineError("the machine is off")
        with self._reported("does not answer"):
            result = self._agent.run(argv, given, timeout)
        if check and result.returncode != 0:
            text = f"{argv}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            raise AssertionError(f"{text}\n{self.console[-_SHORT_TAIL:]}")
        return result

    def read(self, path: str) -> str:
        """Return the text of a file on the machine."""
        return self.run("cat", path).stdout

    def write(self, path: str, text: str, mode: int | None = None) -> None:
        """Write a file on the machine, or an attribute in its /sys; folders are created."""
        script = 'mkdir -p "${1%/*}" && cat >"$1"'
        if mode is not None:
            script += f' && chmod {mode:o} "$1"'
        self.run("sh", "-c", script, "sh", path, stdin=text)

    def copy_in(self, local_folder: Path, path: str) -> None:
        """Copy the content of a folder, without byte code, into a folder on the machine."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(local_folder, ".", filter=_as_root)
        script = 'mkdir -p "$1" && tar -x -C "$1"'
        self.run("sh", "-c", script, "sh", path, stdin=archive.getvalue(), timeout=300)

    def link(self, path: str) -> str | None:
        """Return the name of what a symbolic link points to; None if there is no such link."""
        target = self.run("readlink", path, check=False).stdout.strip()
        return os.path.basename(target) or None

    def driver_of(self, address: str) -> str | None:
        """Return the driver of a PCI function; None if it has none."""
        return self.link(f"{DEVICES}/{address}/driver")

    def address_of(self, device: str) -> str:
        """Return the address that the machine gave a device, by its id in `cards`."""
        for bus in self.qmp("query-pci"):
            for function in _with_descendants(bus["devices"]):
                if function["qdev_id"] == device:
                    return "0000:{bus:02x}:{slot:02x}.{function:x}".format(**function)
        raise LookupError(f"no device {device}")

    def hold(self, *addresses: str) -> int:
        """Open functions through VFIO, like a guest that uses them; return the id of its process.

        AssertionError has the name of the kernel's error, e.g. EBUSY.
        """
        return int(self.run("/usr/bin/python3", GUEST_HOLD, *addresses).stdout)

    def release(self, holder: int) -> None:
        """End what `hold` started."""
        script = 'kill -KILL "$1" && while [ -e "/proc/$1" ]; do sleep 0.1; done'
        self.run("sh", "-c", script, "sh", str(holder))

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Send a command of QEMU's machine protocol, e.g. device_del; return the answer."""
        return qmp.execute(self._folder / "qmp", command, arguments)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if os.path.basename(member.name) == "__pycache__":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _with_descendants(functions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for function in functions:
        yield function
        yield from _with_descendants(function.get("pci_bridge", {}).get("devices", []))
