# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The principal's side: nova-compute's reader of the relation, its nova.conf, and Nova's options.

The reader is charmhelpers, which the principal bundles. On import, charmhelpers installs packages
on Ubuntu and refuses to run elsewhere. This module prevents both; reading a relation needs none of
the modules that charmhelpers would import.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any, Mapping, Sequence

from oslo_config import cfg

from .juju import RELATION, UNIT
from .machine import REPOSITORY

WHEELS = REPOSITORY / "build/nova"
# The oldest release, the releases before and after each change of the options, and the newest.
RELEASES = (17, 21, 23, 24, 29, 34)

_NOVA_CONF = """\
[DEFAULT]
compute_driver = libvirt.LibvirtDriver
{default}
[libvirt]
virt_type = kvm

[pci]
"""


def _charmhelpers() -> tuple[Any, Any]:
    import setuptools  # noqa: F401  # provides distutils, which charmhelpers imports

    for name in ("netifaces", "psutil", "netaddr", "apt_pkg"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
    import charmhelpers.osplatform

    charmhelpers.osplatform.get_platform = lambda: "ubuntu"
    from charmhelpers.contrib.openstack import context, utils

    return context, utils


def read(databag: Mapping[str, str]) -> tuple[Any, set[str]]:
    """Read a unit's databag as nova-compute does; return the sections and the services."""
    context, utils = _reader(databag)
    relation_data = context.SubordinateConfigContext(
        interface=["nova-vgpu"],
        service=["nova-compute", "nova"],
        config_file="/etc/nova/nova.conf",
    )()
    return relation_data.get("sections", {}), utils.get_subordinate_services()


def read_packages(databag: Mapping[str, str], release: str) -> tuple[set[str], set[str]]:
    """Return the packages to install and to purge; this reader supports releases up to yoga."""
    _, utils = _reader(databag)
    release_packages = utils.get_subordinate_release_packages(release)
    return release_packages.install, release_packages.purge


def _reader(databag: Mapping[str, str]) -> tuple[Any, Any]:
    context, utils = _charmhelpers()
    for module in (context, utils):
        module.relation_ids = lambda _: [RELATION]
        module.related_units = lambda _: [UNIT]
        module.relation_get = lambda attribute=None, unit=None, rid=None: databag.get(attribute)
        module.log = lambda *_, **__: None
    utils.container_scoped_relations = lambda: ["nova-vgpu"]
    return context, utils


def render(sections: Mapping[str, Any], pci: Sequence[tuple[str, str]] = ()) -> str:
    """Write nova.conf as the principal's template does: every pair verbatim, without escaping.

    Args:
        sections: the sections of its subordinates, which follow its own.
        pci: what the principal's own options pci-alias and pci-passthrough-whitelist say.
    """
    default = "".join(f"{key} = {value}\n" for key, value in sections.get("DEFAULT", ()))
    text = _NOVA_CONF.format(default=default)
    text += "".join(f"{key} = {value}\n" for key, value in pci)
    for name, pairs in sections.items():
        if name != "DEFAULT":
            text += f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
    return text


def wheel(major: int) -> Path:
    """Return the wheel of a Nova release, fetched from PyPI if necessary."""
    wheels = sorted(WHEELS.glob(f"nova-{major}.*.whl"))
    if not wheels:
        WHEELS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"]
        command += ["--dest", str(WHEELS), f"nova=={major}.*"]
        subprocess.run(command, check=True, capture_output=True)
        wheels = sorted(WHEELS.glob(f"nova-{major}.*.whl"))
    return wheels[-1]


def nova_reads(text: str, major: int) -> dict[str, dict[str, Any]]:
    """Return the vGPU options that a release of Nova reads from a nova.conf, by section."""
    conf = _read_as(text, major, "devices")
    prefixes = ("devices", "mdev_", "vgpu_")
    groups = [name for name in conf if name.startswith(prefixes)]
    return {name: {key: conf[name][key] for key in conf[name]} for name in sorted(groups)}


def nova_reads_pci(text: str, major: int) -> dict[str, Any]:
    """Return the options that a release of Nova reads from the [pci] sections of a nova.conf."""
    conf = _read_as(text, major, "pci")
    return {key: conf.pci[key] for key in conf.pci}


def _read_as(text: str, major: int, module: str) -> cfg.ConfigOpts:
    """Read a nova.conf with a module of the package nova.conf of a release."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{module}.py"
        with zipfile.ZipFile(wheel(major)) as archive:
            source.write_bytes(archive.read(f"nova/conf/{module}.py"))
        spec = importlib.util.spec_from_file_location(f"nova_{major}_{module}", source)
        assert spec is not None and spec.loader is not None
        options = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(options)
        config_file = Path(folder) / "nova.conf"
        config_file.write_text(text, encoding="utf-8")
        conf = cfg.ConfigOpts()
        options.register_opts(conf)
        conf(["--config-file", str(config_file)], project="nova", default_config_dirs=[])
        if hasattr(options, "register_dynamic_opts"):
            options.register_dynamic_opts(conf)
        return conf
