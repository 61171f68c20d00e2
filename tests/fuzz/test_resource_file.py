# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any file attached as the host software: it is NVIDIA's package, or refused in one line."""

from __future__ import annotations

import re
import subprocess

import checks
import hostile
import programs
import pytest
from examples import fuzzed
from hypothesis import strategies as st

from driver import host_package
from gpu.problems import HostError, ProblemKind
from host import driver_state
from system import commands

REFUSALS = {ProblemKind.RESOURCE_MISSING, ProblemKind.RESOURCE_INVALID}
MAGIC = b"!<arch>\ndebian-binary"


def check(path, run):
    assert host_package.stamp(path).isprintable()
    try:
        package = host_package.inspect(path, run)
        host_package.verify(package, run)
    except HostError as error:
        assert error.problem.kind in REFUSALS
        checks.problem(error.problem)
        checks.log_message(str(error))
        return
    assert re.fullmatch(driver_state.PACKAGE_PATTERN, package.name, re.ASCII)
    assert re.fullmatch(r"[0-9A-Za-z.+:~-]{1,64}", package.version, re.ASCII)


CONTROL = programs.lines(
    st.builds(
        "{}: {}".format,
        st.sampled_from(["Package", "Version", "Architecture", "Depends"]),
        st.one_of(
            st.sampled_from(["nvidia-vgpu-ubuntu-570", "nvidia-driver-570", "570.172.07", "all"]),
            hostile.texts(),
        ),
    ),
    hostile.texts(),
)


@fuzzed(share=1.5, run=programs.printing(st.one_of(CONTROL, CONTROL, hostile.texts())))
def test_only_nvidias_package_is_accepted_whatever_its_fields(folder, run):
    path = folder / "resource.deb"
    path.write_bytes(MAGIC)
    check(path, run)
    checks.commands(run.started, folder)


@fuzzed(share=0.5, content=hostile.octets(), has_magic=st.booleans(), name=hostile.names())
def test_any_other_file_is_refused_in_one_line(folder, content, has_magic, name):
    path = folder / "any" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MAGIC * has_magic + content)
    check(path, programs.Programs(programs.NO_OUTPUT))


@pytest.fixture(scope="session")
def deb(folder):
    """A package with the name of NVIDIA's, built by dpkg-deb."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = ("Package: nvidia-vgpu-ubuntu-570", "Version: 570.172.07", "Architecture: all",
              "Maintainer: x <x@example.com>", "Description: x")  # fmt: skip
    (tree / "DEBIAN/control").write_text("\n".join(fields) + "\n")
    path = folder / "complete.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", str(tree), str(path)], check=True)
    return path.read_bytes()


@fuzzed(share=0.03, cut=st.integers(0, 1), at=st.floats(0, 1), inserted=st.binary(max_size=20))
def test_the_real_dpkg_deb_reads_a_damaged_package(deb, folder, cut, at, inserted):
    path, offset = folder / "damaged.deb", int(len(deb) * at)
    rest = b"" if cut else deb[offset + len(inserted) :]
    path.write_bytes(deb[:offset] + inserted + rest)
    check(path, commands.run)
