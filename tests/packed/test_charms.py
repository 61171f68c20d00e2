# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The content of the packed charms, and its reproducibility."""

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


def test_exactly_the_supported_bases_and_processors_are_declared():
    expected = [f"ubuntu@{base}:{arch}" for base in BASES for arch in ("amd64", "arm64")]
    assert expected == PLATFORMS
    assert list(BASES) == ["18.04", "20.04", "22.04", "24.04", "26.04"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_manifest_matches_the_file_name(platform):
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
def test_a_charm_ships_exactly_what_is_locked_for_its_python(platform):
    python = BASES[platform.removeprefix("ubuntu@").split(":")[0]]
    lock = (REPOSITORY / f"requirements/python{python}.txt").read_text().splitlines()[1:]
    shipped = {
        re.sub("[-_.]+", "-", match[1]).lower() + "==" + match[2]
        for name in contents(platform)
        if (match := re.match(r"venv/([^/]+)-([^/]+)\.dist-info/METADATA$", name))
    }
    assert shipped == {line.split()[0] for line in lock}
    ops = next(line for line in shipped if line.startswith("ops=="))
    assert ops.startswith("ops==2.23." if python == "3.8" else "ops==3.")
    wheels = [name for name in contents(platform) if name.endswith(".dist-info/WHEEL")]
    (wheel,) = [name for name in wheels if name.lower().startswith("venv/pyyaml-")]
    # PyYAML is the only package whose compiled part is removed.
    assert f"\nTag: cp{python.replace('.', '')}-none-any\n" in text_in(platform, wheel)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_file_is_compiled_for_a_processor(platform):
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
def test_only_files_that_the_charm_uses_are_shipped(platform):
    assert {name.split("/")[0] for name in contents(platform)} == {
        *("LICENSE", "README.md", "actions.yaml", "config.yaml", "dispatch", "icon.svg", "lib"),
        *("manifest.yaml", "metadata.yaml", "src", "venv", "version"),
    }
    assert built.charm(platform).stat().st_size < 2_000_000


@pytest.mark.parametrize("base", BASES)
def test_the_booted_hosts_run_the_files_that_are_packed(base, unpacked, tmp_path):
    laid_out = juju.make_charm(tmp_path / "laid-out", base)
    packed = unpacked(f"ubuntu@{base}:amd64")
    files = {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}
    same, different, missing = filecmp.cmpfiles(packed, laid_out, files, shallow=False)
    assert (sorted(different), sorted(missing)) == ([], ["manifest.yaml", "version"])
    assert len(same) > 100
    extra = {str(path.relative_to(laid_out)) for path in laid_out.rglob("*") if path.is_file()}
    assert extra - files == set()
    modes = {name: stat.S_IMODE((packed / name).stat().st_mode) for name in files}
    assert modes["dispatch"] == modes["src/charm.py"] == 0o755
    assert set(modes.values()) == {0o644, 0o755}


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_version_comes_from_git(platform):
    assert text_in(platform, "version") == git("describe", "--always", "--dirty") + "\n"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_all_times_in_a_charm_are_that_of_the_commit(platform):
    moment = datetime.fromtimestamp(int(git("log", "-1", "--format=%ct")), timezone.utc)
    with zipfile.ZipFile(built.charm(platform)) as archive:
        times = {entry.date_time for entry in archive.infolist()}
    even = moment.replace(second=moment.second // 2 * 2)  # a zip archive stores only even seconds
    assert times == {even.timetuple()[:6]}
    manifest = yaml.safe_load(text_in(platform, "manifest.yaml"))
    assert manifest["charmcraft-started-at"] == f"{moment:%Y-%m-%dT%H:%M:%S}"


def test_two_runs_give_the_same_bytes(tmp_path):
    umask = os.umask(0o077)  # the umask must not matter
    try:
        built.pack("--output", str(tmp_path), NATIVE)
    finally:
        os.umask(umask)
    (again,) = tmp_path.glob("*.charm")
    assert again.name == built.charm(NATIVE).name
    assert again.read_bytes() == built.charm(NATIVE).read_bytes()


def test_a_charm_with_the_dependencies_of_another_base_is_refused(tmp_path):
    other_base = Path(tmp_path / "other_base.charm")
    other_base.write_bytes(built.charm("ubuntu@22.04:amd64").read_bytes())
    with pytest.raises(SystemExit) as error:
        pack.check(other_base, "ubuntu@24.04:amd64")
    assert str(error.value) == (
        "other_base.charm: its manifest lists [{'name': 'ubuntu', 'channel': '22.04', "
        "'architectures': ['amd64']}]; its dependencies are not those of Python 3.12"
    )
    assert not other_base.exists()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_one_hash_per_package_and_no_url(lock):
    heading, *lines = lock.read_text().splitlines()
    assert heading == f"# What the charm ships for Python {lock.stem[6:]}; written by `make lock`."
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_contains_the_requirements(lock):
    python = tuple(map(int, lock.stem[6:].split(".")))
    required = set()
    for line in (REPOSITORY / "requirements.txt").read_text().splitlines():
        requirement, _, marker = line.partition(";")
        is_old = marker.strip() == 'python_version < "3.10"'
        if requirement.startswith("#") or (marker and is_old != (python < (3, 10))):
            continue
        required.add(requirement.strip())
    locked = {line.split()[0] for line in lock.read_text().splitlines()[1:]}
    assert required <= locked
    assert len(required) == 3


def test_each_python_of_the_bases_has_a_lock():
    assert {lock.stem for lock in LOCKS} == {f"python{python}" for python in BASES.values()}
