# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is attached as the host software: it is NVIDIA's package, or refused in one line."""

from __future__ import annotations

import re
import subprocess

import holds
import hostile
import programs
import pytest
from examples import tried
from hypothesis import strategies as st

from driver import host_package
from gpu.problems import HostError, ProblemKind
from system import commands

REFUSALS = {ProblemKind.RESOURCE_MISSING, ProblemKind.RESOURCE_INVALID}
MAGIC = b"!<arch>\ndebian-binary"


def is_sound(path, run):
    assert host_package.stamp(path).isprintable()
    try:
        found = host_package.inspect(path, run)
        host_package.verify(found, run)
    except HostError as error:
        assert error.problem.kind in REFUSALS
        holds.said(error.problem)
        holds.message(str(error))
        return
    assert re.fullmatch(host_package.NAME_PATTERN, found.name, re.ASCII)
    assert re.fullmatch(r"[0-9A-Za-z.+:~-]{1,64}", found.version, re.ASCII)


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


@tried(share=1.5, run=programs.saying(st.one_of(CONTROL, CONTROL, hostile.texts())))
def test_whatever_the_fields_of_a_package_say_only_nvidia_s_is_taken(folder, run):
    path = folder / "resource.deb"
    path.write_bytes(MAGIC)
    is_sound(path, run)
    holds.commands(run.started, folder)


@tried(share=0.5, content=hostile.octets(), has_magic=st.booleans(), name=hostile.names())
def test_any_file_of_any_name_is_refused_in_one_line(folder, content, has_magic, name):
    path = folder / "any" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MAGIC * has_magic + content)
    is_sound(path, programs.Programs(programs.SILENT))


@pytest.fixture(scope="session")
def deb(folder):
    """A package of NVIDIA's name, as dpkg-deb makes it."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = ("Package: nvidia-vgpu-ubuntu-570", "Version: 570.172.07", "Architecture: all",
              "Maintainer: x <x@example.com>", "Description: x")  # fmt: skip
    (tree / "DEBIAN/control").write_text("\n".join(fields) + "\n")
    path = folder / "whole.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", str(tree), str(path)], check=True)
    return path.read_bytes()


@tried(share=0.03, cut=st.integers(0, 1), at=st.floats(0, 1), put=st.binary(max_size=20))
def test_real_package_that_was_damaged_is_read_by_the_real_dpkg_deb(deb, folder, cut, at, put):
    path, place = folder / "damaged.deb", int(len(deb) * at)
    path.write_bytes(deb[:place] + put + (b"" if cut else deb[place + len(put) :]))
    is_sound(path, commands.run)
