# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that the charm starts: environment, output, failures and time limits."""

from __future__ import annotations

import os
import signal
import time

import pytest

from system.commands import CommandError, run


def test_exit_code_and_output_are_returned():
    result = run("sh", "-c", "echo out; echo err >&2")
    assert (result.returncode, result.stdout, result.stderr) == (0, "out\n", "err\n")


def test_arguments_reach_the_program_without_a_shell():
    assert run("printf", "%s|", "$(id) ;", "*").stdout == "$(id) ;|*|"


def test_hook_environment_is_not_inherited(monkeypatch):
    for name in ("JUJU_CONTEXT_ID", "PYTHONPATH", "LD_LIBRARY_PATH", "http_proxy"):
        monkeypatch.setenv(name, "x")
    lines = run("env").stdout.splitlines()
    assert sorted(lines) == [
        "DEBIAN_FRONTEND=noninteractive",
        "HOME=/root",
        "LC_ALL=C.UTF-8",
        "NEEDRESTART_SUSPEND=1",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_standard_input_is_empty():
    assert run("cat", timeout=10).stdout == ""


@pytest.mark.parametrize(
    ("script", "reason", "output"),
    [
        ("echo a; echo b; exit 3", "exit 3: b", "a\nb\n"),
        ("echo out; echo err >&2; exit 1", "exit 1: err", "out\nerr\n"),
        ("exit 100", "exit 100: no output", ""),
        ("kill -9 $$", "exit -9: no output", ""),
    ],
    ids=["last line", "stderr first", "no output", "killed"],
)
def test_error_contains_the_last_line_of_output(script, reason, output):
    with pytest.raises(CommandError) as error:
        run("sh", "-c", script)
    assert str(error.value) == f"sh -c {script}: {reason}"
    assert error.value.argv == ("sh", "-c", script)
    assert error.value.output == output


def test_unchecked_exit_code_is_not_an_error():
    assert run("sh", "-c", "echo inactive; exit 3", check=False).returncode == 3


@pytest.mark.parametrize("check", [True, False])
def test_missing_program_is_always_an_error(check):
    with pytest.raises(CommandError) as error:
        run("no-such-program", check=check)
    assert str(error.value) == "no-such-program: No such file or directory"
    assert (error.value.result, error.value.output) == (None, "")


def test_time_limit_ends_the_program_and_its_children(tmp_path):
    with pytest.raises(CommandError) as error:
        run("sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait", timeout=1)
    assert str(error.value).endswith(": did not end within 1 s")
    assert error.value.result is None
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60  # ending it takes long on a machine short of memory
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_program_that_cannot_be_killed_does_not_block(monkeypatch, tmp_path):
    monkeypatch.setattr("system.commands.os.killpg", lambda *_: None)
    began = time.monotonic()
    with pytest.raises(CommandError, match=r": did not end within 1 s$"):
        run("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 600", timeout=1)
    assert time.monotonic() - began < 60
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_invalid_utf8_in_output_is_replaced():
    assert run("printf", r"a\377b").stdout == "a\ufffdb"


def test_end_of_excessive_output_is_kept():
    output = run("sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo end").stdout
    assert len(output) == 4 * 1024 * 1024
    assert output.endswith("xend\n")


def test_program_runs_in_its_own_session():
    session = run("cut", "-d", " ", "-f", "6", "/proc/self/stat").stdout.strip()
    assert session.isdigit()
    assert session != str(os.getsid(0))


def test_background_process_that_keeps_the_pipe_is_not_waited_for():
    start = time.monotonic()
    result = run("sh", "-c", "sleep 30 & echo done")
    assert result.stdout == "done\n"
    assert time.monotonic() - start < 5
