# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The file of the installed package is kept until the next one is installed."""

from __future__ import annotations

import shutil

import pytest

from driver import kept_package
from driver.host_package import HostPackage

NAME = "nvidia-vgpu-ubuntu-570"


@pytest.fixture
def package(tmp_path):
    path = tmp_path / "attached.deb"
    path.write_bytes(b"570.1")
    return HostPackage(str(path), NAME, "1:570.1-0ubuntu1~22.04")


def kept_files(root):
    return list((root / "var/lib/nova-compute-nvidia-vgpu/driver").iterdir())


def test_file_is_kept_when_another_one_is_attached(tmp_path, package):
    kept_package.ensure_kept(tmp_path, package)
    (tmp_path / "attached.deb").write_bytes(b"580.1")
    kept_package.ensure_kept(tmp_path, package)
    path = kept_package.find(tmp_path, NAME, package.version)
    assert path.read_bytes() == b"570.1"


def test_next_package_replaces_it(tmp_path, package):
    kept_package.ensure_kept(tmp_path, package)
    kept_package.ensure_kept(tmp_path, package._replace(version="570.2"))
    assert kept_package.find(tmp_path, NAME, package.version) is None
    assert len(kept_files(tmp_path)) == 1


def test_nothing_is_kept_on_a_full_disk(tmp_path, package, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 14))
    kept_package.ensure_kept(tmp_path, package)
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize("obstacle", ["file", "missing"])
def test_file_that_cannot_be_copied_is_no_error(tmp_path, package, obstacle, caplog):
    if obstacle == "file":
        (tmp_path / "var").write_text("")
    else:
        (tmp_path / "attached.deb").unlink()
    kept_package.ensure_kept(tmp_path, package)
    assert kept_package.find(tmp_path, NAME, package.version) is None
    assert "cannot be kept" in caplog.text
