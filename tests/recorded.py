# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded hosts: builds a file tree that looks like a host's root from the data in `hosts/`.

The layout is the kernel's, including the links. The charm's readers, lspci and a booted container
all read the tree as they would read a real host. This module uses no code of the charm.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

HOSTS = Path(__file__).with_name("hosts")

SRIOV_MANAGE = "usr/lib/nvidia/sriov-manage"
UNITS = ("nvidia-vgpu-mgr", "nvidia-vgpud")
# For mediated devices of guests.
UUIDS = tuple(f"6f6d5a5e-1111-4000-8000-{number:012d}" for number in range(1, 9))

_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@lru_cache(maxsize=None)
def _load(name: str) -> Any:
    return yaml.safe_load((HOSTS / f"{name}.yaml").read_text(encoding="utf-8"))


def host_names() -> list[str]:
    return sorted(path.stem for path in HOSTS.glob("*.yaml") if path.stem != "types")


def host(name: str, **changes: Any) -> dict[str, Any]:
    """Return the data of a recorded host, with some of its entries changed."""
    return {**_load(name), **changes}


def without_functions(name: str) -> dict[str, Any]:
    """Return a recorded host after a boot: no card has virtual functions."""
    recorded = host(name)
    recorded["functions"] = [without_its_functions(card) for card in recorded["functions"]]
    return recorded


def without_its_functions(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card whose virtual functions are not enabled."""
    return {**card, "sriov": {**card["sriov"], "enabled": 0}} if "sriov" in card else card


def card_pair(name: str, other: str | None = None, *, enabled: bool = True) -> list[Any]:
    """Return the functions of a host's only card, and of that of another host beside it.

    Args:
        name: the host.
        other: the other host; without it there are two cards of one model.
        enabled: whether the second card has its virtual functions.
    """
    (first,), (second,) = (host(each)["functions"] for each in (name, other or name))
    second = {**second, "address": "0000:c1:00.0"}
    return [first, second if enabled else without_its_functions(second)]


def without_driver(name: str) -> dict[str, Any]:
    """Return a recorded host without NVIDIA's software; no driver uses its cards."""
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
    if "cpu" in recorded:
        _write(root / "proc/cpuinfo", f"vendor_id\t: {recorded['cpu']}\n")
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
    """Write a host's /sys as the kernel shows it."""
    loaded = (recorded.get("driver") or {}).get("loaded")
    if loaded:
        _write(root / "sys/module/nvidia/version", f"{loaded}\n")
    (root / "sys/bus/pci/devices").mkdir(parents=True, exist_ok=True)
    groups = root / "sys/kernel/iommu_groups"
    (groups / "0" if recorded.get("iommu", True) else groups).mkdir(parents=True, exist_ok=True)
    for function in recorded["functions"]:
        add_function(root / "sys", function, is_loaded=bool(loaded))


def write_dpkg_status(root: Path, packages: list[tuple[str, str, str]]) -> None:
    """Write dpkg's status file with these packages and two unrelated ones."""
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


def all_types() -> dict[str, list[dict[str, Any]]]:
    """Return the vGPU types of all recorded models."""
    types: dict[str, list[dict[str, Any]]] = _load("types")
    return types


def all_kinds(function: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all vGPU types of a card, as listed in `hosts/types.yaml`."""
    types: list[dict[str, Any]] = _load("types")[function["types"]]
    return types


def kinds(function: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the types that a card offers: time-sliced ones, or those of its GPU instances."""
    mig = function.get("mig", {})
    if mig.get("enabled"):
        return [k for k in all_kinds(function) if k.get("profile") in mig.get("instances", [])]
    return [kind for kind in all_kinds(function) if "profile" not in kind]


def framebuffer(kind: dict[str, Any]) -> int:
    """Return a type's framebuffer in MiB."""
    match = re.search(r"-([0-9]+)[ABCQ]", kind["name"])
    assert match is not None
    return int(match[1]) * 1024 or 512


def write_creatable(function: Path, fitting: list[dict[str, Any]]) -> None:
    """Write the types that a virtual function can still get (vendor-specific VFIO)."""
    rows = [f"{kind['id']:<6}: {kind['name']}\n" for kind in fitting]
    _write(function / "nvidia/creatable_vgpu_types", "ID    : vGPU Name\n" + "".join(rows))


def show_mdev_types(root: Path, parent: Path, offered: list[dict[str, Any]]) -> None:
    """List exactly these types on a parent of mediated devices."""
    folder = parent / "mdev_supported_types"
    for path in list(folder.iterdir()):
        if path.name not in [f"nvidia-{kind['id']}" for kind in offered]:
            shutil.rmtree(path)
    missing = [kind for kind in offered if not (folder / f"nvidia-{kind['id']}").exists()]
    _add_mdev_types(root / "sys", parent, missing)


def remove_function(root: Path, function: dict[str, Any]) -> None:
    """Remove a card and its virtual functions from a tree."""
    devices = root / "sys/bus/pci/devices"
    card = (devices / function["address"]).resolve()
    if (card / "iommu_group").is_symlink():
        (card / "iommu_group/devices" / card.name).unlink()
    for path in [*(link.resolve() for link in card.glob("virtfn*")), card]:
        for folder in (devices, root / "sys/class/mdev_bus"):
            if (folder / path.name).is_symlink():
                (folder / path.name).unlink()
        for mdev in path.glob("*/mdev_type"):
            (root / "sys/bus/mdev/devices" / mdev.parent.name).unlink(missing_ok=True)
        shutil.rmtree(path)


def add_mdev(root: Path, parent: str, type_id: str, uuid: str) -> None:
    """Create a mediated device, as the start of a guest does."""
    parent_folder = (root / "sys/bus/pci/devices" / parent).resolve()
    folder = parent_folder / uuid
    folder.mkdir()
    (folder / "mdev_type").symlink_to(f"../mdev_supported_types/{type_id}")
    for type_folder in (parent_folder / "mdev_supported_types").iterdir():
        free = int((type_folder / "available_instances").read_text())
        free = free - 1 if type_folder.name == type_id else 0
        _write(type_folder / "available_instances", f"{free}\n")
    bus = root / "sys/bus/mdev/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / uuid).symlink_to(os.path.relpath(folder, bus))


def define_guest(root: Path, name: str, *devices: str) -> Path:
    """Define a guest of libvirt with mediated devices, by UUID, or with PCI functions."""
    elements = "".join(
        _pci_device(device) if _PCI_ADDRESS.fullmatch(device) else _mediated_device(device)
        for device in devices
    )
    path = root / f"etc/libvirt/qemu/{name}.xml"
    _write(path, f"<domain type='kvm'>\n  <devices>\n{elements}  </devices>\n</domain>\n")
    return path


def _mediated_device(uuid: str) -> str:
    return (
        "    <hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'>\n"
        f"      <source>\n        <address uuid='{uuid}'/>\n      </source>\n"
        "    </hostdev>\n"
    )


def _pci_device(address: str) -> str:
    domain, bus, slot, function = re.split(r"[:.]", address)
    return (
        "    <hostdev mode='subsystem' type='pci' managed='no'>\n"
        f"      <source>\n        <address domain='0x{domain}' bus='0x{bus}' "
        f"slot='0x{slot}' function='0x{function}'/>\n      </source>\n"
        "    </hostdev>\n"
    )


def remove_mdev(root: Path, uuid: str) -> None:
    """Remove a mediated device."""
    link = root / "sys/bus/mdev/devices" / uuid
    folder = link.resolve()
    (folder / "mdev_type").unlink()
    folder.rmdir()
    link.unlink()


def add_function(sys: Path, function: dict[str, Any], *, is_loaded: bool) -> Path:
    """Add a card to a tree, and its virtual functions if they are enabled; return its folder."""
    address = function["address"]
    folder = _device(sys, address, function)
    _write(folder / "driver_override", "(null)\n")
    _add_to_iommu_group(sys, folder, function)
    is_driven = function.get("types") and is_loaded and function.get("driver") == "nvidia"
    sriov = function.get("sriov")
    if sriov is None:
        if is_driven:
            _offer_mdevs(sys, folder, kinds(function))
        return folder
    framework = _framework(address, sriov)
    enabled = sriov["enabled"] if is_loaded else 0
    for name, value in (
        ("sriov_totalvfs", sriov["total"]),
        ("sriov_numvfs", enabled),
        ("sriov_offset", sriov["offset"]),
        ("sriov_stride", 1),
    ):
        _write(folder / name, f"{value}\n")
    if is_driven and framework == "card":  # some servers show a T4 this way
        _offer_mdevs(sys, folder, kinds(function))
    for number in range(enabled):
        virtual = _moved(address, sriov["offset"] + number)
        _device(sys, virtual, {**function, "numa": function.get("numa", -1)})
        virtual_folder = sys / "devices" / _bus(address) / virtual
        (virtual_folder / "physfn").symlink_to(f"../{address}")
        (folder / f"virtfn{number}").symlink_to(f"../{virtual}")
        if is_driven and framework == "mdev":
            _offer_mdevs(sys, virtual_folder, kinds(function), at_most=1)
        elif is_driven and framework == "vendor-vfio":
            write_creatable(virtual_folder, kinds(function))
            _write(virtual_folder / "nvidia/current_vgpu_type", "0\n")
    return folder


def _add_to_iommu_group(sys: Path, folder: Path, function: dict[str, Any]) -> None:
    """Put a function into its IOMMU group, or one of its own, if the host has an IOMMU."""
    groups = sys / "kernel/iommu_groups"
    if not any(groups.iterdir()):
        return
    _, bus, rest = folder.name.split(":")
    own = f"{int(bus, 16) * 256 + int(rest.replace('.', ''), 16)}"
    members = groups / str(function.get("iommu-group", own)) / "devices"
    members.mkdir(parents=True, exist_ok=True)
    link = members / folder.name
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(folder, members))
    (folder / "iommu_group").symlink_to(os.path.relpath(members.parent, folder))


def _framework(address: str, sriov: dict[str, Any]) -> str | None:
    """Return how a card offers vGPUs: itself, through mdev or vendor-specific VFIO, or not."""
    framework = sriov["framework"]
    if framework not in (None, "card", "mdev", "vendor-vfio"):
        raise ValueError(f"unknown framework of {address}: {framework}")
    return framework


def _device(sys: Path, address: str, function: dict[str, Any]) -> Path:
    # A card and its virtual functions are siblings below one bridge.
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
        *([("boot_vga", "1")] if function.get("boot-vga") else []),
        ("revision", "0xa1"),
        ("config", ""),  # lspci complains if it is missing
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
    """Return the address of the function `offset` positions further on the same bus."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    number = int(device, 16) * 8 + int(function) + offset
    return f"{domain}:{bus}:{number // 8:02x}.{number % 8}"


def _offer_mdevs(
    sys: Path, folder: Path, offered: list[dict[str, Any]], at_most: int | None = None
) -> None:
    (folder / "mdev_supported_types").mkdir()
    _add_mdev_types(sys, folder, offered, at_most)
    parents = sys / "class/mdev_bus"
    parents.mkdir(parents=True, exist_ok=True)
    (parents / folder.name).symlink_to(os.path.relpath(folder, parents))


def _add_mdev_types(
    sys: Path, folder: Path, offered: list[dict[str, Any]], at_most: int | None = None
) -> None:
    for kind in offered:
        path = f"{folder}/mdev_supported_types/nvidia-{kind['id']}"
        os.makedirs(f"{path}/devices")
        heads = 4 if re.search(r"-[0-9]+[BQ]", kind["name"]) else 1
        _write(f"{path}/name", f"{kind['name']}\n")
        _write(
            f"{path}/description",
            f"num_heads={heads}, frl_config=60, framebuffer={framebuffer(kind)}M, "
            f"max_resolution=7680x4320, max_instance={kind['max']}\n",
        )
        _write(f"{path}/available_instances", f"{min(at_most or kind['max'], kind['max'])}\n")
        _write(f"{path}/device_api", "vfio-pci\n")


def _write(path: Path | str, text: str) -> None:
    # pathlib would be too slow: the tests write about 400,000 files.
    try:
        stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    with stream:
        stream.write(text)
