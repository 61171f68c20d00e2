# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is in the charms, and that it is always the same."""

from __future__ import annotations

import filecmp
import os
import re
import stat
import subprocess
import zipfile
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

import built
import pytest
import yaml
from built import BASES, PLATFORMS, REPOSITORY

import pack
from functional.bed import juju

LOCKS = sorted((REPOSITORY / "requirements").glob("*.txt"))
NATIVE = "ubuntu@22.04:amd64"


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


@lru_cache(maxsize=None)
def contents(platform):
    with zipfile.ZipFile(built.charm(platform)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def text_in(platform, name):
    return contents(platform)[name].decode()


def test_every_base_and_processor_is_declared_and_none_besides():
    wanted = [f"ubuntu@{base}:{arch}" for base in BASES for arch in ("amd64", "arm64")]
    assert wanted == PLATFORMS
    assert list(BASES) == ["18.04", "20.04", "22.04", "24.04", "26.04"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_manifest_says_what_the_file_is_called(platform):
    base, architecture = platform.removeprefix("ubuntu@").split(":")
    manifest = yaml.safe_load(text_in(platform, "manifest.yaml"))
    assert manifest["bases"] == [
        {"name": "ubuntu", "channel": base, "architectures": [architecture]}
    ]
    assert manifest["analysis"]["attributes"] == [
        {"name": "language", "result": "python"},
        {"name": "framework", "result": "operator"},
    ]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_base_gets_what_is_locked_for_its_python_and_nothing_else(platform):
    python = BASES[platform.removeprefix("ubuntu@").split(":")[0]]
    lock = (REPOSITORY / f"requirements/python{python}.txt").read_text().splitlines()[1:]
    found = {
        re.sub("[-_.]+", "-", match[1]).lower() + "==" + match[2]
        for name in contents(platform)
        if (match := re.match(r"venv/([^/]+)-([^/]+)\.dist-info/METADATA$", name))
    }
    assert found == {line.split()[0] for line in lock}
    ops = next(line for line in found if line.startswith("ops=="))
    assert ops.startswith("ops==2.23." if python == "3.8" else "ops==3.")
    wheels = [name for name in contents(platform) if name.endswith(".dist-info/WHEEL")]
    (wheel,) = [name for name in wheels if name.lower().startswith("venv/pyyaml-")]
    # The one package that is shipped without its compiled part.
    assert f"\nTag: cp{python.replace('.', '')}-none-any\n" in text_in(platform, wheel)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_is_compiled_so_that_it_serves_every_processor(platform):
    for name, data in contents(platform).items():
        assert b"\0" not in data, name
        data.decode()


@pytest.mark.parametrize("base", BASES)
def test_both_processors_get_the_same_files(base):
    amd64, arm64 = f"ubuntu@{base}:amd64", f"ubuntu@{base}:arm64"
    assert list(contents(amd64)) == list(contents(arm64))
    differing = [name for name, data in contents(amd64).items() if data != contents(arm64)[name]]
    assert differing == ["manifest.yaml"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_nothing_that_the_charm_does_not_run_on_is_shipped(platform):
    assert {name.split("/")[0] for name in contents(platform)} == {
        *("LICENSE", "README.md", "actions.yaml", "config.yaml", "dispatch", "icon.svg", "lib"),
        *("manifest.yaml", "metadata.yaml", "src", "venv", "version"),
    }
    assert built.charm(platform).stat().st_size < 2_000_000


@pytest.mark.parametrize("base", BASES)
def test_what_the_booted_hosts_run_is_what_is_packed(base, unpacked, tmp_path):
    laid_out = juju.make_charm(tmp_path / "laid-out", base)
    packed = unpacked(f"ubuntu@{base}:amd64")
    files = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}
    same, different, missing = filecmp.cmpfiles(packed, laid_out, files, shallow=False)
    assert (sorted(different), sorted(missing)) == ([], ["manifest.yaml", "version"])
    assert len(same) > 100
    there = {str(path.relative_to(laid_out)) for path in laid_out.rglob("*") if path.is_file()}
    assert there - files == set()
    modes = {name: stat.S_IMODE((packed / name).stat().st_mode) for name in files}
    assert modes["dispatch"] == modes["src/charm.py"] == 0o755
    assert set(modes.values()) == {0o644, 0o755}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_version_is_stamped_from_git(platform):
    assert text_in(platform, "version") == git("describe", "--always", "--dirty") + "\n"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_time_in_it_is_that_of_the_commit(platform):
    moment = datetime.fromtimestamp(int(git("log", "-1", "--format=%ct")), timezone.utc)
    with zipfile.ZipFile(built.charm(platform)) as archive:
        found = {entry.date_time for entry in archive.infolist()}
    even = moment.replace(second=moment.second // 2 * 2)  # a zip knows no odd seconds
    assert found == {even.timetuple()[:6]}
    manifest = yaml.safe_load(text_in(platform, "manifest.yaml"))
    assert manifest["charmcraft-started-at"] == f"{moment:%Y-%m-%dT%H:%M:%S}"


def test_two_runs_give_the_same_bytes(tmp_path):
    umask = os.umask(0o077)  # nor does it matter who packs
    try:
        built.pack("--output", str(tmp_path), NATIVE)
    finally:
        os.umask(umask)
    (again,) = tmp_path.glob("*.charm")
    assert again.name == built.charm(NATIVE).name
    assert again.read_bytes() == built.charm(NATIVE).read_bytes()


def test_a_charm_with_the_dependencies_of_another_base_is_refused(tmp_path):
    wrong = Path(tmp_path / "wrong.charm")
    wrong.write_bytes(built.charm("ubuntu@22.04:amd64").read_bytes())
    with pytest.raises(SystemExit) as caught:
        pack.check(wrong, "ubuntu@24.04:amd64")
    assert str(caught.value) == (
        "wrong.charm: its manifest says [{'name': 'ubuntu', 'channel': '22.04', "
        "'architectures': ['amd64']}]; its dependencies are not those of Python 3.12"
    )
    assert not wrong.exists()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_one_file_of_each_package_and_no_host(lock):
    heading, *lines = lock.read_text().splitlines()
    assert heading == f"# What the charm ships for Python {lock.stem[6:]}; written by `make lock`."
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_holds_what_the_requirements_ask_for(lock):
    python = tuple(map(int, lock.stem[6:].split(".")))
    wanted = set()
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        requirement, _, marker = line.partition(";")
        is_old = marker.strip() == 'python_version < "3.10"'
        if requirement.startswith("#") or (marker and is_old != (python < (3, 10))):
            continue
        wanted.add(requirement.strip())
    locked = {line.split()[0] for line in lock.read_text().splitlines()[1:]}
    assert wanted <= locked
    assert len(wanted) == 3


def test_there_is_a_lock_for_the_python_of_each_base():
    assert {lock.stem for lock in LOCKS} == {f"python{python}" for python in BASES.values()}
