# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A compute host: a Debian with systemd as PID 1, over the /sys of a recorded host.

Its root is an overlay over one that is made once, so a fresh host costs milliseconds, and nothing
that happens in it reaches the machine below. What the kernel would do, since no NVIDIA module can
be loaded, is done by `kernel` and by the `modprobe` beside this file: at each boot nouveau takes
the cards unless it is kept away, and NVIDIA's driver does if it is installed.
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
# The base whose charm runs on the booted hosts unless a test says otherwise.
CHARM_BASE = "22.04"
CHARM = "var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm"
# What a host needs to boot, and what the charm may call on it.
INCLUDE = "apt,systemd,systemd-sysv,dbus,udev,kmod,initramfs-tools,pciutils,python3,iproute2"
PROGRAMS = {"lspci": "pciutils", "systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap"}
# Nobody boots from it, and the best compression would take longer than all else in a test.
INITRAMFS = "COMPRESS=gzip\nCOMPRESSLEVEL=1\n"
# Another list of packages is another root.
BASE = REPOSITORY / f"build/bed/root-{zlib.crc32((INCLUDE + INITRAMFS).encode()):08x}"
_PR_SET_PDEATHSIG = 1
_NOVA_COMPUTE = """\
[Service]
ExecStartPre=-/bin/sh -c 'sh /usr/lib/nova/look >/run/nova-found'
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


def why_not() -> str:
    """Say why no host can be booted here; empty if it can."""
    if os.getuid() != 0:
        return "needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return "needs " + ", ".join(f"{name} ({PROGRAMS[name]})" for name in missing)
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        return "needs the right to make namespaces"
    return ""


def enter_namespace() -> None:
    """Start this program again where its mounts and processes end with it, once."""
    if os.environ.get("BED_NAMESPACE") == "1" or why_not():
        return
    os.environ["BED_NAMESPACE"] = "1"
    namespace = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *namespace, sys.executable, *sys.argv])


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time make what all share."""
    with open(_made(BASE.parent) / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_alone()
def ensure_base() -> Path:
    """Make the root that all hosts share, if it is not there yet."""
    if not BASE.exists():
        partial = Path(tempfile.mkdtemp(dir=_made(BASE.parent)))
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


@_alone()
def ensure_dependencies(base: str = CHARM_BASE) -> Path:
    """Fetch what the charm of a base ships into a folder, if it is not there yet."""
    packing = REPOSITORY / "packing"
    sources = [packing / "dependencies", *sorted((REPOSITORY / "requirements").glob("*.txt"))]
    stamp = zlib.crc32(b"".join(source.read_bytes() for source in sources))
    target = REPOSITORY / f"build/bed/dependencies-{base}-{stamp:08x}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=_made(target.parent)))
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


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def platform_suite() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    return "bookworm"


def _parts_of(python: Path) -> list[Path]:
    """Return the folders and files that an interpreter of this machine consists of."""
    ask = "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('stdlib'))"
    answer = subprocess.run([python, "-c", ask], check=True, stdout=subprocess.PIPE, text=True)
    prefix, library = map(Path, answer.stdout.splitlines())
    return [prefix] if prefix != Path("/usr") else [python.resolve(), library]


def _layers(image: Path) -> list[Path]:
    """Return what an image consists of, the newest first: it may lie over another."""
    over = image / "over"
    return [image / "root", *(_layers(over.resolve()) if over.exists() else ())]


class Machine:
    """One host; use it as a context, which powers it off."""

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
        """Plan a host.

        Args:
            host: the recorded host; see `recorded`.
            charm: the charm's folder, as Juju unpacks it.
            image: what `save` kept of an earlier one; None starts from a new root.
            python: the interpreter, of this machine, that the host has as python3; None is the
                root's own.
            others: interpreters that it can see besides.
            reacts: whether the driver hears what is written to /sys; see `kernel.Kernel`.
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
        """Put in place what stands for the archive, modprobe and another Python."""
        if self._python is not None:
            link = self.root / "usr/bin/python3"
            link.unlink()
            link.symlink_to(self._python)
        shutil.copy(HERE / "modprobe", self.root / "usr/local/sbin/modprobe")
        packages.build_archive(self.bed / "archive")
        (self.root / CHARM).mkdir(parents=True, exist_ok=True)

    def save(self, image: Path) -> Path:
        """Power off and keep what has become of the host, to start others from."""
        self.power_off()
        image.mkdir(parents=True)
        for name, source in (("root", self._folder / "upper"), ("juju", self.bed / "juju")):
            subprocess.run(["cp", "-a", source, image / name], check=True)
        if self._image is not None:
            (image / "over").symlink_to(self._image)
        return image

    @property
    def root(self) -> Path:
        """The host's root, to look into from outside."""
        return self._folder / "root"

    @property
    def bed(self) -> Path:
        """A folder that the host has as /bed."""
        return self._folder / "bed"

    @property
    def over_charm(self) -> Path:
        """What hooks have written into the charm's folder, which is left as it was."""
        return self._folder / "charm"

    @property
    def driver(self) -> nvidia.Driver:
        """NVIDIA's driver, as the host has it."""
        return self._kernel.driver

    def power_on(self) -> None:
        """Boot; what the kernel shows is made anew, as it is at each boot."""
        self.power_off()
        self._kernel.boot(*self._drivers_at_boot())
        command = ["unshare", "-n", "systemd-nspawn", "-q", "-b", "-D", str(self.root)]
        command += ["--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off"]
        command += [f"--bind={self.bed}:/bed"]
        # What ops keeps in the charm's folder is of this host alone.
        command += [f"--overlay={self._charm}:{self._folder / 'charm'}:/{CHARM}"]
        command += self._kernel.mounts()
        for python in filter(None, (self._python, *self._others)):
            command += [f"--bind-ro={path}" for path in _parts_of(python)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=self._before_nspawn,
        )
        self._init = self._wait_for_init()
        state = self.run("systemctl", "is-system-running", "--wait", check=False)
        assert state.stdout.strip() in ("running", "degraded"), state

    def _before_nspawn(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for group in self._groups():
            with contextlib.suppress(OSError):
                group.mkdir(exist_ok=True)
                (group / "cgroup.procs").write_text(str(os.getpid()))

    def _groups(self) -> list[Path]:
        """Return control groups of this host alone: two would end each other's services."""
        hierarchies = [Path("/sys/fs/cgroup") / name for name in ("", "systemd", "unified")]
        return [
            each / self._folder.name for each in hierarchies if (each / "cgroup.procs").exists()
        ]

    def _remove_groups(self) -> None:
        for group in self._groups():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _drivers_at_boot(self) -> tuple[str | None, str | None]:
        """Return the version of NVIDIA's driver, if it is loaded, and which driver has the cards.

        First come, first served: nouveau, if the cards came with it and nobody keeps it away.
        """
        version = self.text("usr/share/nvidia/vgpu/version").strip() or None
        kept_away = any(
            "blacklist nouveau" in file.read_text(encoding="utf-8")
            for file in (self.root / "etc/modprobe.d").glob("*.conf")
        )
        if (self.bed / "refuse-module").exists():
            return None, None
        if not kept_away and any(
            known.get("driver") == "nouveau" for known in self._host["functions"]
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
        """End all that runs at once; `power_on` comes next."""
        os.kill(self._init, signal.SIGKILL)

    def _end(self) -> None:
        """Take less time over it than a shutdown: nobody looks at it any more."""
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
        words = [f"{key}={text}" for key, text in variables.items()]
        inside = ["env", "-i", "-C", cwd, *words, *argv]
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
        """Install a package that says it is nova-common of that version."""
        self.install("nova-common", version)

    def install(self, name: str, version: str) -> None:
        """Install a package that has a name and a version, and nothing else."""
        deb = packages.build(self.bed / f"{name}.deb", name, version, arch="all")
        self.run("dpkg", "-i", f"/bed/{deb.name}")

    def install_nova_compute(self, look: str) -> None:
        """Install a service nova-compute, which at its start looks at the host with a script."""
        for path, text in (
            ("usr/lib/nova/look", look),
            ("etc/systemd/system/nova-compute.service", _NOVA_COMPUTE),
        ):
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).write_text(text)
        self.run("systemctl", "enable", "nova-compute")

    def found_by_nova(self) -> list[str]:
        """Return what nova-compute saw when it was started in this boot, by lines."""
        return self.run("cat", "/run/nova-found").stdout.splitlines()

    def fill_disk(self) -> None:
        """Leave no room on the disk but for what Juju's own tools write."""
        usage = os.statvfs(self._folder)
        self._resize((usage.f_blocks - usage.f_bavail) * usage.f_frsize + (64 << 10))

    def free_disk(self) -> None:
        """Give it all the room again."""
        self._resize(4 << 30)

    def _resize(self, size: int) -> None:
        command = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        subprocess.run(command, check=True)

    def create_mdev(self, parent: str, type_id: str, uuid: str) -> None:
        """Make a mediated device, as libvirt does when a guest starts."""
        function = self.driver.root / "sys/bus/pci/devices" / parent
        self.driver.write(function / "mdev_supported_types" / type_id / "create", uuid)

    def remove_mdev(self, uuid: str) -> None:
        """Remove a mediated device again."""
        self.driver.write(self.driver.root / "sys/bus/mdev/devices" / uuid / "remove", "1")

    def text(self, path: str) -> str:
        """Return a file of the host, empty if it has none."""
        file = self.root / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""
