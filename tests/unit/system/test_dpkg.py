# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that dpkg's status file lists."""

from __future__ import annotations

import pytest

from system import dpkg
from system.dpkg import Package


def find(root, pattern):
    return [(package.name, package.version, package.state) for package in dpkg.find(root, pattern)]


def test_package_is_found_among_others(host):
    root = host("t4-pair")
    assert find(root, "nova-common") == [("nova-common", "3:25.2.1-0ubuntu2.9", "installed")]


def test_name_in_another_record_is_not_a_package(host):
    root = host("t4-pair", nova=None)
    assert "nova-common" in (root / "var/lib/dpkg/status").read_text()
    assert find(root, "nova-common") == []


@pytest.mark.parametrize("pattern", ["nova", "common", "nova-commo", ""])
def test_only_a_complete_name_matches(host, pattern):
    assert find(host("t4-pair"), pattern) == []


def test_last_package_is_found_without_a_final_line_break(tmp_path):
    path = tmp_path / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"Package: zstd\nStatus: install ok installed\nVersion: 1.4.8")
    assert find(tmp_path, "zstd") == [("zstd", "1.4.8", "installed")]


def test_package_on_hold_is_installed(tmp_path):
    path = tmp_path / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True)
    path.write_text("Package: zstd\nStatus: hold ok installed\nVersion: 1.4.8\n")
    (package,) = dpkg.find(tmp_path, "zstd")
    assert (package.is_installed, package.is_half_unpacked) == (True, False)


def test_invalid_utf8_does_not_hide_packages(tmp_path):
    path = tmp_path / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True)
    path.write_bytes(
        b"Package: a\nStatus: install ok installed\nVersion: 1\nMaintainer: \xe9\n\n"
        b"Package: b\nStatus: install ok installed\nVersion: 2\n\n"
    )
    assert find(tmp_path, "[ab]") == [("a", "1", "installed"), ("b", "2", "installed")]


def test_record_without_a_status_is_not_installed(tmp_path):
    path = tmp_path / "var/lib/dpkg/status"
    path.parent.mkdir(parents=True)
    path.write_text("Package: a\n\n")
    assert dpkg.find(tmp_path, "a") == (Package("a", "", "not-installed"),)


def test_host_without_dpkg_has_no_packages(tmp_path):
    assert dpkg.find(tmp_path, ".*") == ()


@pytest.mark.parametrize(
    ("state", "is_installed", "is_gone"),
    [
        ("installed", True, False),
        ("unpacked", False, False),
        ("half-configured", False, False),
        ("half-installed", False, False),
        ("config-files", False, True),
        ("not-installed", False, True),
    ],
)
def test_state_decides_whether_a_package_is_installed_or_removed(state, is_installed, is_gone):
    package = Package("a", "1", state)
    assert (package.is_installed, package.is_removed) == (is_installed, is_gone)
