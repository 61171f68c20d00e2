# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a machine boots: Debian's kernel, an initramfs, and a Debian with systemd as root.

Each part is built when it is first needed, and is kept in a folder. Its name contains the checksum
of its sources, so a change of these builds another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Sequence

import debian_kernel
from debian_kernel import DebianKernel

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build/kernel"
# The packages that a machine needs to boot, and those whose programs the charm calls.
PACKAGES = (
    "apt,systemd,systemd-sysv,dbus,udev,kmod,initramfs-tools,pciutils,python3,iproute2,procps"
)
LIBVIRT_PACKAGES = (
    "libvirt-daemon-system,libvirt-daemon-driver-qemu,libvirt-clients,polkitd,qemu-system-x86"
)
# The modules that the root's disk and the agent need, and those that take cards for guests.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")
VFIO_MODULES = ("vfio", "vfio_iommu_type1", "vfio_pci")
MODULES = (
    *BOOT_MODULES,
    *VFIO_MODULES,
    *("pci_stub", "pci_pf_stub", "uio_pci_generic", "nvme", "e1000e", "igb", "igbvf"),
    *("9pnet_virtio", "9p", "overlay", "fuse", "mdev", "tun"),
)
DISK_SIZE = 4 << 30
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "gcc": "gcc",
    "make": "make",
}
# No test needs these units, and each takes tenths of a second under emulation.
_MASKED = """
apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
dpkg-db-backup.timer systemd-timesyncd.service getty.target systemd-logind.service
systemd-user-sessions.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount
sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service
modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service
systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service
systemd-pstore.service proc-sys-fs-binfmt_misc.automount systemd-binfmt.service
systemd-ask-password-wall.path systemd-ask-password-console.path systemd-remount-fs.service
"""
AGENT, GUEST_HOLD = "/usr/local/lib/agent.py", "/usr/local/lib/guest_hold.py"
_AGENT_SERVICE = f"""\
[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
ExecStart=/usr/bin/python3 -IS {AGENT}
KillMode=process
Restart=on-failure
"""
# Where the mount fails, the end of this program is a panic of the kernel, which ends QEMU.
_INIT = """\
#!/bin/busybox sh
set -e
bb=/bin/busybox
$bb mkdir -p /proc /dev /root
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
for module in /modules/*; do $bb insmod $module; done
$bb mount -t ext4 -o rw /dev/vda /root
$bb mount --move /dev /root/dev
$bb umount /proc
exec $bb switch_root /root /sbin/init
"""


def why_unavailable() -> str:
    """Return why no machine can be built and booted here; empty if it can."""
    if os.getuid() != 0:
        return "needs root"
    if platform.machine() != "x86_64" or _os_release("ID") != "debian":
        return "needs Debian on x86-64"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return "needs " + ", ".join(f"{name} ({PROGRAMS[name]})" for name in missing)
    return ""


def _os_release(key: str) -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}="):
            return line.split("=", 1)[1].strip('"')
    return ""


class Image:
    """The parts that machines boot, as files.

    Args:
        folder: where the parts are kept; they take 1 GB, and with libvirt 2 GB.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    @property
    def kernel(self) -> Path:
        """The kernel for QEMU."""
        kernel = self._debian_kernel()
        return self._part("vmlinux", kernel.release, kernel.write_bootable)

    def initramfs(self, *, vfio_built_in: bool = False) -> Path:
        """Return an initramfs without udev, which mounts the root.

        Args:
            vfio_built_in: whether vfio-pci is there before udev, as in Ubuntu's kernel, which has
                it built in; otherwise it is a module that is loaded on request, as in Debian.
        """
        names = (*BOOT_MODULES, *VFIO_MODULES) if vfio_built_in else BOOT_MODULES
        kernel = self._debian_kernel()
        stamp = _checksum(f"{kernel.release} {names} {_INIT}".encode())
        return self._part("initramfs", stamp, partial(_write_initramfs, kernel, names))

    def root(self, *, libvirt: bool = False) -> Path:
        """Return the disk image of a root, optionally with libvirt and QEMU for guests."""
        packages = f"{PACKAGES},{LIBVIRT_PACKAGES}" if libvirt else PACKAGES
        stamp = _checksum(packages.encode())
        tree = self._part("root-tree", stamp, partial(_make_tree, packages))
        kernel = self._debian_kernel()
        files = ("root_image.py", "debian_kernel.py", "agent.py", "guest_hold.py")
        sources = [HERE / name for name in files] + sorted((HERE / "drivers").iterdir())
        content = b"".join(source.read_bytes() for source in sources)
        stamp = _checksum(f"{kernel.release} {packages}".encode() + content)
        return self._part("root", stamp, partial(_make_disk, tree, kernel))

    @property
    def cards(self) -> Path:
        """The library that adds cards to QEMU."""
        stamp = _checksum((HERE / "cards.c").read_bytes())
        return self._part("cards", stamp, _compile_cards)

    def _debian_kernel(self) -> DebianKernel:
        return DebianKernel(self._part("debian", "kernel", debian_kernel.fetch))

    def _part(self, name: str, stamp: str, build: Callable[[Path], object]) -> Path:
        """Return a file or folder, built if it does not exist, by one process at a time."""
        target = self._folder / f"{name}-{stamp}"
        if not target.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / "lock"):
                if not target.exists():
                    with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                        build(Path(folder) / "part")
                        (Path(folder) / "part").rename(target)
        return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


def _compile_cards(target: Path) -> None:
    options = ("-O1", "-Wall", "-Werror", "-shared", "-fPIC")
    subprocess.run(["gcc", *options, "-o", target, HERE / "cards.c"], check=True)


def _make_tree(packages: str, target: Path) -> None:
    """Install the packages into a folder."""
    suite = _os_release("VERSION_CODENAME")
    command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={packages}"]
    subprocess.run([*command, suite, target], check=True, stdin=subprocess.DEVNULL)
    target.chmod(0o755)
    for file in target.glob("var/lib/apt/lists/*_*"):
        file.unlink()


def _make_disk(tree: Path, kernel: DebianKernel, target: Path) -> None:
    """Make a disk of a tree, the kernel's modules and the agent."""
    root = target.with_name("root")
    subprocess.run(["cp", "-a", tree, root], check=True)
    kernel.install(root, MODULES)
    for source, path in ((HERE / "agent.py", AGENT), (HERE / "guest_hold.py", GUEST_HOLD)):
        shutil.copy(source, root / path[1:])
    (root / "etc/fstab").write_text("")
    (root / "etc/hostname").write_text("compute\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    units = root / "etc/systemd/system"
    (units / "agent.service").write_text(_AGENT_SERVICE)
    _link(units / "sysinit.target.wants/agent.service", "../agent.service")
    for unit in _MASKED.split():
        _link(units / unit, "/dev/null")
    target.touch()
    os.truncate(target, DISK_SIZE)
    options = "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", root, "-E", options, target], check=True)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _write_initramfs(kernel: DebianKernel, names: Sequence[str], target: Path) -> None:
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    entries = [("bin", 0o40755, b""), ("modules", 0o40755, b"")]
    entries += [("bin/busybox", 0o100755, busybox), ("init", 0o100755, _INIT.encode())]
    for number, file in enumerate(kernel.modules(names)):
        content = debian_kernel.read_module(file)
        entries.append((f"modules/{number:02}-{file.stem}", 0o100644, content))
    target.write_bytes(_archive(entries))


def _archive(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Return a cpio archive, in the format "newc", of names, modes and contents."""
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        archive += b"\0" * (-len(archive) % 4) + content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)
