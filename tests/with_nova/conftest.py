# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Servers on a real Nova get the vGPUs that the charm publishes for recorded hosts."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

import pytest

import recorded
from nova_compute.release import NovaVersion

if TYPE_CHECKING:
    from cloud import Cloud
    from deployed import Unit

RELEASES = Path(__file__).parents[2] / "build/nova"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nova", metavar="RELEASE", help="run this release of Nova, e.g. 34.0.0")


def pytest_configure(config: pytest.Config) -> None:
    release = config.getoption("--nova", default=None)
    if release:
        sys.path.insert(0, str(_fetch(release)))
        _provide_netifaces()
        import nova.tests.functional  # noqa: F401  # enables green threads; import it before any thread starts


def pytest_report_header(config: pytest.Config) -> str:
    return f"Nova {config.getoption('--nova', default=None) or 'none: --nova RELEASE'}"


def _fetch(release: str) -> Path:
    """Return the folder of an unpacked release, fetched if necessary; releases share libraries."""
    target = RELEASES / release
    if not target.exists():
        partial = target.with_name(f"{release}.partial")
        command = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-compile"]
        subprocess.run([*command, "--target", str(partial), f"nova=={release}"], check=True)
        partial.rename(target)
    return target


def _provide_netifaces() -> None:
    """Provide netifaces, which Nova before 30 imports; it no longer has a wheel."""
    module = types.ModuleType("netifaces")
    module.interfaces = list  # type: ignore[attr-defined]
    sys.modules["netifaces"] = module


@pytest.fixture
def nova(pytestconfig: pytest.Config) -> NovaVersion:
    """The Nova release under test."""
    release = pytestconfig.getoption("--nova", default=None)
    if not release:
        pytest.skip("needs --nova RELEASE")
    return NovaVersion.parse(release)


@pytest.fixture
def deploy(
    nova: NovaVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Unit]:
    """Deploys and configures a unit of the charm on a recorded host with this release."""
    from deployed import Unit

    def deploy_unit(host: str | dict[str, Any], mapping: str, **options: Any) -> Unit:
        data = recorded.host(host) if isinstance(host, str) else host
        deployed = Unit(tmp_path, {**data, "nova": f"3:{nova}-0ubuntu1"}, monkeypatch)
        deployed.configure(mapping, **options)
        return deployed

    return deploy_unit


# What nova-compute checks of [pci] when it starts; until 31.3.1 at the first server with an alias.
_START_CHECK = """
import sys
from nova import config
from nova.pci import request, whitelist
import nova.conf
config.parse_args(["nova-compute"], default_config_files=[sys.argv[1]])
get_aliases = getattr(request, "get_alias_from_config", None) or request._get_alias_from_config
assert get_aliases()
assert whitelist.Whitelist(nova.conf.CONF.pci[sys.argv[2]]).specs
"""


@pytest.fixture
def start_check(nova: NovaVersion, tmp_path: Path) -> Callable[[Unit], None]:
    """Runs Nova's own check of a unit's nova.conf, in a process that reads nothing else."""

    def check(unit: Unit) -> None:
        path = tmp_path / "nova-compute.conf"
        path.write_text(unit.nova_conf, encoding="utf-8")
        command = [sys.executable, "-c", _START_CHECK, str(path), nova.device_spec_option]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        assert result.returncode == 0, result.stderr[-2000:]

    return check


@pytest.fixture
def start(nova: NovaVersion, tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Starts Nova with the unit's host as compute host, and with the unit's nova.conf."""
    from cloud import Cloud

    with ExitStack() as stack:

        def started(unit: Unit, **controllers: Any) -> Cloud:
            path = tmp_path / "nova.conf"
            path.write_text(unit.nova_conf, encoding="utf-8")
            cloud = stack.enter_context(Cloud(unit.root, path, **controllers))
            for section, pairs in unit.sections.items():
                for option, _ in pairs:
                    assert cloud.origin(section, option) == str(path)
            return cloud

        yield started
