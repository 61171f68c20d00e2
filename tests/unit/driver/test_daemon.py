# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's daemon: pause, resume, start and restart."""

from __future__ import annotations

import os
import shutil

import pytest

from driver import daemon
from gpu.problems import HostError, Problem, ProblemKind
from host.driver_state import DAEMON
from system import systemd

MASK = f"etc/systemd/system/{DAEMON}.service"


def test_pause_stops_disables_and_masks_the_daemon(machine):
    simulated = machine("t4-pair")
    daemon.pause(simulated)
    assert not daemon.is_active(simulated.root, simulated)
    assert os.readlink(simulated.root / MASK) == "/dev/null"
    verbs = [argv[1] for argv in simulated.commands if argv[1] != "is-active"]
    assert verbs == ["stop", "disable", "mask"]


def test_daemon_that_does_not_stop_is_not_masked(machine):
    simulated = machine("t4-pair")
    simulated.unstoppable.add(DAEMON)
    with pytest.raises(HostError) as error:
        daemon.pause(simulated)
    assert error.value.problem == Problem(ProblemKind.STILL_RUNNING, service=DAEMON)
    assert not systemd.is_masked(simulated.root, DAEMON)


@pytest.mark.parametrize(
    ("verb", "step", "kind"),
    [
        ("stop", lambda run: daemon.pause(run), ProblemKind.STILL_RUNNING),
        ("disable", lambda run: daemon.pause(run), ProblemKind.SERVICE_DOWN),
        ("mask", lambda run: daemon.pause(run), ProblemKind.SERVICE_DOWN),
        ("unmask", daemon.resume, ProblemKind.SERVICE_DOWN),
        ("enable", daemon.resume, ProblemKind.SERVICE_DOWN),
        ("start", lambda run: daemon.start(run.root, run), ProblemKind.SERVICE_DOWN),
        ("restart", daemon.restart, ProblemKind.SERVICE_DOWN),
    ],
    ids=["stop", "disable", "mask", "unmask", "enable", "start", "restart"],
)
def test_systemd_failure_is_a_problem(machine, verb, step, kind):
    simulated = machine("t4-pair")
    simulated.fail(f"systemctl {verb}", output="Failed to connect to bus: Connection refused\n")
    with pytest.raises(HostError) as error:
        step(simulated)
    assert error.value.problem == Problem(
        kind, service="nvidia-vgpud" if verb == "start" else DAEMON
    )


def test_resume_unmasks_the_daemon_without_starting_it(machine):
    simulated = machine("t4-pair")
    daemon.pause(simulated)
    daemon.resume(simulated)
    assert not systemd.is_masked(simulated.root, DAEMON)
    assert not daemon.is_active(simulated.root, simulated)
    daemon.start(simulated.root, simulated)
    assert daemon.is_active(simulated.root, simulated)


def test_types_are_registered_before_the_daemon_starts(machine):
    simulated = machine("t4-pair")
    daemon.start(simulated.root, simulated)
    assert simulated.commands[:2] == [
        ("systemctl", "start", "nvidia-vgpud"),
        ("systemctl", "start", "nvidia-vgpu-mgr"),
    ]


def test_finished_oneshot_service_is_not_a_problem(machine):
    simulated = machine("t4-pair")
    daemon.start(simulated.root, simulated)
    assert simulated("systemctl", "is-active", "nvidia-vgpud", check=False).stdout == "inactive\n"


def test_daemon_that_exits_immediately_is_a_problem(machine):
    simulated = machine("t4-pair")
    simulated.failing.add(DAEMON)
    with pytest.raises(HostError) as error:
        daemon.start(simulated.root, simulated)
    assert error.value.problem == Problem(ProblemKind.SERVICE_DOWN, service=DAEMON)


def test_masked_daemon_does_not_start(machine):
    simulated = machine("t4-pair")
    daemon.pause(simulated)
    with pytest.raises(HostError) as error:
        daemon.start(simulated.root, simulated)
    assert error.value.problem == Problem(ProblemKind.SERVICE_DOWN, service=DAEMON)


def test_restart_restarts_only_the_daemon(machine):
    simulated = machine("t4-pair")
    daemon.restart(simulated)
    assert simulated.commands == [("systemctl", "restart", DAEMON)]


@pytest.mark.parametrize(
    "control_groups", ["sys/fs/cgroup", "sys/fs/cgroup/systemd"], ids=["version 2", "version 1"]
)
def test_control_group_shows_a_running_daemon(machine, control_groups):
    simulated = machine("t4-pair")
    shutil.rmtree(simulated.root / "sys/fs")
    simulated.control_groups = control_groups
    daemon.start(simulated.root, simulated)
    simulated.commands.clear()
    assert daemon.is_active(simulated.root, simulated)
    assert simulated.commands == []


def test_systemctl_is_queried_without_a_control_group(machine):
    simulated = machine("t4-pair")
    shutil.rmtree(simulated.root / "sys/fs")
    assert daemon.is_active(simulated.root, simulated)
    assert simulated.commands == [("systemctl", "is-active", DAEMON)]


@pytest.mark.parametrize(
    "failure",
    [{"returncode": None}, {"returncode": 1, "output": "Failed to connect to bus"}],
    ids=["no systemctl", "no systemd"],
)
def test_daemon_of_unknown_state_is_not_active(machine, failure):
    simulated = machine("t4-fresh")
    simulated.fail("systemctl", **failure)
    assert daemon.is_active(simulated.root, simulated) is False
