# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The result of the action show-plan."""

from __future__ import annotations

import json

import pytest

import recorded
from actions import show_plan
from gpu.problems import Problem, ProblemKind
from host.facts import gather
from nova_compute.compatibility import apply_release
from planning import mappings
from planning.plan import Plan, make_plan
from state.charm_state import CharmState
from status.assessment import Assessment

APP = "nova-compute-nvidia-vgpu"
UUID = recorded.UUIDS[0]


@pytest.fixture
def assess(host):
    """Return the assessment of a recorded host with a mapping."""

    def of(name, text, *, problems=(), change=lambda root: None, **changes):
        root = host(name, **changes)
        change(root)
        facts = gather(root, count=True)
        plan = apply_release(
            make_plan(mappings.requests(mappings.OPTION.parse(text)), facts.cards),
            facts.cards,
            facts.nova,
        )
        all_problems = (*problems, *plan.problems, *plan.notes)
        return Assessment(
            facts, plan, all_problems, CharmState(), needs_preparation=plan.preparation.is_pending
        )

    return of


def plan_text(assessment, published=()):
    """Return the result as if the preparation of the cards changed nothing."""
    return show_plan.plan_text(assessment, assessment, dict(published), APP)


def plan_json(assessment):
    return show_plan.plan_json(assessment, assessment, {}, APP)


def test_plan_shows_host_cards_and_sections(assess):
    text = "{T4-8Q: ['0000:84:00.0'], T4-4Q: ['0000:d8:00.0'], A40-2Q: ['10de:2235']}"

    def use_one(root):
        recorded.add_mdev(root, "0000:84:00.0", "nvidia-233", UUID)

    assessment = assess("t4-pair", text, change=use_one)
    assert plan_text(assessment) == (
        "nova:     25.2.1 (yoga)\n"
        "package:  nvidia-vgpu-ubuntu-535 535.161.05\n"
        "driver:   535.161.05 loaded\n"
        "kernel:   5.15.0-173-generic\n"
        "\n"
        "CARD          PCI ID     DRIVER  FRAMEWORK  FUNCTIONS  IN USE  OFFERS     "
        "              VGPUS  FREE\n"
        "0000:84:00.0  10de:1eb8  nvidia  mdev       -          1       nvidia-233 "
        "(GRID T4-8Q)  2      1\n"
        "0000:d8:00.0  10de:1eb8  nvidia  mdev       -          0       nvidia-232 "
        "(GRID T4-4Q)  4      4\n"
        "\n"
        "nova.conf:\n"
        "  [devices]\n"
        "  enabled_mdev_types = nvidia-233, nvidia-232\n"
        "\n"
        "  [mdev_nvidia-233]\n"
        "  device_addresses = 0000:84:00.0\n"
        "\n"
        "  [mdev_nvidia-232]\n"
        "  device_addresses = 0000:d8:00.0\n"
        "\n"
        "Flavor properties:\n"
        "  resources:VGPU=1  vGPU type nvidia-233 (GRID T4-8Q)\n"
        "  resources:VGPU=1  vGPU type nvidia-232 (GRID T4-4Q)\n"
        "\n"
        "Requests for other hosts:\n"
        "  - A40-2Q: 10de:2235"
    )


def test_plan_explains_why_nothing_is_published(assess):
    assessment = assess("a100-sriov-off", "{A100-8C: ['10de:20f1']}")
    assert plan_text(assessment) == (
        "nova:     25.2.1 (yoga)\n"
        "package:  nvidia-vgpu-ubuntu-aie-550 550.144.02\n"
        "driver:   550.144.02 loaded\n"
        "kernel:   5.15.0-173-generic\n"
        "\n"
        "CARD          PCI ID     DRIVER  FRAMEWORK  FUNCTIONS  IN USE  WILL OFFER "
        " VGPUS  FREE\n"
        "0000:41:00.0  10de:20f1  nvidia  -          off        0       -          "
        " -      -\n"
        "\n"
        "Pending changes:\n"
        "  - enable the virtual functions of 0000:41:00.0\n"
        "\n"
        "nova.conf: decided after the pending changes; until then nothing is "
        "published"
    )
    published = {"devices": [["enabled_mdev_types", "nvidia-233"]]}
    assert plan_text(assessment, published).endswith(
        "nova.conf: decided after the pending changes; until then unchanged:\n"
        "  [devices]\n"
        "  enabled_mdev_types = nvidia-233"
    )


def test_plan_of_an_empty_host(assess):
    assessment = assess("no-gpu", "", nova="3:34.0.0-0ubuntu1")
    assert plan_text(assessment) == (
        "nova:     34.0.0\n"
        "package:  not installed\n"
        "driver:   not loaded\n"
        "kernel:   5.15.0-173-generic\n"
        "\n"
        "no supported NVIDIA GPU found\n"
        "\n"
        "nova.conf: nothing is published"
    )


def test_plan_shows_that_nova_is_missing(host):
    facts = gather(host("no-gpu", nova=None))
    assessment = Assessment(
        facts, Plan(keeps_published=True), (Problem(ProblemKind.NOVA_MISSING),), CharmState()
    )
    text = plan_text(assessment)
    assert text.startswith("nova:     not installed\n")
    assert text.endswith("Problems:\n  - Waiting for nova-compute to install nova-common")
    assert json.loads(plan_json(assessment))["nova"] is None


@pytest.mark.parametrize("name", recorded.host_names())
def test_plan_has_no_trailing_blanks(assess, name):
    lines = plan_text(assess(name, "{nvidia-35: ['0000:84:00.0']}")).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []


def test_unknown_free_instances_are_a_question_mark(assess):
    assessment = assess("t4-fresh", "{nvidia-233: ['0000:84:00.0']}")
    row = plan_text(assessment).split("\n\n")[1].splitlines()[1]
    assert row.split() == [
        "0000:84:00.0", "10de:1eb8", "nouveau", "-", "-", "0", "nvidia-233", "?", "?",
    ]  # fmt: skip


def test_unknown_maximum_is_a_question_mark(assess):
    def remove_description(root):
        types = root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types"
        (types / "nvidia-233/description").write_text("")

    assessment = assess("t4-pair", "{T4-8Q: ['0000:84:00.0']}", change=remove_description)
    row = plan_text(assessment).split("\n\n")[1].splitlines()[1]
    assert row.split()[-2:] == ["?", "2"]


def test_plan_as_json(assess):
    text = "{T4-8Q: ['0000:84:00.0'], A40-2Q: ['10de:2235']}"
    assessment = assess("t4-pair", text, problems=(Problem(ProblemKind.DPKG_LOCKED),))
    assert json.loads(plan_json(assessment)) == {
        "nova": "25.2.1",
        "codename": "yoga",
        "driver": {
            "package": "nvidia-vgpu-ubuntu-535",
            "installed": "535.161.05",
            "loaded": "535.161.05",
        },
        "kernel": "5.15.0-173-generic",
        "paused": False,
        "trial": False,
        "whole_cards": [],
        "hardware": [],
        "cards": [
            {
                "address": "0000:84:00.0",
                "id": "10de:1eb8",
                "driver": "nvidia",
                "numa_node": 0,
                "framework": "mdev",
                "parents": ["0000:84:00.0"],
                "in_use": [],
                "offers": [{"type": "nvidia-233", "vgpus": 2, "free": 2}],
            },
            {
                "address": "0000:d8:00.0",
                "id": "10de:1eb8",
                "driver": "nvidia",
                "numa_node": 1,
                "framework": "mdev",
                "parents": ["0000:d8:00.0"],
                "in_use": [],
                "offers": [{"type": "nvidia-233", "vgpus": 2, "free": 2}],
            },
        ],
        "pending_changes": [],
        "keeps_published": False,
        "sections": {
            "devices": [["enabled_mdev_types", "nvidia-233"]],
            "mdev_nvidia-233": [["device_addresses", "0000:84:00.0"]],
        },
        "published": {},
        "aliases": [],
        "problems": [
            {
                "kind": "dpkg-locked",
                "text": "Waiting for another program to release the dpkg lock",
            },
            {
                "kind": "takes-all-cards",
                "text": "Nova 25.2.1 offers nvidia-233 on every card that supports it, "
                "mapped or not",
            },
        ],
        "for_other_hosts": ["A40-2Q: 10de:2235"],
    }


def test_json_of_a_plan_that_keeps_published_data(assess):
    assessment = assess("t4-fresh", "{T4-8Q: ['10de:1eb8']}")
    data = json.loads(plan_json(assessment))
    assert data["keeps_published"] is True
    assert data["sections"] == {}
    assert data["driver"] == {"package": None, "installed": None, "loaded": None}
    assert [problem["kind"] for problem in data["problems"]] == ["types-unknown"] * 2


@pytest.mark.parametrize(
    ("name", "text", "steps"),
    [
        (
            "a100-sriov-off",
            "{A100-1-5C: ['10de:20f1']}",
            [
                "switch 0000:41:00.0 to MIG mode and create GPU instances for A100-1-5C",
                "enable the virtual functions of 0000:41:00.0",
            ],
        ),
        (
            "a40-mdev",
            "{A40-2Q: ['41:00.4'], A40-4Q: ['41:00.5']}",
            ["switch mixed-size mode of 0000:41:00.0 on"],
        ),
        (
            "l40s-vendor-vfio",
            "{L40S-8Q: ['3d:00.0']}",
            ["assign nvidia-1152 (L40S-8Q) to virtual functions of 0000:3d:00.0"],
        ),
    ],
)
def test_plan_lists_pending_changes(assess, name, text, steps):
    assessment = assess(name, text)
    lines = "".join(f"  - {step}\n" for step in steps)
    assert (f"\n\nPending changes:\n{lines}\n") in plan_text(assessment)
    assert json.loads(plan_json(assessment))["pending_changes"] == steps


def test_plan_lists_the_end_of_mig_mode(assess):
    def partition(root):
        path = root / "run/nova-compute-nvidia-vgpu/modes.json"
        path.parent.mkdir(parents=True)
        path.write_text('{"0000:41:00.0": {"gpu_instances": [19, 19], "mixed_size": false}}')

    assessment = assess("a100-sriov-off", "{A100-20C: ['10de:20f1']}", change=partition)
    assert ("  - switch 0000:41:00.0 out of MIG mode\n") in plan_text(assessment)
