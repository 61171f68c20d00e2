# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpu.problems import HostError, Problem, ProblemKind
from system.files import ensure_contents


def test_file_gets_its_content_its_mode_and_its_folder(tmp_path):
    path = tmp_path / "etc/modprobe.d/a.conf"
    assert ensure_contents(path, "blacklist nouveau\n", mode=0o600) is True
    assert path.read_text() == "blacklist nouveau\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mode_is_readable_to_all_unless_told(tmp_path):
    ensure_contents(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_file_that_has_its_content_is_left_alone(tmp_path):
    path = tmp_path / "a"
    path.write_text("n\u00e9on", encoding="utf-8")
    before = path.stat()
    assert ensure_contents(path, "n\u00e9on") is False
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with open(path) as reader:
        assert ensure_contents(path, "new") is True
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(HostError) as error:
        ensure_contents(tmp_path / "a", "x")
    assert error.value.problem == Problem(
        ProblemKind.DISK_WRITE_FAILED, path=str(tmp_path / "a"), reason="Is a directory"
    )
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    (tmp_path / ".a.new").write_text("half of a longer t")
    assert ensure_contents(tmp_path / "a", "whole") is True
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "whole"


def test_writers_at_the_same_time_leave_one_whole_text(tmp_path):
    texts = {letter * 100_000 for letter in "abcdefgh"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: ensure_contents(tmp_path / "a", text), sorted(texts) * 20))
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() in texts
