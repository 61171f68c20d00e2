# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's host package: accepted and rejected files."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import tarfile

import pytest
from simulated import control_archive

from driver import host_package
from driver.host_package import HostPackage
from driver.resource import ensure_inspected, inspected
from gpu.problems import HostError, Problem, ProblemKind
from state.charm_state import CharmState
from system import commands


@pytest.fixture
def simulated(machine):
    return machine("t4-fresh")


def problem_of(simulated, path):
    with pytest.raises(HostError) as error:
        host_package.inspect(path, simulated)
    return error.value.problem


def invalid(reason):
    return Problem(ProblemKind.RESOURCE_INVALID, reason=reason)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("nvidia-vgpu-ubuntu-470", "470.68"),
        ("nvidia-vgpu-ubuntu-570", "570.172.07"),
        ("nvidia-vgpu-ubuntu-aie-550", "550.144.02"),
        ("nvidia-vgpu-ubuntu", "510.47.03"),
        ("nvidia-vgpu-ubuntu-580", "1:580.159.01-0ubuntu1~22.04"),
    ],
)
def test_every_host_package_of_nvidia_is_accepted(simulated, tmp_path, name, version):
    deb = simulated.make_deb(tmp_path / "a.deb", name=name, version=version)
    assert host_package.inspect(deb, simulated) == HostPackage(str(deb), name, version)


def test_package_for_all_architectures_is_accepted(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb", architecture="all", depends="dkms, libc6")
    assert host_package.inspect(deb, simulated).depends == "dkms, libc6"


def test_missing_file_is_a_missing_resource(simulated, tmp_path):
    assert problem_of(simulated, tmp_path / "a.deb") == Problem(ProblemKind.RESOURCE_MISSING)


def test_empty_file_is_a_missing_resource(simulated, tmp_path):
    (tmp_path / "a.deb").touch()
    assert problem_of(simulated, tmp_path / "a.deb") == Problem(ProblemKind.RESOURCE_MISSING)


@pytest.mark.parametrize(
    "data",
    [b"<!DOCTYPE html>", b"PK\3\4", b"!<arch>\nfoo.o/", b"\x7fELF", b"!<arch>"],
    ids=["web page", "zip", "other archive", "installer", "truncated"],
)
def test_other_file_is_rejected_without_starting_a_program(simulated, tmp_path, data):
    (tmp_path / "a.deb").write_bytes(data)
    assert problem_of(simulated, tmp_path / "a.deb") == invalid("the file is not a Debian package")
    assert simulated.commands == []


def test_damaged_package_is_rejected(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb")
    deb.write_bytes(deb.read_bytes()[:-9])
    assert problem_of(simulated, deb) == invalid("the file is truncated or damaged")


@pytest.mark.parametrize(
    "archive",
    ["", "x" * 2048, "\0" * 10240, control_archive("Package: x\n")[:512] + "\0" * 1024],
    ids=["empty", "junk", "its end only", "only a folder"],
)
def test_control_data_that_cannot_be_read_is_rejected(simulated, tmp_path, archive):
    deb = simulated.make_deb(tmp_path / "a.deb")
    simulated.fail("dpkg-deb", stdout=archive, returncode=0)
    assert problem_of(simulated, deb) == invalid("its control data is too large or damaged")


def archive_of(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            archive.addfile(member)
    return stream.getvalue().decode("latin-1")


def test_links_in_the_control_data_are_not_followed(simulated, tmp_path):
    links = []
    for name, target in (("./control", "./a"), ("./a", "./control")):
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, target
        links.append(link)
    deb = simulated.make_deb(tmp_path / "a.deb")
    simulated.fail("dpkg-deb", stdout=archive_of(*links), returncode=0)
    assert problem_of(simulated, deb) == invalid("its control data is too large or damaged")


@pytest.mark.parametrize(
    "size", [b"\x80" + b"\xff" * 11, b"\xff" * 10 + b"\xfe\x00"], ids=["vast", "negative"]
)
def test_impossible_size_in_the_control_data_is_rejected(simulated, tmp_path, size):
    first, second = tarfile.TarInfo("./md5sums"), tarfile.TarInfo("./postinst")
    archive = bytearray(archive_of(first, second).encode("latin-1"))
    archive[512 + 124 : 512 + 136] = size
    archive[512 + 148 : 512 + 156] = b" " * 8
    archive[512 + 148 : 512 + 156] = b"%06o\0 " % sum(archive[512:1024])
    deb = simulated.make_deb(tmp_path / "a.deb")
    simulated.fail("dpkg-deb", stdout=archive.decode("latin-1"), returncode=0)
    assert problem_of(simulated, deb) == invalid("its control data is too large or damaged")


def test_failure_to_run_dpkg_deb_is_not_remembered(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb")
    simulated.fail("dpkg-deb", returncode=None, times=1)  # as if it ran out of memory or time
    state = ensure_inspected(simulated, CharmState(resource_path=str(deb)))
    assert inspected(state).problem == invalid("the file is truncated or damaged")
    state = ensure_inspected(simulated, state)
    assert inspected(state).package.name == "nvidia-vgpu-ubuntu-570"


def test_large_control_archive_is_not_unpacked(tmp_path, monkeypatch):
    """Against the real dpkg-deb: a file of some kilobytes may have hundreds of megabytes."""
    tree = tmp_path / "tree/DEBIAN"
    tree.mkdir(parents=True)
    (tree / "control").write_text(
        "Package: nvidia-vgpu-ubuntu-570\nVersion: 1\nArchitecture: all\n"
        "Maintainer: x <x@example.com>\nDescription: x\n"
    )
    with open(tree / "padding", "wb") as file:
        file.truncate(64 * 1024 * 1024)
    deb = tmp_path / "a.deb"
    subprocess.run(["dpkg-deb", "-Zxz", "--build", tmp_path / "tree", deb], check=True)
    assert deb.stat().st_size < 100_000
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setitem(commands._ENVIRONMENT, "TMPDIR", str(folder))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HostError, match="its control data is too large or damaged"):
        host_package.inspect(deb, commands.run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 32 * 1024
    assert list(folder.iterdir()) == []


def test_truncated_package_with_valid_fields_fails_verification(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb", truncated=True)
    package = host_package.inspect(deb, simulated)
    with pytest.raises(HostError) as error:
        host_package.verify(package, simulated)
    assert error.value.problem == invalid("the file is truncated or damaged")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nvidia-linux-grid-570", "nvidia-linux-grid-570 is the guest driver"),
        ("nvidia-driver-570", "nvidia-driver-570 is the guest driver"),
        ("cuda-toolkit", "cuda-toolkit is not NVIDIA's vGPU host package"),
        (
            "nvidia-vgpu-ubuntu-570-dbg",
            "nvidia-vgpu-ubuntu-570-dbg is not NVIDIA's vGPU host package",
        ),
        ("x" * 60, "x" * 40 + " is not NVIDIA's vGPU host package"),
        ("n\u00fcvidia\t", "n?vidia? is not NVIDIA's vGPU host package"),
        ("", "it is not NVIDIA's vGPU host package"),
    ],
    ids=["guest", "desktop", "other", "similar", "long", "not printable", "no name"],
)
def test_other_package_is_rejected(simulated, tmp_path, name, reason):
    deb = simulated.make_deb(tmp_path / "a.deb", name=name)
    assert problem_of(simulated, deb) == invalid(reason)


@pytest.mark.parametrize("version", ["", "570 172", "570;172", "5" * 65], ids=repr)
def test_version_invalid_for_dpkg_is_rejected(simulated, tmp_path, version):
    deb = simulated.make_deb(tmp_path / "a.deb", version=version)
    assert problem_of(simulated, deb).kind is ProblemKind.RESOURCE_INVALID


def test_package_of_another_architecture_is_rejected(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb", architecture="arm64")
    assert problem_of(simulated, deb) == invalid("it is for arm64, not amd64")
    simulated.architecture = "arm64"
    assert host_package.inspect(deb, simulated).version == "570.172.07"


@pytest.mark.parametrize(
    ("options", "is_built"),
    [
        ({"dkms": True}, True),
        ({"dkms": False, "depends": "libc6, dkms (>= 2.1)"}, True),
        ({"dkms": False, "depends": "libc6"}, False),
        ({"dkms": False, "depends": "libdkms0"}, False),
    ],
    ids=["files", "dependency", "neither", "similar dependency"],
)
def test_driver_built_by_dkms_is_recognised(simulated, tmp_path, options, is_built):
    deb = simulated.make_deb(tmp_path / "a.deb", **options)
    assert host_package.verify(host_package.inspect(deb, simulated), simulated) is is_built


def test_stamp_changes_with_the_file(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "a.deb")
    os.utime(deb, ns=(1, 1))
    first = host_package.stamp(deb)
    assert first == f"{deb.stat().st_size} 1"
    os.utime(deb, ns=(1, 2))
    assert host_package.stamp(deb) == f"{deb.stat().st_size} 2"
    assert host_package.stamp(tmp_path / "no.deb") == ""


def test_file_without_deb_suffix_gets_a_link_with_one(simulated, tmp_path):
    deb = simulated.make_deb(tmp_path / "resource")
    path = host_package.with_deb_suffix(host_package.inspect(deb, simulated), str(tmp_path))
    assert path == str(tmp_path / "nvidia-vgpu-ubuntu-570.deb")
    assert os.path.samefile(path, deb)


def test_file_with_deb_suffix_is_used_directly(simulated, tmp_path, monkeypatch):
    simulated.make_deb(tmp_path / "a.deb")
    monkeypatch.chdir(tmp_path)
    package = HostPackage("a.deb", "nvidia-vgpu-ubuntu-570", "570.172.07")
    assert host_package.with_deb_suffix(package, "/nowhere") == str(tmp_path / "a.deb")
