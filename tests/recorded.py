# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded hosts: from the data in `hosts/` to a tree that looks like their root.

The layout is the kernel's, links included, so that the charm's readers, lspci and a booted
container all read it as they would the real one. Nothing of the charm is used here.
"""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

import yaml

HOSTS = Path(__file__).with_name("hosts")

SRIOV_MANAGE = "usr/lib/nvidia/sriov-manage"
UNITS = ("nvidia-vgpu-mgr", "nvidia-vgpud")


@lru_cache(maxsize=None)
def _load(name: str) -> Any:
    return yaml.safe_load((HOSTS / f"{name}.yaml").read_text(encoding="utf-8"))


def host_names() -> list[str]:
    return sorted(path.stem for path in HOSTS.glob("*.yaml") if path.stem != "types")


def host(name: str, **changes: Any) -> dict[str, Any]:
    """Return a recorded host as data, with some of its entries changed."""
    return {**_load(name), **changes}


def without_functions(name: str) -> dict[str, Any]:
    """Return a recorded host as it is after a boot: no card has virtual functions."""
    recorded = host(name)
    recorded["functions"] = [without_its_functions(known) for known in recorded["functions"]]
    return recorded


def without_its_functions(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card whose virtual functions are not enabled."""
    return {**card, "sriov": {**card["sriov"], "enabled": 0}} if "sriov" in card else card


def without_driver(name: str) -> dict[str, Any]:
    """Return a recorded host before NVIDIA's software came to it, with nothing on its cards."""
    recorded = host(name, driver=None)
    recorded["functions"] = [
        {**function, "driver": None if function.get("types") else function.get("driver")}
        for function in recorded["functions"]
    ]
    return recorded


def build(root: Path, recorded: dict[str, Any]) -> Path:
    """Write a host's tree below `root` and return it."""
    driver = recorded.get("driver") or {}
    build_sys(root, recorded)
    _write(root / "proc/sys/kernel/osrelease", recorded["kernel"] + "\n")
    packages = []
    if recorded.get("nova"):
        packages.append(("nova-common", recorded["nova"], "installed"))
    if driver.get("package"):
        packages.append((driver["package"], driver["version"], driver.get("state", "installed")))
        _write(root / SRIOV_MANAGE, "#!/bin/sh\n")
        for unit in UNITS:
            _write(root / f"lib/systemd/system/{unit}.service", "[Service]\nExecStart=/bin/true\n")
    write_dpkg_status(root, packages)
    return root


def build_sys(root: Path, recorded: dict[str, Any]) -> None:
    """Write what the kernel shows of a host below /sys."""
    loaded = (recorded.get("driver") or {}).get("loaded")
    if loaded:
        _write(root / "sys/module/nvidia/version", f"{loaded}\n")
    (root / "sys/bus/pci/devices").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/mdev_bus").mkdir(parents=True, exist_ok=True)
    for function in recorded["functions"]:
        _add_function(root / "sys", function, is_loaded=bool(loaded))


def write_dpkg_status(root: Path, packages: list[tuple[str, str, str]]) -> None:
    """Write dpkg's record of packages, among others that are of no interest."""
    stanzas = [("adduser", "3.118ubuntu5", "installed"), *packages, ("zstd", "1.4.8", "installed")]
    _write(
        root / "var/lib/dpkg/status",
        "".join(
            f"Package: {name}\nStatus: install ok {state}\nPriority: optional\n"
            f"Architecture: amd64\nVersion: {version}\nDescription: a package\n"
            f" Its text names nova-common.\n .\n Package: nova-common\n\n"
            for name, version, state in stanzas
        ),
    )


def write_vgpu_type(board: str) -> Callable[[Path, str], None]:
    """Return what a board's driver does when a vGPU type is written to a virtual function.

    A type that does not fit gets EIO; the lists of what still fits shrink: to types of the size
    in use, and, on a function that carries a type or on a full card, to their heading.
    """

    def write(path: Path, text: str) -> None:
        function = path.parent.parent.resolve()
        card = (function / "physfn").resolve()
        listed = (path.parent / "creatable_vgpu_types").read_text()
        if int(text) and f"\n{int(text):<6}:" not in listed:
            raise OSError(errno.EIO, "Input/output error")
        path.write_text(f"{int(text)}\n")
        _show_creatable(card, _load("types")[board])

    return write


def _show_creatable(card: Path, kinds: list[dict[str, Any]]) -> None:
    functions = [link.resolve() for link in card.glob("virtfn*")]
    carried = {
        function: int((function / "nvidia/current_vgpu_type").read_text())
        for function in functions
    }
    in_use = [number for number in carried.values() if number]
    maximum = {kind["id"]: kind["max"] for kind in kinds}
    for function in functions:
        fitting = [
            kind
            for kind in kinds
            if not carried[function]
            and len(in_use) < kind["max"]
            and all(maximum[number] == kind["max"] for number in in_use)
        ]
        _write_creatable(function, fitting)


def _write_creatable(function: Path, kinds: list[dict[str, Any]]) -> None:
    rows = [f"{kind['id']:<6}: {kind['name']}\n" for kind in kinds]
    _write(function / "nvidia/creatable_vgpu_types", "ID    : vGPU Name\n" + "".join(rows))


def add_mdev(root: Path, parent: str, type_id: str, uuid: str) -> None:
    """Create a mediated device, as a guest's start does."""
    parent_folder = (root / "sys/bus/pci/devices" / parent).resolve()
    folder = parent_folder / uuid
    folder.mkdir()
    (folder / "mdev_type").symlink_to(f"../mdev_supported_types/{type_id}")
    for known in (parent_folder / "mdev_supported_types").iterdir():
        left = int((known / "available_instances").read_text())
        _write(known / "available_instances", f"{left - 1 if known.name == type_id else 0}\n")
    bus = root / "sys/bus/mdev/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / uuid).symlink_to(os.path.relpath(folder, bus))


def define_guest(root: Path, name: str, *uuids: str) -> Path:
    """Define a guest of libvirt with mediated devices."""
    devices = "".join(
        "    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>\n"
        f"      <source>\n        <address uuid='{uuid}'/>\n      </source>\n"
        "    </hostdev>\n"
        for uuid in uuids
    )
    path = root / f"etc/libvirt/qemu/{name}.xml"
    _write(path, f"<domain type='kvm'>\n  <devices>\n{devices}  </devices>\n</domain>\n")
    return path


def create_mdev(path: Path, text: str) -> None:
    """Do what the kernel does when a UUID is written to `create` of a type."""
    kind = path.parent
    if int((kind / "available_instances").read_text()) < 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    parent = kind.parent.parent.resolve()
    root = next(folder.parent for folder in parent.parents if folder.name == "sys")
    add_mdev(root, parent.name, kind.name, text)


def remove_mdev(root: Path, uuid: str) -> None:
    """Remove a mediated device again."""
    link = root / "sys/bus/mdev/devices" / uuid
    folder = link.resolve()
    (folder / "mdev_type").unlink()
    folder.rmdir()
    link.unlink()


def _add_function(sys: Path, function: dict[str, Any], *, is_loaded: bool) -> None:
    address = function["address"]
    folder = _device(sys, address, function)
    offers = function.get("types") if is_loaded and function.get("driver") == "nvidia" else None
    sriov = function.get("sriov")
    if sriov is None:
        if offers:
            _add_mdev_types(sys, folder, offers)
        return
    enabled = sriov["enabled"] if is_loaded else 0
    for name, value in (
        ("sriov_totalvfs", sriov["total"]),
        ("sriov_numvfs", enabled),
        ("sriov_offset", sriov["offset"]),
        ("sriov_stride", 1),
    ):
        _write(folder / name, f"{value}\n")
    for number in range(enabled):
        virtual = _moved(address, sriov["offset"] + number)
        _device(sys, virtual, {**function, "numa": function.get("numa", -1)})
        virtual_folder = sys / "devices" / _bus(address) / virtual
        (virtual_folder / "physfn").symlink_to(f"../{address}")
        (folder / f"virtfn{number}").symlink_to(f"../{virtual}")
        if offers and sriov["framework"] == "mdev":
            _add_mdev_types(sys, virtual_folder, offers, at_most=1)
        elif offers and sriov["framework"] == "vendor-vfio":
            _write_creatable(virtual_folder, _load("types")[offers])
            _write(virtual_folder / "nvidia/current_vgpu_type", "0\n")


def _device(sys: Path, address: str, function: dict[str, Any]) -> Path:
    # A card and its virtual functions lie side by side below one bridge.
    folder = sys / "devices" / _bus(address) / address
    vendor, device = function["id"].split(":")
    sub_vendor, sub_device = function.get("subsystem", "0000:0000").split(":")
    for name, value in (
        ("vendor", f"0x{vendor}"),
        ("device", f"0x{device}"),
        ("class", f"0x{function['class']}"),
        ("subsystem_vendor", f"0x{sub_vendor}"),
        ("subsystem_device", f"0x{sub_device}"),
        ("numa_node", str(function.get("numa", -1))),
        ("revision", "0xa1"),
        ("config", ""),  # lspci complains where it is missing
    ):
        _write(folder / name, value + "\n")
    if function.get("driver"):
        drivers = sys / "bus/pci/drivers" / function["driver"]
        drivers.mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(os.path.relpath(drivers, folder))
    link = sys / "bus/pci/devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(folder, link.parent))
    return folder


def _bus(address: str) -> str:
    return "pci" + address[:7]


def _moved(address: str, offset: int) -> str:
    """Return the address of the function that many places further on the same bus."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    number = int(device, 16) * 8 + int(function) + offset
    return f"{domain}:{bus}:{number // 8:02x}.{number % 8}"


def _add_mdev_types(sys: Path, folder: Path, board: str, at_most: int | None = None) -> None:
    for kind in _load("types")[board]:
        path = folder / "mdev_supported_types" / f"nvidia-{kind['id']}"
        found = re.search(r"-([0-9]+)([ABCQ])", kind["name"])
        assert found is not None
        size = int(found[1]) * 1024 or 512
        heads = 4 if found[2] in "BQ" else 1
        _write(path / "name", f"{kind['name']}\n")
        _write(
            path / "description",
            f"num_heads={heads}, frl_config=60, framebuffer={size}M, "
            f"max_resolution=7680x4320, max_instance={kind['max']}\n",
        )
        _write(path / "available_instances", f"{min(at_most or kind['max'], kind['max'])}\n")
        _write(path / "device_api", "vfio-pci\n")
        (path / "devices").mkdir()
    parents = sys / "class/mdev_bus"
    (parents / folder.name).symlink_to(os.path.relpath(folder, parents))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
