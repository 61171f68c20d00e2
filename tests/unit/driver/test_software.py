# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The host software from the attached resource to a running daemon."""

from __future__ import annotations

import pytest

import recorded
from driver import daemon, resource, software
from gpu.pci import PciAddress
from gpu.problems import SOFTWARE_BROKEN, HostError, Problem, ProblemKind
from host.facts import gather
from state.backoff import Backoff
from state.charm_state import CharmState

UUID = recorded.UUIDS[0]
NEW = "nvidia-vgpu-ubuntu-570"


class Host:
    """A host and the state of the charm on it, from one event to the next."""

    def __init__(self, machine):
        self.machine = machine
        self.state = CharmState()
        self.changed = False

    def attach(self, **options):
        deb = self.machine.make_deb(self.machine.root.parent / "a.deb", **options)
        self.state = self.state._replace(resource_path=str(deb))

    def event(self, *, force=False):
        """Apply an event to the host software; return the problems that remain."""
        root, run = self.machine.root, self.machine
        self.state = resource.ensure_inspected(run, self.state)
        self.state, self.changed = software.ensure(
            root, run, gather(root), self.state, force=force
        )
        return list(software.find_problems(gather(root), self.state))


@pytest.fixture
def start(machine):
    return lambda *arguments, **changes: Host(machine(*arguments, **changes))


# From the resource to a loaded driver


def test_fresh_host_is_ready_after_a_reboot(start):
    host = start("t4-fresh")
    assert host.event() == [Problem(ProblemKind.RESOURCE_MISSING)]
    host.attach()
    assert host.event() == [Problem(ProblemKind.NOUVEAU, PciAddress.parse("0000:84:00.0"))]
    host.machine.reboot()
    assert host.event() == []
    assert [len(card.types) for card in gather(host.machine.root).cards] == [17, 17]


def test_host_without_nouveau_is_ready_without_a_reboot(start):
    host = start(recorded.without_driver("t4-pair"))
    host.attach()
    assert host.event() == []
    assert host.changed
    assert [len(card.types) for card in gather(host.machine.root).cards] == [17, 17]


def test_configured_host_needs_no_program(start):
    host = start("t4-pair")
    host.attach(name="nvidia-vgpu-ubuntu-535", version="535.161.05")
    host.event()
    host.machine.commands.clear()
    assert host.event() == []
    assert not host.changed
    assert host.machine.commands == []


def test_crashed_daemon_is_started_again(start):
    host = start("t4-pair")
    host.machine.crash("nvidia-vgpu-mgr")
    assert host.event() == []
    assert daemon.is_active(host.machine.root, host.machine)


def test_daemon_that_does_not_start_is_a_problem_until_it_runs(start):
    host = start("t4-pair")
    host.machine.crash("nvidia-vgpu-mgr")
    host.machine.failing.add("nvidia-vgpu-mgr")
    assert host.event() == [Problem(ProblemKind.SERVICE_DOWN, service="nvidia-vgpu-mgr")]
    host.machine.failing.clear()
    assert host.event() == []


def test_package_is_installed_but_not_loaded_without_a_card(start):
    host = start("no-gpu")
    host.attach()
    assert host.event() == []
    assert host.machine.packages()[NEW] == ("570.172.07", "installed")
    assert host.machine.did("modprobe nvidia") == []
    assert host.machine.did("systemctl") == []


def test_upgrade_waits_for_the_guests(start):
    host = start("t4-pair")
    host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    host.attach()
    assert host.event() == [Problem(ProblemKind.UPGRADE_PENDING, version="570.172.07")]
    assert host.machine.did("apt-get") == []
    host.machine.remove_mdev(UUID)
    assert host.event() == [
        Problem(ProblemKind.OTHER_VERSION_LOADED, loaded="535.161.05", installed="570.172.07")
    ]
    host.machine.reboot()
    assert host.event() == []


def test_forced_upgrade_does_not_wait_for_the_guests(start):
    host = start("t4-pair")
    host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    host.attach()
    assert host.event(force=True) == [
        Problem(ProblemKind.OTHER_VERSION_LOADED, loaded="535.161.05", installed="570.172.07")
    ]


def test_failure_is_reported_until_an_attempt_succeeds(start):
    host = start(recorded.without_driver("t4-pair"))
    host.attach()
    host.machine.fail("apt-get install", output="E: Could not get lock\n", returncode=100)
    assert host.event() == [Problem(ProblemKind.DPKG_LOCKED)]
    assert host.event() == [Problem(ProblemKind.DPKG_LOCKED)]
    host.machine.repair("apt-get install")
    assert host.event() == []
    assert host.state.installation == Backoff()


BREAK = {
    "installation": ("apt-get install", "E: Unable to correct problems\n"),
    "removal": ("apt-get remove", "E: Sub-process /usr/bin/dpkg returned an error code (1)\n"),
    "headers": ("apt-cache", ""),
    "module": ("modprobe nvidia", "modprobe: ERROR: could not insert 'nvidia'\n"),
    "daemon": ("systemctl start nvidia-vgpu-mgr", "Job for nvidia-vgpu-mgr.service failed.\n"),
}


@pytest.mark.parametrize(("command", "output"), BREAK.values(), ids=BREAK)
def test_failed_step_is_not_repeated_before_its_delay(start, clock, command, output):
    host = start(recorded.without_driver("t4-pair"))
    host.attach(name="nvidia-vgpu-ubuntu-535")
    recorded.write_dpkg_status(host.machine.root, [("nvidia-vgpu-ubuntu-470", "1", "installed")])
    host.machine.fail(command, output=output, returncode=100)
    assert host.event() != []
    facts = gather(host.machine.root)
    assert not software.may_succeed(host.machine.root, facts, host.state)
    clock.now += 240
    assert software.may_succeed(host.machine.root, facts, host.state)


@pytest.mark.parametrize(
    "change",
    [
        lambda host: host.attach(version="570.211.01"),
        lambda host: (host.machine.root / "proc/sys/kernel/osrelease").write_text("6.8.0-99\n"),
        lambda host: (
            recorded.write_dpkg_status(host.machine.root, [("nova-common", "1", "x")])
            or (host.machine.root / "sys/module/nvidia").mkdir(parents=True)
            or (host.machine.root / "sys/module/nvidia/version").write_text("570.1\n")
        ),
        lambda host: host.machine._run_unit("nvidia-vgpu-mgr"),
    ],
    ids=["another package", "another kernel", "the driver was loaded", "the daemon is running"],
)
def test_failed_step_is_repeated_at_once_when_its_cause_changes(start, change):
    host = start(recorded.without_driver("t4-pair"))
    host.attach()
    host.machine.fail("apt-get install", output="E: Unable to correct problems\n", returncode=100)
    host.event()
    change(host)
    host.state = resource.ensure_inspected(host.machine, host.state)
    assert software.may_succeed(host.machine.root, gather(host.machine.root), host.state)


def test_waiting_package_is_logged_once(start, caplog):
    caplog.set_level("INFO")
    host = start("t4-pair")
    host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    host.attach()
    for _ in range(3):
        host.event()
    lines = [(record.levelname, record.message) for record in caplog.records]
    assert lines == [("INFO", "upgrade-pending: version='570.172.07': see above")]


def test_failure_is_logged_with_the_output_of_the_program(start, caplog):
    host = start(recorded.without_driver("t4-pair"))
    host.attach()
    host.machine.fail("modprobe nvidia", output="modprobe: ERROR: Key was rejected by service\n")
    host.event()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "not-loaded: reason='Key was rejected by service': "
        "modprobe nvidia: exit 1: modprobe: ERROR: Key was rejected by service"
    ]


def test_broken_package_is_replaced_by_a_corrected_one(start):
    host = start(recorded.without_driver("t4-pair"))
    host.attach(postinst_fails=True)
    (problem,) = host.event()
    assert problem.kind is ProblemKind.INSTALL_FAILED
    host.attach()
    assert host.event() == []


@pytest.mark.parametrize(
    ("name", "problems"),
    [("t4-fresh", [Problem(ProblemKind.RESOURCE_MISSING)]), ("t4-pair", [])],
    ids=["no driver", "driver from elsewhere"],
)
def test_missing_resource_is_a_problem_only_without_a_driver(start, name, problems):
    assert start(name).event() == problems


def test_invalid_resource_is_reported_although_a_driver_works(start):
    host = start("t4-pair")
    host.attach(name="nvidia-linux-grid-570")
    assert host.event() == [
        Problem(ProblemKind.RESOURCE_INVALID, reason="nvidia-linux-grid-570 is the guest driver")
    ]
    assert daemon.is_active(host.machine.root, host.machine)


def test_attached_package_that_was_not_installed_yet_is_reported(start):
    host = start("t4-fresh")
    host.attach()
    host.state = resource.ensure_inspected(host.machine, host.state)
    facts = gather(host.machine.root)
    assert list(software.find_problems(facts, host.state)) == [Problem(ProblemKind.NOT_INSTALLED)]


@pytest.mark.parametrize(
    "packages",
    [
        [("nvidia-vgpu-ubuntu-535", "535.161.05", "half-installed")],
        [
            ("nvidia-vgpu-ubuntu-535", "535.161.05", "installed"),
            ("nvidia-vgpu-ubuntu-570", "570.172.07", "installed"),
        ],
    ],
    ids=["half-installed", "two branches"],
)
def test_incomplete_driver_is_a_problem_without_a_resource(start, packages):
    host = start("t4-fresh")
    recorded.write_dpkg_status(host.machine.root, packages)
    assert host.event() == [Problem(ProblemKind.RESOURCE_MISSING)]


@pytest.mark.parametrize(
    "row", [["kind-of-a-later-revision", "", {}], ["dpkg-locked", "x", "y", ""], "x"]
)
def test_recorded_failure_of_another_revision_is_ignored(start, row):
    host = start("t4-pair")
    host.state = CharmState(installation=Backoff(failures=1, problem=tuple(row)))
    assert list(software.find_problems(gather(host.machine.root), host.state)) == []


@pytest.fixture
def undone(start):
    """A host on which an upgrade has failed, and was undone."""
    host = start("t4-pair")
    host.attach(name="nvidia-vgpu-ubuntu-535", version="535.161.05")
    host.event()  # which keeps the file
    host.attach(postinst_fails=True)
    host.event()
    return host


def test_undone_upgrade_is_not_repeated(undone, clock):
    """Each attempt removes the driver that works, also while guests come and go."""
    (problem,) = undone.event()
    assert problem.kind is ProblemKind.INSTALL_UNDONE
    undone.machine.commands.clear()
    for number in range(4):
        clock.now += 24 * 3600
        if number % 2:
            undone.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
        assert undone.event() == [problem]
        if number % 2:
            undone.machine.remove_mdev(UUID)
    assert undone.machine.did("apt-get") == []


def test_daemon_is_started_although_an_upgrade_was_undone(undone):
    undone.machine.crash("nvidia-vgpu-mgr")
    undone.event()
    assert daemon.is_active(undone.machine.root, undone.machine)


@pytest.mark.parametrize("change", ["package", "kernel"])
def test_undone_upgrade_is_repeated_when_its_cause_may_be_gone(undone, change):
    if change == "package":
        undone.attach()
        assert undone.event()[0].kind is ProblemKind.OTHER_VERSION_LOADED
        return
    kernel = undone.machine.root / "proc/sys/kernel/osrelease"
    kernel.write_text("5.15.0-174-generic\n")
    undone.machine.commands.clear()
    undone.event()
    assert undone.machine.did("apt-get")


def test_upgrade_that_somebody_has_completed_by_hand_is_not_reported_as_undone(undone):
    recorded.write_dpkg_status(undone.machine.root, [(NEW, "570.172.07", "installed")])
    undone.machine.reboot()
    assert undone.event() == []


def test_failed_upgrade_is_reported_although_the_old_driver_is_still_loaded(start):
    host = start("t4-pair")
    host.attach()
    host.machine.fail(
        "apt-get install --no-remove", output="No space left on device\n", returncode=100
    )
    host.machine.fail("apt-get install --simulate", returncode=0)
    kinds = [problem.kind for problem in host.event()]
    assert kinds == [ProblemKind.INSTALL_FAILED]


# Announcement of an installation


@pytest.mark.parametrize(
    ("version", "in_use", "force", "is_long"),
    [
        ("570.172.07", False, False, True),
        ("570.172.07", True, False, False),
        ("570.172.07", True, True, True),
    ],
    ids=["new", "waits for the guests", "forced"],
)
def test_installation_is_announced_if_it_will_happen(start, version, in_use, force, is_long):
    host = start("t4-pair")
    host.attach(version=version)
    if in_use:
        host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    state = resource.ensure_inspected(host.machine, host.state)
    assert software.will_install(gather(host.machine.root), state, force=force) is is_long


@pytest.mark.parametrize("is_attached", [True, False])
def test_nothing_is_announced_without_an_installation(start, is_attached):
    host = start("t4-pair")
    if is_attached:
        host.attach(name="nvidia-vgpu-ubuntu-535", version="535.161.05")
    state = resource.ensure_inspected(host.machine, host.state)
    assert software.will_install(gather(host.machine.root), state, force=True) is False


# Restart that the principal charm requests


def handle_trigger(host, **facts):
    changed = gather(host.machine.root)._replace(**facts)
    return software.handle_restart_trigger(host.machine.root, host.machine, changed, host.state)


def test_requested_restart_happens_once(start):
    host = start("t4-pair")
    host.state = CharmState(restart_pending=True)
    host.state = handle_trigger(host)
    assert host.state == CharmState()
    host.state = handle_trigger(host)
    assert host.machine.commands == [("systemctl", "restart", "nvidia-vgpu-mgr")]


def test_restart_waits_for_the_guests(start):
    host = start("t4-pair")
    host.state = CharmState(restart_pending=True)
    host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    assert handle_trigger(host) == host.state
    assert host.machine.commands == []


def test_restart_waits_for_a_guest_started_after_the_facts_were_read(start):
    host = start("t4-pair")
    host.state = CharmState(restart_pending=True)
    facts = gather(host.machine.root)
    host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    state = software.handle_restart_trigger(host.machine.root, host.machine, facts, host.state)
    assert state == host.state
    assert host.machine.commands == []


@pytest.mark.parametrize(
    ("name", "state", "facts"),
    [
        ("t4-pair", CharmState(paused=True), {}),
        ("t4-pair", CharmState(), {"is_paused_by_mask": True}),
        ("no-gpu", CharmState(), {}),
        ("t4-fresh", CharmState(), {}),
    ],
    ids=["paused", "paused by the principal", "no card", "no driver"],
)
def test_restart_is_skipped_if_the_daemon_must_not_or_cannot_run(start, name, state, facts):
    host = start(name)
    host.state = state._replace(restart_pending=True)
    assert handle_trigger(host, **facts) == state
    assert host.machine.commands == []


def test_failed_restart_is_a_problem(start):
    host = start("t4-pair")
    host.state = CharmState(restart_pending=True)
    host.machine.fail("systemctl restart", output="Job for nvidia-vgpu-mgr.service failed.\n")
    host.state = handle_trigger(host)
    assert list(software.find_problems(gather(host.machine.root), host.state)) == [
        Problem(ProblemKind.SERVICE_DOWN, service="nvidia-vgpu-mgr")
    ]


# Changes that are refused


@pytest.mark.parametrize(
    ("state", "masked", "in_use", "force", "problem"),
    [
        (CharmState(), False, False, False, None),
        (CharmState(paused=True), True, False, True, Problem(ProblemKind.PAUSED)),
        (CharmState(), True, False, True, Problem(ProblemKind.PAUSED_BY_PRINCIPAL)),
        (CharmState(), False, True, False, Problem(ProblemKind.VGPUS_IN_USE_OR_FORCE, vgpu=UUID)),
        (CharmState(), False, True, True, None),
    ],
    ids=["free", "paused", "paused by the principal", "guests", "guests and force"],
)
def test_host_software_is_not_changed_during_a_pause_or_under_guests(
    start, state, masked, in_use, force, problem
):
    host = start("t4-pair")
    if in_use:
        host.machine.create_mdev("0000:84:00.0", "nvidia-233", UUID)
    facts = gather(host.machine.root)._replace(is_paused_by_mask=masked)
    assert software.why_refused(facts, state, force=force) == problem


@pytest.mark.parametrize(
    ("kind", "is_broken"),
    [
        (ProblemKind.RESOURCE_MISSING, True),
        (ProblemKind.INSTALL_FAILED, True),
        (ProblemKind.DPKG_LOCKED, True),
        (ProblemKind.NOT_LOADED, True),
        (ProblemKind.SERVICE_DOWN, True),
        (ProblemKind.NOUVEAU, False),
        (ProblemKind.OTHER_VERSION_LOADED, False),
        (ProblemKind.UPGRADE_PENDING, False),
        (ProblemKind.OPTION_INVALID, False),
    ],
    ids=lambda value: getattr(value, "value", str(value)),
)
def test_broken_software_is_distinguished_from_a_pending_reboot(kind, is_broken):
    assert (kind in SOFTWARE_BROKEN) is is_broken


# Detection


def installed_tools(machine):
    software.refresh_detection(machine.root, machine)
    return [command[-1] for command in machine.did("apt-get install")]


def test_missing_lspci_is_installed_once(machine):
    simulated = machine("t4-pair")
    (simulated.root / "usr/bin/lspci").unlink()
    assert installed_tools(simulated) == ["pciutils"]
    simulated.commands.clear()
    assert installed_tools(simulated) == []


def test_lspci_may_be_in_sbin(machine):
    simulated = machine("t4-pair")
    (simulated.root / "usr/bin/lspci").unlink()
    simulated.provide("usr/sbin/lspci")
    assert installed_tools(simulated) == []


def test_host_without_a_card_gets_no_lspci(machine):
    simulated = machine("no-gpu")
    (simulated.root / "usr/bin/lspci").unlink()
    software.refresh_detection(simulated.root, simulated)
    assert simulated.commands == []


@pytest.mark.parametrize("name", ["t4-pair", "no-gpu"])
def test_installed_lspci_is_compared_with_sysfs(machine, name):
    simulated = machine(name)
    software.refresh_detection(simulated.root, simulated)
    assert [command[0] for command in simulated.commands] == ["lspci"]


def test_detection_continues_if_lspci_cannot_be_installed(machine, caplog):
    simulated = machine("t4-pair")
    (simulated.root / "usr/bin/lspci").unlink()
    simulated.fail("apt-get install", output="E: Could not get lock\n", returncode=100)
    assert len(software.refresh_detection(simulated.root, simulated).cards) == 2
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["pciutils cannot be installed: dpkg-locked:"]


def test_error_names_its_kind_and_its_arguments(machine):
    simulated = machine("t4-pair")
    simulated.fail("systemctl start", output="x")
    with pytest.raises(HostError, match=r"^service-down: service='nvidia-vgpud'$"):
        daemon.start(simulated.root, simulated)
