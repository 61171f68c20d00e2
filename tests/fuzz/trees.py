# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Small recorded hosts that are built once, modified for an example, and restored."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Union

import recorded

# One host for each framework, and valid values of the option for it.
MAPPINGS = {
    "t4-pair": ("{T4-8Q: ['10de:1eb8']}", "{nvidia-233: ['84:00.0', 'd8:00.0']}"),
    "a40-mdev": ("{A40-8Q: ['10de:2235']}", "{A40-8Q: ['41:00.4'], A40-4Q: ['41:00.5']}"),
    "a100-80-pair": ("{A100D-1-10C: ['10de:20b5']}", "{nvidia-699: ['31:00.0']}"),
    "l40s-vendor-vfio": (
        "{L40S-8Q: ['10de:26b9']}",
        "{L40S-8Q: {devices: ['3d:00.4'], max-instances: 2}}",
    ),
}
TYPES = ("nvidia-232", "nvidia-233", "nvidia-560", "nvidia-562", "nvidia-698", "nvidia-699")
UUID = "4b20d080-1b54-4048-85b3-a6a62d165c01"
# The folders in which the charm keeps its state.
RECORDS = ("var/lib/nova-compute-nvidia-vgpu", "run/nova-compute-nvidia-vgpu")


class Link(NamedTuple):
    """A link that replaces the original."""

    target: str


class Folder(NamedTuple):
    """An empty folder that replaces the original."""


Content = Union[bytes, Link, Folder, None]  # None removes the original


def data(name: str) -> dict[str, Any]:
    """Return a recorded host with three virtual functions per card, to be quick."""
    functions = []
    for card in recorded.host(name)["functions"]:
        if "sriov" in card:
            card = {**card, "sriov": {**card["sriov"], "total": 3, "enabled": 3}}
        functions.append(card)
    return recorded.host(name, functions=functions)


def build(root: Path, name: str) -> Path:
    """Build such a host with few types, and with a guest that has a vGPU."""
    recorded.build(root, data(name))
    for folder in root.glob("sys/devices/*/*/mdev_supported_types/*"):
        if folder.name not in TYPES:
            shutil.rmtree(folder)
    if name == "t4-pair":
        recorded.add_mdev(root, "0000:84:00.0", "nvidia-233", UUID)
        recorded.define_guest(root, "instance-00000001", UUID)
    if name == "l40s-vendor-vfio":
        (root / "sys/bus/pci/devices/0000:3d:00.4/nvidia/current_vgpu_type").write_text("1152\n")
    return root


@functools.lru_cache(maxsize=None)
def _files(root: Path, links: bool) -> list[str]:
    paths = []
    for folder, folders, names in os.walk(root):
        for path in (os.path.join(folder, name) for name in (*folders, *names)):
            if os.path.islink(path) is links and (links or os.path.isfile(path)):
                paths.append(os.path.relpath(path, root))
    return sorted(paths)


def files(root: Path, *, links: bool = False) -> list[str]:
    """Return every file, or every link, of an unmodified host."""
    return list(_files(root, links))


@contextlib.contextmanager
def modified(root: Path, edits: Mapping[str, Content]) -> Iterator[Path]:
    """Replace the content of some paths below a root, and restore the originals afterwards."""
    originals = root.with_name(f"{root.name}.originals")
    originals.mkdir(exist_ok=True)
    with contextlib.ExitStack() as undo:
        for record in RECORDS:
            undo.callback(_remove, root / record)
        for number, (place, content) in enumerate(edits.items()):
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                path.rename(originals / str(number))
                undo.callback((originals / str(number)).rename, path)
            undo.callback(_remove, path)
            _put(path, content)
        yield root


def _put(path: Path, content: Content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Link):
        path.symlink_to(content.target)
    elif isinstance(content, Folder):
        path.mkdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
