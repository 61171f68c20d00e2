# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A compute host: a Debian with systemd as PID 1 and the /sys of a recorded host.

Its root is an overlay over a shared root that is built once, so a new host takes milliseconds, and
nothing on it affects the machine that runs it. No NVIDIA module can be loaded, so `kernel` and the
`modprobe` next to this file do the kernel's part: at each boot, nouveau binds the cards unless it
is blacklisted, and NVIDIA's driver binds them if it is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Iterator, Sequence

import nvidia

from . import packages
from .kernel import Kernel

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
# The base whose charm runs on the booted hosts by default.
CHARM_BASE = "22.04"
CHARM = "var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm"
# The packages that a host needs to boot, and those whose programs the charm calls.
INCLUDE = "apt,systemd,systemd-sysv,dbus,udev,kmod,initramfs-tools,pciutils,python3,iproute2"
BOOT_SERVICE = "nova-compute-nvidia-vgpu.service"
PROGRAMS = {"lspci": "pciutils", "systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap"}
# Nothing boots from it, and the best compression would take longer than the rest of a test.
INITRAMFS = "COMPRESS=gzip\nCOMPRESSLEVEL=1\n"
# A change of the package list builds another root.
BASE = REPOSITORY / f"build/bed/root-{zlib.crc32((INCLUDE + INITRAMFS).encode()):08x}"
_PR_SET_PDEATHSIG = 1
_NOVA_COMPUTE = """\
[Service]
ExecStartPre=-/bin/sh -c 'sh /usr/lib/nova/inspect >/run/nova-start-output'
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


def why_unavailable() -> str:
    """Return why no host can be booted here; empty if it can."""
    if os.getuid() != 0:
        return "needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return "needs " + ", ".join(f"{name} ({PROGRAMS[name]})" for name in missing)
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        return "needs the right to make namespaces"
    return ""


def enter_namespace() -> None:
    """Restart this program once, in a namespace whose mounts and processes end with it."""
    if os.environ.get("BED_NAMESPACE") == "1" or why_unavailable():
        return
    os.environ["BED_NAMESPACE"] = "1"
    namespace = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *namespace, sys.executable, *sys.argv])


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let only one process at a time build what all share."""
    with open(_ensure_folder(BASE.parent) / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_locked()
def ensure_base() -> Path:
    """Build the root that all hosts share, if it does not exist yet."""
    if not BASE.exists():
        partial = Path(tempfile.mkdtemp(dir=_ensure_folder(BASE.parent)))
        root = partial / "root"
        suite = platform_suite()
        command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={INCLUDE}"]
        subprocess.run([*command, suite, root], check=True, stdin=subprocess.DEVNULL)
        root.chmod(0o755)
        for file in (*root.glob("etc/apt/sources.list*/*"), root / "etc/apt/sources.list"):
            file.unlink(missing_ok=True)
        for file in root.glob("var/lib/apt/lists/*_*"):
            file.unlink()
        (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/bed/archive ./\n")
        (root / "etc/initramfs-tools/conf.d/bed").write_text(INITRAMFS)
        kernel = platform.release()
        (root / f"boot/config-{kernel}").write_text("CONFIG_RD_GZIP=y\n")
        (root / "lib/modules" / kernel).mkdir(parents=True)
        for command in (["depmod", kernel], ["update-initramfs", "-c", "-k", kernel]):
            subprocess.run(["chroot", root, *command], check=True, capture_output=True)
        root.rename(BASE)
        shutil.rmtree(partial)
    return BASE


@_locked()
def ensure_dependencies(base: str = CHARM_BASE) -> Path:
    """Fetch the dependencies of a base's charm into a folder, if it does not exist yet."""
    packing = REPOSITORY / "packing"
    sources = [packing / "dependencies", *sorted((REPOSITORY / "requirements").glob("*.txt"))]
    stamp = zlib.crc32(b"".join(source.read_bytes() for source in sources))
    target = REPOSITORY / f"build/bed/dependencies-{base}-{stamp:08x}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=_ensure_folder(target.parent)))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(
            [packing / "dependencies", partial, base],
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": path},
        )
        partial.chmod(0o755)
        partial.rename(target)
    return target


def _ensure_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def platform_suite() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    return "bookworm"


def _files_of(python: Path) -> list[Path]:
    """Return the folders and files of an interpreter of this machine."""
    code = "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('stdlib'))"
    answer = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    prefix, library = map(Path, answer.stdout.splitlines())
    return [prefix] if prefix != Path("/usr") else [python.resolve(), library]


def _layers(image: Path) -> list[Path]:
    """Return the layers of an image, newest first; it may be based on another image."""
    over = image / "over"
    return [image / "root", *(_layers(over.resolve()) if over.exists() else ())]


class Machine:
    """One host; use it as a context manager, which powers it off at the end."""

    def __init__(
        self,
        host: dict[str, Any],
        charm: Path,
        image: Path | None = None,
        python: Path | None = None,
        others: Sequence[Path] = (),
        *,
        reacts: bool = True,
    ) -> None:
        """Prepare a host.

        Args:
            host: the recorded host; see `recorded`.
            charm: the charm's folder, as Juju unpacks it.
            image: the image of an earlier host, see `save`; None starts from a new root.
            python: an interpreter of this machine to use as the host's python3; None uses the
                root's own.
            others: other interpreters of this machine that the host can use.
            reacts: whether writes to /sys reach the driver; see `kernel.Kernel`.
        """
        self._reacts = reacts
        self._host = host
        self._charm = charm
        self._image = image
        self._python = python
        self._others = others
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Machine:
        with contextlib.ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="bed-"))
            stack.callback(self._folder.rmdir)
            self._mount(stack, "-t", "tmpfs", "bed", str(self._folder))
            for name in ("upper", "work", "root", "charm", "bed/juju", "kernel"):
                (self._folder / name).mkdir(parents=True)
            self._kernel = Kernel(
                self._folder / "kernel", self.bed, self._host, reacts=self._reacts
            )
            stack.callback(self._remove_groups)
            self._kernel.cut_power = self.cut_power
            stack.enter_context(self._kernel)
            lower = [ensure_base()]
            if self._image is not None:
                lower = [*_layers(self._image), *lower]
                shutil.copytree(self._image / "juju", self.bed / "juju", dirs_exist_ok=True)
            layers = f"lowerdir={':'.join(map(str, lower))},upperdir={self._folder / 'upper'}"
            layers += f",workdir={self._folder / 'work'}"
            self._mount(stack, "-t", "overlay", "overlay", "-o", layers, str(self.root))
            stack.callback(self._end)
            self._prepare()
            self.power_on()
            if self._image is None:
                self.run("apt-get", "-q", "update")
                if self._host.get("nova"):
                    self.install_nova(self._host["nova"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _mount(self, stack: contextlib.ExitStack, *arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)
        stack.callback(subprocess.run, ["umount", "-l", arguments[-1]], check=True)

    def _prepare(self) -> None:
        """Install the archive, the simulated modprobe and another Python."""
        if self._python is not None:
            link = self.root / "usr/bin/python3"
            link.unlink()
            link.symlink_to(self._python)
        shutil.copy(HERE / "modprobe", self.root / "usr/local/sbin/modprobe")
        # /bed is the hardware, which the sandbox of the boot service does not hide.
        drop_in = self.root / f"usr/lib/systemd/system/{BOOT_SERVICE}.d/bed.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        settings = "[Service]\nReadWritePaths=/bed\n"
        if self._python is not None:  # which may be in a home or a temporary folder
            settings += "ProtectHome=no\nPrivateTmp=no\n"
        drop_in.write_text(settings, encoding="utf-8")
        packages.build_archive(self.bed / "archive")
        (self.root / CHARM).mkdir(parents=True, exist_ok=True)

    def save(self, image: Path) -> Path:
        """Power off and save the host as an image, from which others can start."""
        self.power_off()
        image.mkdir(parents=True)
        for name, source in (("root", self._folder / "upper"), ("juju", self.bed / "juju")):
            subprocess.run(["cp", "-a", source, image / name], check=True)
        if self._image is not None:
            (image / "over").symlink_to(self._image)
        return image

    @property
    def root(self) -> Path:
        """The host's root folder, as seen from outside."""
        return self._folder / "root"

    @property
    def bed(self) -> Path:
        """The folder that the host has as /bed."""
        return self._folder / "bed"

    @property
    def charm_overlay(self) -> Path:
        """The files that hooks wrote into the charm's folder; the folder itself is unchanged."""
        return self._folder / "charm"

    @property
    def driver(self) -> nvidia.Driver:
        """The host's simulated NVIDIA driver."""
        return self._kernel.driver

    def power_on(self) -> None:
        """Boot; like a real kernel, build /sys from scratch."""
        self.power_off()
        self._kernel.boot(*self._drivers_at_boot())
        command = ["unshare", "-n", "systemd-nspawn", "-q", "-b", "-D", str(self.root)]
        command += ["--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off"]
        command += [f"--bind={self.bed}:/bed"]
        # ops writes into the charm's folder; keep that separate for each host.
        command += [f"--overlay={self._charm}:{self._folder / 'charm'}:/{CHARM}"]
        command += self._kernel.mounts()
        for python in filter(None, (self._python, *self._others)):
            command += [f"--bind-ro={path}" for path in _files_of(python)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=self._before_nspawn,
        )
        self._init = self._wait_for_init()
        # The container represents a machine, so nothing on it shows that it is one.
        self.run("rm", "-f", "/run/systemd/container")
        state = self.run("systemctl", "is-system-running", "--wait", check=False)
        assert state.stdout.strip() in ("running", "degraded"), state

    def _before_nspawn(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for group in self._groups():
            with contextlib.suppress(OSError):
                group.mkdir(exist_ok=True)
                (group / "cgroup.procs").write_text(str(os.getpid()))

    def _groups(self) -> list[Path]:
        """Return control groups for this host; hosts that share one stop each other's services."""
        hierarchies = [Path("/sys/fs/cgroup") / name for name in ("", "systemd", "unified")]
        return [
            hierarchy / self._folder.name
            for hierarchy in hierarchies
            if (hierarchy / "cgroup.procs").exists()
        ]

    def _remove_groups(self) -> None:
        for group in self._groups():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _drivers_at_boot(self) -> tuple[str | None, str | None]:
        """Return the version of NVIDIA's driver, if it is loaded, and the driver of the cards.

        nouveau binds the cards first, if the recorded host has it and it is not blacklisted.
        """
        version = self.text("usr/share/nvidia/vgpu/version").strip() or None
        is_blacklisted = any(
            "blacklist nouveau" in file.read_text(encoding="utf-8")
            for file in (self.root / "etc/modprobe.d").glob("*.conf")
        )
        if (self.bed / "refuse-module").exists():
            return None, None
        if not is_blacklisted and any(
            function.get("driver") == "nouveau" for function in self._host["functions"]
        ):
            return None, "nouveau"
        return version, "nvidia" if version else None

    def _wait_for_init(self) -> int:
        assert self._process is not None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{child}/comm").read_text().strip()
                    bus = Path(f"/proc/{child}/root/run/dbus/system_bus_socket")
                    if name == "systemd" and bus.exists():
                        return int(child)
            time.sleep(0.02)
        raise TimeoutError("the host does not boot")

    def power_off(self) -> None:
        """Shut down."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
            self._process.kill()
            self._process.wait()
            self._process, self._init = None, 0

    def cut_power(self) -> None:
        """Kill all processes immediately; call `power_on` next."""
        os.kill(self._init, signal.SIGKILL)

    def _end(self) -> None:
        """End the host without a shutdown, which would take longer."""
        if self._process is not None and self._init:
            with contextlib.suppress(ProcessLookupError):
                self.cut_power()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def reboot(self) -> None:
        """Shut down and boot."""
        self.power_off()
        self.power_on()

    def run(
        self, *argv: str, check: bool = True, env: dict[str, str] | None = None, cwd: str = "/"
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})}
        assignments = [f"{key}={text}" for key, text in variables.items()]
        inside = ["env", "-i", "-C", cwd, *assignments, *argv]
        command = ["nsenter", "-t", str(self._init), "-a", "--", *inside]
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if check and result.returncode != 0:
            raise AssertionError(
                f"{argv}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def install_nova(self, version: str) -> None:
        """Install an empty package nova-common of a version."""
        self.install("nova-common", version)

    def install(self, name: str, version: str) -> None:
        """Install an empty package with a name and a version."""
        deb = packages.build(self.bed / f"{name}.deb", name, version, arch="all")
        self.run("dpkg", "-i", f"/bed/{deb.name}")

    def install_nova_compute(self, script: str) -> None:
        """Install a service nova-compute that runs a script at its start, and keeps the output."""
        for path, text in (
            ("usr/lib/nova/inspect", script),
            ("etc/systemd/system/nova-compute.service", _NOVA_COMPUTE),
        ):
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).write_text(text)
        self.run("systemctl", "enable", "nova-compute")

    def nova_start_output(self) -> list[str]:
        """Return the lines that the script printed when nova-compute started in this boot."""
        return self.run("cat", "/run/nova-start-output").stdout.splitlines()

    def fill_disk(self) -> None:
        """Fill the disk; only the small files of Juju's tools still fit."""
        usage = os.statvfs(self._folder)
        self._resize((usage.f_blocks - usage.f_bavail) * usage.f_frsize + (64 << 10))

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        self._resize(4 << 30)

    def _resize(self, size: int) -> None:
        command = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        subprocess.run(command, check=True)

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Create a mediated device, as libvirt does when a guest starts."""
        function = self.driver.root / "sys/bus/pci/devices" / parent
        self.driver.write(function / "mdev_supported_types" / type_id / "create", uuid)

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device."""
        self.driver.write(self.driver.root / "sys/bus/mdev/devices" / uuid / "remove", "1")

    def text(self, path: str) -> str:
        """Return the text of a file on the host; empty if there is no such file."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""
