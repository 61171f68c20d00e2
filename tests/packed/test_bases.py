# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A unit's lifecycle with the packed charm of each base, on the base's Python or a substitute."""

from __future__ import annotations

import json
import subprocess

import built
import pytest
from built import BASES

import interpreters
import recorded
from functional.bed import juju, machine, packages

UNIT_FILE = "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service"
MAPPING = "{T4-8Q: ['10de:1eb8']}"
READY = ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")
NO_PYTHON = (
    "waiting",
    "No python3.8: apt-get must reach bionic's universe; the next hook tries again",
)
LOCKED = ("waiting", "No python3.8: apt-get is locked; the next hook tries again")
NO_SOFTWARE = (
    "blocked",
    (
        "No host software; run juju attach-resource nova-compute-nvidia-vgpu "
        "nvidia-vgpu-software=FILE.deb"
    ),
)
PAUSED = ("maintenance", "Paused. Use 'resume' action to resume normal service.")


def run_lifecycle(host, unit, nvidia_deb):
    """Run all hooks from install to remove, as Juju does."""
    unit.store(nvidia_deb)
    for hook in ("install", "config-changed", "start"):
        outcome = unit.hook(hook)
        assert outcome.returncode == 0
        assert "Traceback" not in outcome.log
    host.reboot()
    assert unit.hook("start").returncode == 0
    assert unit.integrate().returncode == 0
    assert unit.configure(vgpu_device_mappings=MAPPING).returncode == 0
    assert unit.status == READY
    assert unit.workload_version == "570.172.07"
    published = unit.databag
    assert json.loads(published["services"]) == ["nvidia-vgpu-mgr"]

    types = unit.action("list-vgpu-types").results["output"].splitlines()
    assert "nvidia-233, 0000:84:00.0, GRID T4-8Q, num_heads=4" in "\n".join(types)
    plan = json.loads(unit.action("show-plan", format="json").results["output"])
    assert plan["problems"] == []
    assert unit.action("pause").failed is None
    assert unit.status == PAUSED
    assert unit.action("resume").failed is None
    assert unit.status == READY
    assert unit.attach(nvidia_deb).returncode == 0  # upgrade-charm
    assert unit.status == READY
    assert unit.databag == published

    service = host.run("systemctl", "start", "nova-compute-nvidia-vgpu", check=False)
    assert service.returncode == 0, host.run("journalctl", "-u", "nova-compute-nvidia-vgpu").stdout
    for hook in ("nova-vgpu-relation-departed", "nova-vgpu-relation-broken", "stop", "remove"):
        outcome = unit.hook(hook)
        assert outcome.returncode == 0
        assert "Traceback" not in outcome.log
    assert json.loads(unit.databag["services"]) == []
    assert not (host.root / UNIT_FILE).exists()


def byte_code(host):
    """Return the cache tags of the Pythons that wrote byte code into the charm's folder."""
    return {path.suffixes[0] for path in host.charm_overlay.rglob("*.pyc")}


def tag(python):
    code = "import sys; print(sys.implementation.cache_tag)"
    answer = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return f".{answer.stdout.strip()}"


@pytest.mark.parametrize("base", [base for base in BASES if base != "18.04"])
def test_lifecycle(base, bootable, unpacked, nvidia_deb):
    python = built.interpreter(base)
    charm = unpacked(f"ubuntu@{base}:amd64")
    with machine.Machine(recorded.host("t4-fresh"), charm, python=python) as host:
        run_lifecycle(host, juju.Juju(host, built.REPOSITORY), nvidia_deb)
        assert byte_code(host) == {tag(python)}
        # Python compiles the imported modules only once; the cache folder shows that.
        assert (host.charm_overlay / f"src/host/__pycache__/facts{tag(python)}.pyc").exists()


@pytest.fixture
def bionic(bootable, unpacked):
    """A host whose python3 is 3.6, and whose archive has no python3.8 yet."""
    python36, python = interpreters.find("3.6"), built.interpreter("18.04")
    if python36 is None:
        pytest.skip("Python 3.6, the Python of bionic, is not installed")
    charm = unpacked("ubuntu@18.04:amd64")
    t4 = recorded.host("t4-fresh")
    with machine.Machine(t4, charm, python=python36, others=[python]) as host:
        (host.root / "usr/lib/os-release").write_text('ID=ubuntu\nVERSION_ID="18.04"\n')
        yield host, juju.Juju(host, built.REPOSITORY), python


def offer_python38(host, python):
    """Add a package python3.8 to the archive that the host's apt-get uses."""
    archive = host.bed / "archive"
    scripts = {"postinst": f"#!/bin/sh\nln -sf {python} /usr/bin/python3.8\n"}
    packages.build(archive / "python3.8.deb", "python3.8", "3.8.0-3", arch="all", scripts=scripts)
    packages.build_archive(archive)


def test_lifecycle_on_bionic_after_python38_is_installed(bionic, nvidia_deb):
    host, unit, python = bionic
    for hook in ("install", "config-changed", "start"):
        outcome = unit.hook(hook)
        assert outcome.returncode == 0
        assert "E: Unable to locate package python3.8" in outcome.log
        assert unit.status == NO_PYTHON
    outcome = unit.action("list-vgpu-types")
    assert (outcome.returncode, outcome.failed) == (0, NO_PYTHON[1])
    assert byte_code(host) == set()

    offer_python38(host, python)
    assert unit.hook("update-status").returncode == 0
    assert unit.status == NO_SOFTWARE  # set by the charm itself
    assert host.run("python3", "--version").stdout.startswith("Python 3.6.")

    before = host.text("var/log/dpkg.log").count("install python3.8:all")
    run_lifecycle(host, unit, nvidia_deb)
    assert byte_code(host) == {tag(python)}
    assert host.text("var/log/dpkg.log").count("install python3.8:all") == before == 1


def test_the_boot_service_uses_python38_on_bionic(bionic, nvidia_deb):
    host, unit, python = bionic
    offer_python38(host, python)
    unit.store(nvidia_deb)
    unit.hook("install")
    host.reboot()
    unit.hook("start")
    service = host.text(UNIT_FILE)
    assert "\nExecStart=/usr/bin/python3.8 -S -W ignore " in service
    host.run("systemctl", "start", "nova-compute-nvidia-vgpu")


LOCKER = """\
import fcntl, sys, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
open("/run/locked", "w").close()
time.sleep(float(sys.argv[1]))
"""


def lock_dpkg(host, seconds):
    """Lock dpkg in another process, and shorten the pauses of the dispatch."""
    (host.bed / "locker.py").write_text(LOCKER)
    sleep = host.bed / "tools/sleep"
    sleep.write_text('#!/bin/sh\necho "$1" >>/bed/pauses\nexec /bin/sleep 0.1\n')
    sleep.chmod(0o755)
    (host.bed / "pauses").write_text("")
    host.run("systemd-run", "-q", "python3", "/bed/locker.py", str(seconds))
    host.run("sh", "-c", "until [ -e /run/locked ]; do sleep 0.1; done")


def test_bionic_waits_while_another_process_locks_dpkg(bionic):
    host, unit, python = bionic
    offer_python38(host, python)
    host.run("apt-get", "-q", "update")
    lock_dpkg(host, 3)
    assert unit.hook("install").returncode == 0
    assert "No python3.8" not in unit.status[1]
    pauses = (host.bed / "pauses").read_text().split()
    assert set(pauses) == {"10"}
    assert len(pauses) < 30


def test_bionic_stops_waiting_for_the_lock_after_five_minutes(bionic):
    host, unit, python = bionic
    offer_python38(host, python)
    host.run("apt-get", "-q", "update")
    lock_dpkg(host, 600)
    assert unit.hook("install").returncode == 0
    assert unit.status == LOCKED
    assert (host.bed / "pauses").read_text().split() == ["10"] * 30


def test_on_other_bases_the_dispatch_starts_only_python(tmp_path):
    charm = juju.make_charm(tmp_path / "charm")
    programs = tmp_path / "bin"
    programs.mkdir()
    stub = programs / "python3"
    stub.write_text('#!/bin/sh\necho "$PYTHONPATH" "${PYTHONDONTWRITEBYTECODE-unset}" "$@"\n')
    stub.chmod(0o755)
    result = subprocess.run(
        ["/bin/sh", "./dispatch"],
        cwd=charm,
        env={"PATH": str(programs), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "lib:venv unset -S -W ignore src/charm.py\n"
    assert (result.returncode, result.stderr) == (0, "")
