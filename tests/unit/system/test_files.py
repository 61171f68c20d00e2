# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Files that the charm writes: complete, and only if they change."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpu.problems import HostError, Problem, ProblemKind
from system.files import ensure_contents


def test_file_is_written_with_its_mode_and_folder(tmp_path):
    path = tmp_path / "etc/modprobe.d/a.conf"
    assert ensure_contents(path, "blacklist nouveau\n", mode=0o600) is True
    assert path.read_text() == "blacklist nouveau\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_default_mode_is_readable_to_all(tmp_path):
    ensure_contents(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_unchanged_file_is_not_written_again(tmp_path):
    path = tmp_path / "a"
    path.write_text("n\u00e9on", encoding="utf-8")
    before = path.stat()
    assert ensure_contents(path, "n\u00e9on") is False
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_reader_gets_the_old_or_the_new_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with open(path) as reader:
        assert ensure_contents(path, "new") is True
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(HostError) as error:
        ensure_contents(tmp_path / "a", "x")
    assert error.value.problem == Problem(
        ProblemKind.DISK_WRITE_FAILED, path=str(tmp_path / "a"), reason="Is a directory"
    )
    assert os.listdir(tmp_path) == ["a"]


def test_temporary_file_of_a_killed_writer_is_replaced(tmp_path):
    (tmp_path / ".a.new").write_text("half of a longer t")
    assert ensure_contents(tmp_path / "a", "complete") is True
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "complete"


def test_concurrent_writers_leave_one_complete_text(tmp_path):
    texts = {letter * 100_000 for letter in "abcdefgh"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: ensure_contents(tmp_path / "a", text), sorted(texts) * 20))
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() in texts
