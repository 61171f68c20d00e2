# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Records a host for the tests: `make record-host` prints a file for tests/hosts.

It reads /sys and dpkg's status. Nothing in the file identifies the host: no serial number, no
UUID, no name. `types` must be added by hand; see tests/hosts/types.yaml.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any

import yaml

# NVIDIA's cards and what belongs to them, and network functions for GPUDirect.
_VENDORS = ("0x10de", "0x15b3")
_PACKAGE = re.compile(
    r"^Package: (nova-common|nvidia-vgpu-ubuntu\S*)\nStatus: install ok installed\n"
    r"(?:.+\n)*?Version: (\S+)",
    re.MULTILINE,
)


def record(root: Path) -> dict[str, Any]:
    """Return the data of the host whose file system is at `root`."""
    packages = dict(_PACKAGE.findall(_read(root / "var/lib/dpkg/status")))
    nvidia = next((name for name in packages if name.startswith("nvidia")), None)
    loaded = _read(root / "sys/module/nvidia/version")
    driver: dict[str, str] = {"loaded": loaded} if loaded else {}
    if nvidia:
        driver = {"package": nvidia, "version": packages[nvidia], **driver}
    devices = root / "sys/bus/pci/devices"
    functions = [_function(path) for path in sorted(devices.iterdir()) if _is_recorded(path)]
    return {
        "description": "FILL IN: the cards, the Ubuntu, the OpenStack",
        "kernel": _read(root / "proc/sys/kernel/osrelease") or platform.release(),
        "nova": packages.get("nova-common"),
        "driver": driver or None,
        "iommu": any((root / "sys/kernel/iommu_groups").glob("*")),
        "functions": functions,
    }


def _is_recorded(path: Path) -> bool:
    """Whether a device is recorded; virtual functions follow from their cards."""
    return _read(path / "vendor") in _VENDORS and not (path / "physfn").is_symlink()


def _function(path: Path) -> dict[str, Any]:
    function: dict[str, Any] = {
        "address": path.name,
        "id": _ids(path, "vendor", "device"),
        "class": _read(path / "class")[2:],
    }
    subsystem = _ids(path, "subsystem_vendor", "subsystem_device")
    if subsystem != "0000:0000":
        function["subsystem"] = subsystem
    if (path / "driver").is_symlink():
        function["driver"] = (path / "driver").resolve().name
    if int(_read(path / "numa_node") or -1) >= 0:
        function["numa"] = int(_read(path / "numa_node"))
    if (path / "iommu_group").is_symlink():
        function["iommu-group"] = int((path / "iommu_group").resolve().name)
    if _read(path / "boot_vga") == "1":
        function["boot-vga"] = True
    total = int(_read(path / "sriov_totalvfs") or 0)
    if total:
        function["sriov"] = {
            "total": total,
            "enabled": int(_read(path / "sriov_numvfs") or 0),
            "offset": int(_read(path / "sriov_offset") or 0),
            "framework": _framework(path),
        }
    return function


def _framework(path: Path) -> str | None:
    if (path / "mdev_supported_types").is_dir():
        return "card"
    if (path / "virtfn0/mdev_supported_types").is_dir():
        return "mdev"
    return "vendor-vfio" if (path / "virtfn0/nvidia").is_dir() else None


def _ids(path: Path, *names: str) -> str:
    return ":".join(_read(path / name)[2:] for name in names)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    yaml.safe_dump(record(Path("/")), sys.stdout, sort_keys=False, width=200)
