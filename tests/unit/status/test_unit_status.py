# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The text and level of each problem, and the status of the unit."""

from __future__ import annotations

import pytest

from driver.installation import DriverState
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from host.facts import HostFacts, gather
from nova_compute.compatibility import apply_release
from nova_compute.release import NovaVersion
from planning import mappings
from planning.plan import Plan, make_plan
from state.charm_state import CharmState
from status.assessment import Assessment
from status.messages import Level
from status.unit_status import Status, format_problem, problem_status, unit_statuses

APP = "nova-compute-nvidia-vgpu"
NOON = 1790596800.0
CARD = PciAddress.parse("0000:84:00.0")
PLAIN = "{nvidia-233: ['0000:84:00.0', '0000:d8:00.0']}"


def assessment(root, text="", *, problems=(), state=None):
    facts = gather(root)
    plan = apply_release(
        make_plan(mappings.requests(mappings.OPTION.parse(text)), facts.cards),
        facts.cards,
        facts.nova,
    )
    return Assessment(facts, plan, (*problems, *plan.problems, *plan.notes), state or CharmState())


def empty_host(*problems, masked=False, state=None):
    facts = HostFacts(
        (), DriverState(), NovaVersion(29), has_vgpu_daemon=False, is_paused_by_mask=masked
    )
    return Assessment(facts, Plan(), problems, state or CharmState())


MESSAGES = [
    (
        Problem(
            ProblemKind.TOO_FEW_FUNCTIONS,
            PciAddress.parse("0000:41:00.0"),
            count="3",
            vgpu_type="A40-8Q",
        ),
        "active",
        "0000:41:00.0 has 3 virtual functions, but room for more A40-8Q vGPUs",
    ),
    (
        Problem(
            ProblemKind.WAITING_TO_LEAVE_MIG,
            PciAddress.parse("0000:41:00.0"),
            vgpu_type="A100-10C",
        ),
        "waiting",
        (
            "Waiting for 0000:41:00.0 to leave MIG mode for A100-10C; see journalctl "
            "-u nova-compute-nvidia-vgpu"
        ),
    ),
    (
        Problem(ProblemKind.NO_MIG, PciAddress.parse("0000:3d:00.0"), vgpu_type="L40S-1-6C"),
        "blocked",
        ("L40S-1-6C needs MIG, which 0000:3d:00.0 lacks; run list-vgpu-types and choose another"),
    ),
    (
        Problem(
            ProblemKind.MIXED_SIZE_GUESTS,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="A40-2Q and A40-8Q",
        ),
        "waiting",
        (
            "Guests on 0000:41:00.0 prevent mixed-size mode for A40-2Q and A40-8Q; "
            "delete or migrate them"
        ),
    ),
    (
        Problem(
            ProblemKind.OPTION_SYNTAX,
            option=mappings.OPTION.name,
            example=mappings.OPTION.example,
            place="line 1, column 2",
            reason="a tag",
        ),
        "blocked",
        ("vgpu-device-mappings: line 1, column 2: a tag; example: {nvidia-35: ['0000:84:00.0']}"),
    ),
    (
        Problem(
            ProblemKind.OPTION_INVALID,
            option=mappings.OPTION.name,
            place="nvidia-35, device 2",
            reason="no device",
        ),
        "blocked",
        "vgpu-device-mappings: nvidia-35, device 2: no device",
    ),
    (
        Problem(
            ProblemKind.DEVICE_MAPPED_TWICE,
            option=mappings.OPTION.name,
            device="0000:84:00.0",
            first="nvidia-35",
            second="nvidia-36",
        ),
        "blocked",
        (
            "vgpu-device-mappings: 0000:84:00.0 is mapped to both nvidia-35 and "
            "nvidia-36; remove one"
        ),
    ),
    (
        Problem(ProblemKind.TYPE_MAPPED_TWICE, vgpu_type="nvidia-233"),
        "blocked",
        ("vgpu-device-mappings: nvidia-233 is mapped by ID and by name; merge the two entries"),
    ),
    (
        Problem(
            ProblemKind.TYPE_NOT_OFFERED, PciAddress.parse("0000:84:00.0"), vgpu_type="V100-8Q"
        ),
        "blocked",
        "0000:84:00.0 does not offer V100-8Q; run list-vgpu-types and choose another",
    ),
    (
        Problem(
            ProblemKind.MIXED_SIZES,
            PciAddress.parse("0000:41:00.0"),
            vgpu_types="nvidia-558 and nvidia-560",
        ),
        "blocked",
        ("0000:41:00.0 cannot offer nvidia-558 and nvidia-560 together; map types of one size"),
    ),
    (
        Problem(ProblemKind.TYPES_UNKNOWN, PciAddress.parse("0000:84:00.0"), vgpu_type="T4-8Q"),
        "waiting",
        "Waiting for 0000:84:00.0 to report type T4-8Q; see journalctl -u nvidia-vgpud",
    ),
    (
        Problem(ProblemKind.NOVA_MISSING),
        "waiting",
        "Waiting for nova-compute to install nova-common",
    ),
    (
        Problem(ProblemKind.NOVA_TOO_OLD, nova="16.1.8"),
        "blocked",
        "Nova 16.1.8 does not support vGPUs; upgrade to 17 (Queens) or later",
    ),
    (
        Problem(
            ProblemKind.OPTION_UNSUPPORTED, option="max-instances", required="29", nova="25.2.1"
        ),
        "blocked",
        ("max-instances needs Nova 29, but 25.2.1 is installed; unset it"),
    ),
    (
        Problem(ProblemKind.OPTION_IGNORED, option="resource-class", required="29", nova="25.2.1"),
        "blocked",
        (
            "Nova 25.2.1 ignores resource-class if only one type is mapped; remove it "
            "or upgrade to Nova 29"
        ),
    ),
    (
        Problem(
            ProblemKind.MAX_INSTANCES_DROPS_CARD,
            PciAddress.parse("0000:84:00.0"),
            limit="1",
            room="2",
        ),
        "blocked",
        ("max-instances 1 excludes 0000:84:00.0; use a multiple of 2"),
    ),
    (
        Problem(ProblemKind.FIRST_TYPE_ONLY, nova="17.0.13", vgpu_type="nvidia-35"),
        "active",
        "Nova 17.0.13 uses only nvidia-35, on every card that supports it",
    ),
    (
        Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-233"),
        "active",
        "Nova 25.2.1 offers nvidia-233 on every card that supports it, mapped or not",
    ),
    (
        Problem(ProblemKind.RESOURCE_MISSING),
        "blocked",
        (
            "No host software; run juju attach-resource nova-compute-nvidia-vgpu "
            "nvidia-vgpu-software=FILE.deb"
        ),
    ),
    (
        Problem(ProblemKind.RESOURCE_INVALID, reason="the file is not a Debian package"),
        "blocked",
        (
            "nvidia-vgpu-software: the file is not a Debian package; attach "
            "nvidia-vgpu-ubuntu-*.deb"
        ),
    ),
    (
        Problem(ProblemKind.INSTALL_FAILED, reason="E: held broken packages"),
        "blocked",
        (
            "Host software not installed: E: held broken packages; fix this, then run "
            "reboot-install"
        ),
    ),
    (
        Problem(ProblemKind.DPKG_LOCKED),
        "waiting",
        "Waiting for another program to release the dpkg lock",
    ),
    (
        Problem(ProblemKind.NOT_INSTALLED),
        "blocked",
        "Host software not installed; run action reboot-install",
    ),
    (
        Problem(ProblemKind.UPGRADE_PENDING, version="570.172.07"),
        "active",
        "host software 570.172.07 waits until no vGPU is in use",
    ),
    (
        Problem(
            ProblemKind.NOT_LOADED, reason="could not insert 'nvidia': Key was rejected by service"
        ),
        "blocked",
        (
            "Driver not loaded: could not insert 'nvidia': Key was rejected by "
            "service; fix this, then run reboot-install"
        ),
    ),
    (
        Problem(ProblemKind.NOUVEAU, PciAddress.parse("0000:84:00.0")),
        "blocked",
        (
            "Reboot needed: nouveau is bound to 0000:84:00.0; run reboot-install "
            "i-really-mean-it=true"
        ),
    ),
    (
        Problem(ProblemKind.OTHER_VERSION_LOADED, loaded="535.161.05", installed="570.172.07"),
        "blocked",
        (
            "Reboot needed: driver 535.161.05 is loaded, not 570.172.07; run "
            "reboot-install i-really-mean-it=true"
        ),
    ),
    (
        Problem(ProblemKind.SERVICE_DOWN, service="nvidia-vgpu-mgr"),
        "blocked",
        "nvidia-vgpu-mgr is down; see journalctl -u nvidia-vgpu-mgr; "
        "fix this, then run reboot-install",
    ),
    (
        Problem(ProblemKind.STILL_RUNNING, service="nvidia-vgpu-mgr"),
        "blocked",
        ("nvidia-vgpu-mgr does not stop; see journalctl -u nvidia-vgpu-mgr, then run pause again"),
    ),
    (
        Problem(ProblemKind.RESTART_PENDING, service="nvidia-vgpu-mgr"),
        "active",
        "restart of nvidia-vgpu-mgr waits until no vGPU is in use",
    ),
    (
        Problem(ProblemKind.VGPUS_IN_USE, vgpu="4b20d080"),
        "blocked",
        (
            "vGPU 4b20d080 is in use; delete or migrate its guest; if it has none, "
            "remove the device"
        ),
    ),
    (
        Problem(ProblemKind.VGPUS_IN_USE_OR_FORCE, vgpu="4b20d080"),
        "blocked",
        (
            "vGPU 4b20d080 is in use; delete or migrate its guest, remove the device, "
            "or use force=true"
        ),
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
        (
            "No relation to nova-compute; run juju integrate "
            "nova-compute-nvidia-vgpu:nova-vgpu nova-compute:nova-vgpu"
        ),
    ),
]


@pytest.mark.parametrize(
    ("problem", "level", "text"), MESSAGES, ids=[row[0].kind.value for row in MESSAGES]
)
def test_message_states_what_is_wrong_and_what_to_do(problem, level, text):
    assert problem_status(problem, APP) == (Level(level), text)


@pytest.mark.parametrize(
    ("kind", "argument", "end"),
    [
        (ProblemKind.TYPE_NOT_OFFERED, "vgpu_type", "; run list-vgpu-types and choose another"),
        (ProblemKind.RESOURCE_INVALID, "reason", "; attach nvidia-vgpu-ubuntu-*.deb"),
        (ProblemKind.INSTALL_FAILED, "reason", "; fix this, then run reboot-install"),
        (ProblemKind.NOT_LOADED, "reason", "; fix this, then run reboot-install"),
        (ProblemKind.VFS_FAILED, "reason", "; fix this, then run reboot-install"),
        (ProblemKind.SERVICE_DOWN, "service", "; fix this, then run reboot-install"),
        (ProblemKind.VGPUS_IN_USE_OR_FORCE, "vgpu", ", or use force=true"),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_long_argument_is_truncated_before_the_instruction(kind, argument, end):
    text = format_problem(Problem(kind, CARD, **{argument: "x" * 200}), APP)
    assert len(text) < 120
    assert "xxx..." in text
    assert text.endswith(end)


def test_braces_in_an_argument_are_not_expanded():
    problem = Problem(
        ProblemKind.OPTION_INVALID, option=mappings.OPTION.name, place="{app}", reason="{more} {0}"
    )
    assert format_problem(problem, APP) == "vgpu-device-mappings: {app}: {more} {0}"


def test_missing_argument_is_a_question_mark():
    problem = Problem.from_row(["virtual-functions-failed", "", {"why": "x"}])
    assert format_problem(problem, APP) == (
        "No virtual functions on ?: ?; fix this, then run reboot-install"
    )


# Status of the unit


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no-gpu", "", "Unit is ready: no supported NVIDIA GPU found"),
        ("no-gpu", PLAIN, "Unit is ready: no supported NVIDIA GPU found"),
        ("t4-pair", "", "Unit is ready: 2 NVIDIA GPUs, vgpu-device-mappings is not set"),
        (
            "t4-pair",
            "{nvidia-233: ['0000:99:00.0']}",
            "Unit is ready: 2 NVIDIA GPUs, none selected by vgpu-device-mappings",
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
            (
                "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type; Nova 25.2.1 offers nvidia-233 "
                "on every card that supports it, mapped or not"
            ),
        ),
    ],
)
def test_ready_status_states_what_the_unit_offers(host, name, text, message):
    assert unit_statuses(assessment(host(name), text), APP, NOON) == (
        Status(Level.ACTIVE, message),
    )


@pytest.mark.parametrize(
    ("name", "text", "level", "message"),
    [
        (
            "a100-sriov-off",
            "{A100-8C: ['10de:20f1']}",
            Level.WAITING,
            (
                "Waiting for virtual functions on 0000:41:00.0; see journalctl -u "
                "nova-compute-nvidia-vgpu"
            ),
        ),
        (
            "l40s-vendor-vfio",
            "{L40S-2Q: ['10de:26b9']}",
            Level.WAITING,
            "Waiting for L40S-2Q on 0000:3d:00.0; see journalctl -u nova-compute-nvidia-vgpu",
        ),
        (
            "t4-fresh",
            "{T4-8Q: ['0000:84:00.0']}",
            Level.WAITING,
            "Waiting for 0000:84:00.0 to report type T4-8Q; see journalctl -u nvidia-vgpud",
        ),
    ],
    ids=["virtual functions off", "vendor VFIO", "no driver yet"],
)
def test_mapping_that_cannot_be_offered_yet_is_the_status(host, name, text, level, message):
    assert unit_statuses(assessment(host(name), text), APP, NOON)[0] == Status(level, message)


def test_most_severe_status_is_first():
    statuses = unit_statuses(
        empty_host(
            Problem(ProblemKind.DPKG_LOCKED),
            Problem(ProblemKind.RESTART_PENDING, service="nvidia-vgpu-mgr"),
            Problem(ProblemKind.NOT_INSTALLED),
        ),
        APP,
        NOON,
    )
    assert [status.level for status in statuses] == [Level.BLOCKED, Level.WAITING, Level.ACTIVE]
    assert statuses[-1].message == (
        "Unit is ready: no supported NVIDIA GPU found; "
        "restart of nvidia-vgpu-mgr waits until no vGPU is in use"
    )


def test_first_of_equally_severe_statuses_stays_first():
    statuses = unit_statuses(
        empty_host(Problem(ProblemKind.NOT_INSTALLED), Problem(ProblemKind.RESOURCE_MISSING)),
        APP,
        NOON,
    )
    assert statuses[0].message == "Host software not installed; run action reboot-install"


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
    ids=["this unit", "this unit, without a daemon", "the principal"],
)
def test_pause_hides_all_other_statuses(masked, paused, message):
    statuses = unit_statuses(
        empty_host(
            Problem(ProblemKind.SERVICE_DOWN, service="x"),
            masked=masked,
            state=CharmState(paused=paused),
        ),
        APP,
        NOON,
    )
    assert statuses == (Status(Level.MAINTENANCE, message),)


def test_long_note_of_a_ready_unit_is_truncated():
    note = Problem(ProblemKind.TAKES_ALL_CARDS, nova="25.2.1", vgpu_type="nvidia-10")
    message = unit_statuses(empty_host(note), APP, NOON)[-1].message
    assert message.startswith("Unit is ready: no supported NVIDIA GPU found; Nova 25.2.1 offers")
    assert message.endswith("...")
    assert len(message) == 119


def test_ready_status_has_the_notes_that_fit_and_shows_that_there_are_more():
    notes = [
        Problem(ProblemKind.UPGRADE_PENDING, version="570.172.07"),
        Problem(ProblemKind.RESTART_PENDING, service="nvidia-vgpu-mgr"),
    ]
    assert unit_statuses(empty_host(*notes), APP, NOON)[-1].message == (
        "Unit is ready: no supported NVIDIA GPU found; "
        "host software 570.172.07 waits until no vGPU is in use; ..."
    )
