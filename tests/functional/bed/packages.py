# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Debian packages built for tests: a sample of NVIDIA's host software, and an apt archive."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Mapping

_DAEMON = """\
#!/bin/sh
# Simulates NVIDIA's daemon: it needs the driver, and runs until it is stopped.
[ -e /sys/module/nvidia/version ] || { echo "no NVIDIA driver" >&2; exit 1; }
exec sleep infinity
"""
_REGISTRAR = """\
#!/bin/sh
[ -e /sys/module/nvidia/version ] || { echo "no NVIDIA driver" >&2; exit 1; }
"""
_SRIOV_MANAGE = """\
#!/bin/sh
# Simulates NVIDIA's tool: it sends the request to the driver, or fails if a test requests that.
[ -e /bed/sriov-fault ] && { sh /bed/sriov-fault "$2"; exit $?; }
exec /bed/ask sriov-manage "$@"
"""
_NVIDIA_SMI = """\
#!/bin/sh
# Simulates NVIDIA's tool: it sends the request to the driver.
[ -e /sys/module/nvidia/version ] || {
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    exit 9
}
exec /bed/ask nvidia-smi "$@"
"""
_DAEMON_UNIT = """\
[Unit]
Description=NVIDIA vGPU Manager Daemon
After=nvidia-vgpud.service
[Service]
ExecStart=/usr/bin/nvidia-vgpu-mgr
[Install]
WantedBy=multi-user.target
"""
_REGISTRAR_UNIT = """\
[Unit]
Description=NVIDIA vGPU Daemon
[Service]
Type=oneshot
ExecStart=/usr/bin/nvidia-vgpud
[Install]
WantedBy=multi-user.target
"""
_POSTINST = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
systemctl enable -q nvidia-vgpud.service nvidia-vgpu-mgr.service
"""


def architecture() -> str:
    return subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()


def build(
    target: Path,
    name: str,
    version: str,
    *,
    arch: str = "",
    files: Mapping[str, str] | None = None,
    scripts: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
) -> Path:
    """Build a package with dpkg-deb; files that start with #! are executable."""
    control = {
        "Package": name,
        "Version": version,
        "Architecture": arch or architecture(),
        "Maintainer": "Nobody <nobody@example.com>",
        "Description": "sample",
        **(fields or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        contents = dict(files or {})
        contents["DEBIAN/control"] = "".join(f"{key}: {text}\n" for key, text in control.items())
        for script, text in (scripts or {}).items():
            contents[f"DEBIAN/{script}"] = text
        for path, text in contents.items():
            file = tree / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            file.chmod(0o755 if text.startswith("#!") else 0o644)
        tree.chmod(0o755)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, target],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return target


def build_nvidia(
    folder: Path,
    *,
    branch: str = "570",
    version: str = "570.172.07",
    preinst: str = "#!/bin/sh\n",
    postinst: str = _POSTINST,
    conffiles: Mapping[str, str] | None = None,
    **options: str,
) -> Path:
    """Build a sample of NVIDIA's vGPU host package, with the files that matter to a host."""
    conffiles = dict(conffiles or {})
    name = options.pop("name", f"nvidia-vgpu-ubuntu-{branch}")
    target = folder / f"{name}_{version}_{architecture()}.deb"
    return build(
        target,
        name,
        version,
        arch=options.pop("arch", ""),
        files={
            f"/usr/src/nvidia-{version}/dkms.conf": f"PACKAGE_VERSION={version}\n",
            # Every branch ships these files, and none declares a conflict.
            "/usr/bin/nvidia-vgpu-mgr": _DAEMON,
            "/usr/bin/nvidia-vgpud": _REGISTRAR,
            "/usr/bin/nvidia-smi": _NVIDIA_SMI,
            "/usr/lib/nvidia/sriov-manage": _SRIOV_MANAGE,
            "/usr/share/nvidia/vgpu/version": version + "\n",
            "/lib/systemd/system/nvidia-vgpu-mgr.service": _DAEMON_UNIT,
            "/lib/systemd/system/nvidia-vgpud.service": _REGISTRAR_UNIT,
            **conffiles,
        },
        scripts={
            "preinst": preinst,
            "postinst": postinst,
            "conffiles": "".join(f"{path}\n" for path in conffiles),
        },
    )


def build_archive(folder: Path) -> None:
    """Build an apt archive of the packages that the charm may need for the running kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    kernel = platform.release()
    for name in ("dkms", f"linux-headers-{kernel}", f"linux-modules-extra-{kernel}"):
        build(folder / f"{name}.deb", name, "1.0", arch="all")
    stanzas = []
    for deb in sorted(folder.glob("*.deb")):
        control = subprocess.run(
            ["dpkg-deb", "--field", deb], check=True, capture_output=True, text=True
        ).stdout
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        size = deb.stat().st_size
        stanzas.append(f"{control}Filename: ./{deb.name}\nSize: {size}\nSHA256: {digest}\n")
    (folder / "Packages").write_text("\n".join(stanzas), encoding="utf-8")


def damage(package: Path, target: Path, how: str) -> Path:
    """Write a damaged copy of a package; `how` is `truncated`, `empty`, `html` or `missing`."""
    if how == "truncated":
        data = package.read_bytes()
        target.write_bytes(data[: len(data) - 60])
    elif how == "empty":
        target.write_bytes(b"")
    elif how == "html":
        target.write_text("<!DOCTYPE html><html>Please log in</html>", encoding="utf-8")
    elif how == "missing":
        target.unlink(missing_ok=True)
    return target


def copy(package: Path, target: Path) -> Path:
    """Copy a package to where Juju's store would put it, under the resource's file name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".new")
    shutil.copyfile(package, temporary)
    os.replace(temporary, target)
    return target
