# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel, unpacked into a folder: its modules, and drivers that are built for it."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path
from typing import Iterable

HERE = Path(__file__).parent
METAPACKAGE = "linux-image-amd64"
_XZ = b"\xfd7zXZ\0"


def fetch(target: Path) -> None:
    """Download the newest kernel and the headers for its modules, and unpack them."""
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    (image,) = _dependencies(METAPACKAGE, "linux-image-")
    headers = image.replace("linux-image-", "linux-headers-")
    packages = [image, headers, *_dependencies(headers, "linux-headers-", "linux-kbuild-")]
    target.mkdir()
    subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages],
        check=True,
        cwd=target,
    )
    for file in target.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", file, target], check=True)
        file.unlink()
    # Its own makefile has the path of the other headers as they would be if they were installed.
    common = next(target.glob("usr/src/linux-headers-*-common")).name
    makefile = f"include $(dir $(lastword $(MAKEFILE_LIST)))../{common}/Makefile\n"
    (target / "usr/src" / headers / "Makefile").write_text(makefile)
    subprocess.run(["depmod", "-b", target, DebianKernel(target).release], check=True)


def _dependencies(package: str, *prefixes: str) -> list[str]:
    """Return the direct dependencies of a package whose names start with one of the prefixes."""
    command = ["apt-cache", "depends", "--important", package]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    names = [line.split()[-1] for line in answer.stdout.splitlines() if "Depends:" in line]
    return [name for name in names if name.startswith(prefixes)]


class DebianKernel:
    """An unpacked kernel.

    Args:
        folder: the folder that `fetch` filled.

    Attributes:
        release: what `uname -r` prints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.release = next((folder / "lib/modules").iterdir()).name
        self._modules = folder / "lib/modules" / self.release

    def write_bootable(self, target: Path) -> None:
        """Write the kernel as QEMU starts it: as an ELF file if possible, which boots faster."""
        packed = (self._folder / f"boot/vmlinuz-{self.release}").read_bytes()
        start = packed.find(_XZ)
        if start >= 0:
            packed = lzma.LZMADecompressor().decompress(packed[start:])
        target.write_bytes(packed)

    def modules(self, names: Iterable[str]) -> list[Path]:
        """Return the files of modules and of what they need, in the order in which they load."""
        files: dict[Path, None] = {}
        for name in names:
            command = ["modprobe", "-d", str(self._folder), "-S", self.release]
            command += ["--show-depends", name]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            for line in answer.stdout.splitlines():
                kind, path, *_ = line.split()
                if kind == "insmod":
                    files[Path(path)] = None
        return list(files)

    def install(self, root: Path, names: Iterable[str]) -> None:
        """Install modules with their dependencies, and the drivers of this folder, in a root."""
        target = root / "lib/modules" / self.release
        for file in self.modules(names):
            copy = target / file.relative_to(self._modules)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copy(self._modules / name, target)
        self._build_drivers(target / "updates")
        subprocess.run(["depmod", "-b", root, self.release], check=True)
        shutil.copy(self._folder / f"boot/config-{self.release}", root / "boot")

    def _build_drivers(self, target: Path) -> None:
        source = target / "source"
        shutil.copytree(HERE / "drivers", source)
        headers = self._folder / "usr/src" / f"linux-headers-{self.release}"
        command = ["make", "-C", str(headers), f"M={source}", "modules"]
        built = subprocess.run(
            command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert built.returncode == 0, f"{command}:\n{built.stdout}"
        for module in source.glob("*.ko"):
            module.rename(target / module.name)
        shutil.rmtree(source)


def read_module(file: Path) -> bytes:
    """Return a module's content, unpacked."""
    content = file.read_bytes()
    return lzma.decompress(content) if file.suffix == ".xz" else content
