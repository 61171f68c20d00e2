# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest

from driver.installation import DriverState
from gpu.problems import HostError, Problem, ProblemKind
from host.facts import HostFacts, gather
from nova_compute.compatibility import apply_release
from nova_compute.release import NovaVersion
from planning.mappings import parse, requests
from planning.plan import Plan, make_plan
from state.charm_state import CharmState
from status import unit_status
from status.assessment import Assessment
from status.unit_status import Level, Status, format_problem, unit_statuses

APP = "nova-compute-nvidia-vgpu"
PLAIN = "{nvidia-233: ['0000:84:00.0', '0000:d8:00.0']}"


def situation(root, text="", *, problems=(), memory=None):
    facts = gather(root)
    plan = apply_release(make_plan(requests(parse(text)), facts.cards), facts.cards, facts.nova)
    return Assessment(
        facts, plan, (*problems, *plan.problems, *plan.notes), memory or CharmState()
    )


def nothing(*problems, masked=False, memory=None):
    facts = HostFacts(
        (), DriverState(), NovaVersion(29), has_vgpu_daemon=False, is_paused_by_mask=masked
    )
    return Assessment(facts, Plan(), problems, memory or CharmState())


SENTENCES = [
    (
        Problem(ProblemKind.TOO_FEW_FUNCTIONS, "0000:41:00.0", "3", "A40-8Q"),
        "active",
        "0000:41:00.0 has 3 virtual functions, fewer than it holds of A40-8Q",
    ),
    (
        Problem(ProblemKind.WAITING_TO_LEAVE_MIG, "0000:41:00.0", "A100-10C"),
        "waiting",
        "Waiting for 0000:41:00.0 to leave MIG mode for A100-10C: "
        "journalctl -u nova-compute-nvidia-vgpu",
    ),
    (
        Problem(ProblemKind.NO_MIG, "0000:3d:00.0", "L40S-1-6C"),
        "blocked",
        "0000:3d:00.0 has no MIG, which L40S-1-6C needs; choose from the action list-vgpu-types",
    ),
    (
        Problem(ProblemKind.MIXED_SIZE_GUESTS, "0000:41:00.0", "A40-2Q and A40-8Q"),
        "waiting",
        "Waiting for the guests of 0000:41:00.0 to leave, so that it can mix A40-2Q and A40-8Q",
    ),
    (
        Problem(ProblemKind.MAPPING_SYNTAX, "line 1, column 2", "a tag"),
        "blocked",
        "vgpu-device-mappings: line 1, column 2: a tag; write {nvidia-35: ['0000:84:00.0']}",
    ),
    (
        Problem(ProblemKind.MAPPING_INVALID, "nvidia-35, device 2", "no device"),
        "blocked",
        "vgpu-device-mappings: nvidia-35, device 2: no device",
    ),
    (
        Problem(ProblemKind.DEVICE_MAPPED_TWICE, "0000:84:00.0", "nvidia-35", "nvidia-36"),
        "blocked",
        "vgpu-device-mappings: 0000:84:00.0 stands in nvidia-35 and nvidia-36; leave it in one",
    ),
    (
        Problem(ProblemKind.TYPE_MAPPED_TWICE, "GRID T4-8Q", "nvidia-233"),
        "blocked",
        "vgpu-device-mappings: nvidia-233 stands twice, by id and by name; join the two",
    ),
    (
        Problem(ProblemKind.TYPE_NOT_OFFERED, "0000:84:00.0", "V100-8Q"),
        "blocked",
        "0000:84:00.0 does not offer V100-8Q; choose from the action list-vgpu-types",
    ),
    (
        Problem(ProblemKind.MIXED_SIZES, "0000:41:00.0", "nvidia-558 and nvidia-560"),
        "blocked",
        "vgpu-device-mappings: 0000:41:00.0 cannot mix the sizes of nvidia-558 and nvidia-560; "
        "choose one",
    ),
    (
        Problem(ProblemKind.TYPES_UNKNOWN, "0000:84:00.0", "T4-8Q"),
        "waiting",
        "Waiting for 0000:84:00.0 to tell its types, T4-8Q among them: journalctl -u nvidia-vgpud",
    ),
    (
        Problem(ProblemKind.NOVA_MISSING),
        "waiting",
        "Waiting for nova-compute to install nova-common",
    ),
    (
        Problem(ProblemKind.NOVA_TOO_OLD, "Nova 16.1.8"),
        "blocked",
        "Nova 16.1.8 cannot offer vGPUs; upgrade to 17 (queens) or later",
    ),
    (
        Problem(ProblemKind.OPTION_UNSUPPORTED, "max-instances", "29", "25.2.1"),
        "blocked",
        "vgpu-device-mappings: max-instances needs Nova 29, here is 25.2.1; leave it out",
    ),
    (
        Problem(ProblemKind.OPTION_IGNORED, "resource-class", "29", "25.2.1"),
        "blocked",
        "vgpu-device-mappings: Nova 25.2.1 ignores resource-class of a single type (until 29); "
        "leave it out",
    ),
    (
        Problem(ProblemKind.MAX_INSTANCES_DROPS_CARD, "0000:84:00.0", "1", "2"),
        "blocked",
        "max-instances 1: Nova counts whole cards and drops 0000:84:00.0; use a multiple of 2",
    ),
    (
        Problem(ProblemKind.FIRST_TYPE_ONLY, "Nova 17.0.13", "nvidia-35"),
        "active",
        "Nova 17.0.13 uses nvidia-35 alone, on every GPU that has it",
    ),
    (
        Problem(ProblemKind.TAKES_ALL_CARDS, "Nova 25.2.1", "nvidia-233"),
        "active",
        "Nova 25.2.1 offers nvidia-233 on every GPU that has it, named or not",
    ),
    (
        Problem(ProblemKind.RESOURCE_MISSING),
        "blocked",
        "No host software: juju attach-resource nova-compute-nvidia-vgpu "
        "nvidia-vgpu-software=FILE.deb",
    ),
    (
        Problem(ProblemKind.RESOURCE_INVALID, "the file is no Debian package"),
        "blocked",
        "nvidia-vgpu-software: the file is no Debian package; attach NVIDIA's vGPU host package",
    ),
    (
        Problem(ProblemKind.INSTALL_FAILED, "E: held broken packages"),
        "blocked",
        "Host software not installed: E: held broken packages; mend, then run reboot-install",
    ),
    (
        Problem(ProblemKind.DPKG_LOCKED),
        "waiting",
        "Waiting for another program to release dpkg's lock",
    ),
    (
        Problem(ProblemKind.NOT_INSTALLED),
        "blocked",
        "The host software is not installed; run the action reboot-install",
    ),
    (
        Problem(ProblemKind.UPGRADE_PENDING, "570.172.07", "4b20d080"),
        "active",
        "host software 570.172.07 waits for the guests",
    ),
    (
        Problem(ProblemKind.NOT_LOADED, "could not insert 'nvidia': Key was rejected by service"),
        "blocked",
        "Driver not loaded: could not insert 'nvidia': Key was rejected by service; "
        "mend, then run reboot-install",
    ),
    (
        Problem(ProblemKind.NOUVEAU, "0000:84:00.0"),
        "blocked",
        "Reboot needed: nouveau holds 0000:84:00.0; run reboot-install i-really-mean-it=true",
    ),
    (
        Problem(ProblemKind.OTHER_VERSION_LOADED, "535.161.05", "570.172.07"),
        "blocked",
        "Reboot needed: driver 535.161.05 is loaded, 570.172.07 installed; "
        "run reboot-install i-really-mean-it=true",
    ),
    (
        Problem(ProblemKind.SERVICE_DOWN, "nvidia-vgpu-mgr"),
        "blocked",
        "nvidia-vgpu-mgr is not running; see journalctl -u nvidia-vgpu-mgr, "
        "then run reboot-install",
    ),
    (
        Problem(ProblemKind.STILL_RUNNING, "nvidia-vgpu-mgr"),
        "blocked",
        "nvidia-vgpu-mgr does not stop; see journalctl -u nvidia-vgpu-mgr, then pause again",
    ),
    (
        Problem(ProblemKind.RESTART_PENDING, "nvidia-vgpu-mgr"),
        "active",
        "restart of nvidia-vgpu-mgr waits for the guests",
    ),
    (
        Problem(ProblemKind.VGPUS_IN_USE, "4b20d080"),
        "blocked",
        "vGPU 4b20d080 is in use; stop or migrate its guest first",
    ),
    (
        Problem(ProblemKind.VGPUS_IN_USE_OR_FORCE, "4b20d080"),
        "blocked",
        "vGPU 4b20d080 is in use; stop or migrate its guest first, or go on with force=true",
    ),
    (
        Problem(ProblemKind.PAUSED),
        "maintenance",
        "Paused. Use 'resume' action to resume normal service.",
    ),
    (
        Problem(ProblemKind.PAUSED_BY_PRINCIPAL),
        "maintenance",
        "Paused by nova-compute. Use its 'resume' action to resume normal service.",
    ),
    (
        Problem(ProblemKind.NOT_RELATED),
        "blocked",
        "No relation to nova-compute: juju integrate nova-compute-nvidia-vgpu:nova-vgpu "
        "nova-compute:nova-vgpu",
    ),
]


@pytest.mark.parametrize(
    ("problem", "level", "text"), SENTENCES, ids=[row[0].kind.value for row in SENTENCES]
)
def test_sentence_says_what_is_wrong_and_how_to_mend_it(problem, level, text):
    assert format_problem(problem, APP) == (Level(level), text)


@pytest.mark.parametrize("length", [0, 12, 60, 500])
@pytest.mark.parametrize("kind", ProblemKind, ids=lambda kind: kind.value)
def test_every_kind_has_a_sentence_that_juju_status_does_not_cut(kind, length):
    _, text = format_problem(Problem(kind, "s" * length, "d" * length, "m" * length), APP)
    assert 0 < len(text) < 120
    assert re.search(r"\{[a-z]*\}", text) is None


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        (ProblemKind.TYPE_NOT_OFFERED, "; choose from the action list-vgpu-types"),
        (ProblemKind.RESOURCE_INVALID, "; attach NVIDIA's vGPU host package"),
        (ProblemKind.INSTALL_FAILED, "; mend, then run reboot-install"),
        (ProblemKind.NOT_LOADED, "; mend, then run reboot-install"),
        (ProblemKind.NOUVEAU, "; run reboot-install i-really-mean-it=true"),
        (ProblemKind.SERVICE_DOWN, ", then run reboot-install"),
        (ProblemKind.VGPUS_IN_USE_OR_FORCE, ", or go on with force=true"),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_long_word_is_cut_so_that_the_mend_is_not(kind, mend):
    _, text = format_problem(Problem(kind, "x" * 200), APP)
    assert "xxx..." in text
    assert text.endswith(mend)


def test_braces_of_an_operator_are_not_filled_in():
    _, text = format_problem(Problem(ProblemKind.MAPPING_INVALID, "{app}", "{more} {0}"), APP)
    assert text == "vgpu-device-mappings: {app}: {more} {0}"


def test_error_carries_its_problem_and_says_its_stable_name():
    error = HostError(Problem(ProblemKind.INSTALL_FAILED, "E: no space"))
    assert str(error) == "install-failed: E: no space"
    assert error.problem.kind is ProblemKind.INSTALL_FAILED


# One line for a unit


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no-gpu", "", "Unit is ready: no supported NVIDIA GPU found"),
        ("no-gpu", PLAIN, "Unit is ready: no supported NVIDIA GPU found"),
        ("t4-pair", "", "Unit is ready: 2 NVIDIA GPUs, none set in vgpu-device-mappings"),
        (
            "t4-pair",
            "{nvidia-233: ['0000:99:00.0']}",
            "Unit is ready: 2 NVIDIA GPUs, none named in vgpu-device-mappings",
        ),
        ("t4-pair", PLAIN, "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type"),
        ("a40-mdev", "{A40-2Q: ['10de:2235']}", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type"),
        (
            "mixed",
            "{T4-8Q: ['10de:1eb8'], V100-8Q: ['10de:1db4'], nvidia-35: ['0000:99:00.0']}",
            "Unit is ready: 3 NVIDIA GPUs, 2 vGPU types",
        ),
        (
            "t4-pair",
            "{nvidia-233: ['0000:84:00.0']}",
            "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type; "
            "Nova 25.2.1 offers nvidia-233 on every GPU that has it, named or not",
        ),
    ],
)
def test_unit_that_is_ready_says_what_it_offers(host, name, text, message):
    assert unit_statuses(situation(host(name), text), APP) == (Status(Level.ACTIVE, message),)


@pytest.mark.parametrize(
    ("name", "text", "level", "message"),
    [
        (
            "a100-sriov-off",
            "{A100-8C: ['10de:20f1']}",
            Level.WAITING,
            "Waiting for the virtual functions of 0000:41:00.0: "
            "journalctl -u nova-compute-nvidia-vgpu",
        ),
        (
            "l40s-vendor-vfio",
            "{L40S-2Q: ['10de:26b9']}",
            Level.WAITING,
            "Waiting for 0000:3d:00.0 to carry L40S-2Q: journalctl -u nova-compute-nvidia-vgpu",
        ),
        (
            "t4-fresh",
            "{T4-8Q: ['0000:84:00.0']}",
            Level.WAITING,
            "Waiting for 0000:84:00.0 to tell its types, T4-8Q among them: "
            "journalctl -u nvidia-vgpud",
        ),
    ],
    ids=["virtual functions off", "vendor VFIO", "no driver yet"],
)
def test_host_that_cannot_offer_what_is_asked(host, name, text, level, message):
    assert unit_statuses(situation(host(name), text), APP)[0] == Status(level, message)


def test_gravest_comes_first():
    found = unit_statuses(
        nothing(
            Problem(ProblemKind.DPKG_LOCKED),
            Problem(ProblemKind.RESTART_PENDING, "nvidia-vgpu-mgr"),
            Problem(ProblemKind.NOT_INSTALLED),
        ),
        APP,
    )
    assert [status.level for status in found] == [Level.BLOCKED, Level.WAITING, Level.ACTIVE]
    assert found[-1].message == (
        "Unit is ready: no supported NVIDIA GPU found; "
        "restart of nvidia-vgpu-mgr waits for the guests"
    )


def test_first_of_equally_grave_ones_stays_first():
    found = unit_statuses(
        nothing(Problem(ProblemKind.NOT_INSTALLED), Problem(ProblemKind.RESOURCE_MISSING)), APP
    )
    assert found[0].message == "The host software is not installed; run the action reboot-install"


@pytest.mark.parametrize(
    ("masked", "paused", "message"),
    [
        (True, True, "Paused. Use 'resume' action to resume normal service."),
        (False, True, "Paused. Use 'resume' action to resume normal service."),
        (
            True,
            False,
            "Paused by nova-compute. Use its 'resume' action to resume normal service.",
        ),
    ],
    ids=["ours", "ours, without a service", "the principal's"],
)
def test_pause_comes_before_anything_else(masked, paused, message):
    found = unit_statuses(
        nothing(
            Problem(ProblemKind.SERVICE_DOWN, "x"), masked=masked, memory=CharmState(paused=paused)
        ),
        APP,
    )
    assert found == (Status(Level.MAINTENANCE, message),)


def test_ready_line_with_many_remarks_is_cut():
    remarks = [
        Problem(ProblemKind.TAKES_ALL_CARDS, "Nova 25.2.1", "nvidia-233", f"0000:{bus}:00.0")
        for bus in range(10, 20)
    ]
    message = unit_statuses(nothing(*remarks), APP)[-1].message
    assert message.startswith("Unit is ready: no supported NVIDIA GPU found; Nova 25.2.1 offers")
    assert message.endswith("...")
    assert len(message) == 119


def test_words_that_are_not_about_a_problem_fit_as_well():
    words = (
        unit_status.INSTALLING,
        unit_status.REBOOT_NEEDED,
        unit_status.REBOOT_NOT_NEEDED,
        unit_status.REBOOT_SCHEDULED,
    )
    assert all(0 < len(word) < 120 for word in words)
