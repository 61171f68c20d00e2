# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The boot service, and what it does to the cards of recorded hosts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import boot
import recorded
from cards import prepare
from gpu.card import Framework
from gpu.problems import HostError, Problem, ProblemKind
from host.facts import gather
from planning import mappings
from state import charm_state as memories
from state.charm_state import CharmState

CHARM = Path("/var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm")
UNIT_FILE = "etc/systemd/system/nova-compute-nvidia-vgpu.service"
RESULT = "run/nova-compute-nvidia-vgpu/result.json"
WISH = "{A40-8Q: ['10de:2235']}"


@pytest.fixture
def a40(machine):
    """An A40 just after a boot."""
    return machine(recorded.without_functions("a40-mdev"))


def ensure(host, text=WISH):
    pauses = []
    requests = mappings.requests(mappings.parse(text))
    return prepare.prepare_cards(host.root, host, requests, sleep=pauses.append), pauses


def run_at_boot(host, **remembered):
    memories.save(host.root, CharmState(**remembered))
    return boot.main(host.root, host)


# What it does


def test_a_type_given_by_name_gets_its_card_virtual_functions(a40):
    assert run_at_boot(a40, requested_mapping=WISH) == 0
    (card,) = gather(a40.root).cards
    assert (card.framework, len(card.parents)) == (Framework.MDEV, 32)
    assert json.loads((a40.root / RESULT).read_text()) == []


def test_it_is_idempotent(a40):
    run_at_boot(a40, requested_mapping=WISH)
    before = len(a40.commands)
    assert run_at_boot(a40, requested_mapping=WISH) == 0
    assert len(a40.commands) == before


@pytest.mark.parametrize(
    "wish",
    ["", "{A40-8Q: ['0000:99:00.0']}", "{T4-8Q: ['10de:1eb8']}"],
    ids=["nothing-asked-for", "a-card-of-another-host", "another-model"],
)
def test_a_card_that_is_not_named_is_left_alone(a40, wish):
    assert run_at_boot(a40, requested_mapping=wish) == 0
    assert a40.commands == []


def test_while_paused_nothing_is_done(a40):
    assert run_at_boot(a40, requested_mapping=WISH, paused=True) == 0
    assert a40.commands == []


def test_cards_are_ready_before_nova_is_installed(machine):
    host = machine({**recorded.without_functions("a40-mdev"), "nova": None})
    assert run_at_boot(host, requested_mapping=WISH) == 0
    assert len(gather(host.root).cards[0].parents) == 32


def test_a_card_without_sriov_needs_nothing(machine):
    host = machine("t4-pair")
    assert run_at_boot(host, requested_mapping="{T4-8Q: ['10de:1eb8']}") == 0
    assert host.commands == []


def test_a_card_under_another_driver_is_left_alone(machine):
    data = recorded.without_functions("a40-mdev")
    data["functions"] = [{**card, "driver": "vfio-pci"} for card in data["functions"]]
    host = machine(data)
    assert run_at_boot(host, requested_mapping=WISH) == 0
    assert host.commands == []


def test_one_card_that_fails_stops_no_other(machine):
    data = recorded.without_functions("a40-mdev")
    second = {**data["functions"][0], "address": "0000:c1:00.0"}
    data["functions"] = [data["functions"][0], second]
    host = machine(data)
    host.fail("/usr/lib/nvidia/sriov-manage -e 0000:41:00.0", output="Cannot obtain unbindLock\n")
    problems, _ = ensure(host)
    assert problems == (
        Problem(ProblemKind.VFS_FAILED, "0000:41:00.0", "Cannot obtain unbindLock"),
    )
    assert [len(card.parents) for card in gather(host.root).cards] == [0, 32]


def test_the_driver_is_given_time_to_tell_its_types(machine):
    """Before they tell, mdev and vendor-specific VFIO look alike: nvidia-vgpud runs again."""
    data = recorded.without_functions("a40-mdev")
    data["functions"] = [
        {**card, "sriov": {**card["sriov"], "framework": None}} for card in data["functions"]
    ]
    host = machine(data)
    problems, pauses = ensure(host)
    assert problems == (Problem(ProblemKind.TYPES_UNKNOWN, "0000:41:00.0", "A40-8Q"),)
    assert host.did("systemctl restart") == [("systemctl", "restart", "nvidia-vgpud")]
    assert len(pauses) == 20


def test_a_failure_is_told_to_the_next_hook_and_to_systemd(a40, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    a40.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    memories.save(a40.root, CharmState(requested_mapping=WISH))
    requests = mappings.requests(mappings.parse(WISH))
    problems = prepare.prepare_cards(a40.root, a40, requests, sleep=lambda _: None)
    assert problems == (
        Problem(ProblemKind.VFS_FAILED, "0000:41:00.0", "Cannot obtain unbindLock"),
    )


def test_a_wish_that_another_revision_remembered_and_this_one_refuses_is_told(a40):
    assert run_at_boot(a40, requested_mapping="[") == 1
    assert [problem.kind for problem in boot.failures(a40.root)] == [ProblemKind.MAPPING_SYNTAX]


@pytest.mark.parametrize("text", ["", "{", "[[]]", '[["unknown", "", "", ""]]', "[1]"])
def test_a_result_that_cannot_be_read_is_none(a40, text):
    path = a40.root / RESULT
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert boot.failures(a40.root) == ()


# The unit


def test_the_unit_stands_between_nvidia_and_nova(a40):
    assert boot.ensure_unit(a40.root, a40, CHARM) is True
    assert (a40.root / UNIT_FILE).read_text() == (
        "# Written by the charm nova-compute-nvidia-vgpu, which removes it when it goes.\n"
        "[Unit]\n"
        "Description=NVIDIA vGPUs for Nova, as asked of Juju\n"
        "Documentation=https://docs.openstack.org/nova/latest/admin/virtual-gpu.html\n"
        "After=nvidia-vgpud.service nvidia-vgpu-mgr.service\n"
        "Before=nova-compute.service\n"
        f"ConditionPathExists={CHARM}/src/boot.py\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        f"Environment=PYTHONPATH={CHARM}/lib:{CHARM}/venv PYTHONDONTWRITEBYTECODE=1\n"
        "RemainAfterExit=yes\n"
        f"ExecStart={sys.executable} -W ignore {CHARM}/src/boot.py\n"
        f"ExecStop={sys.executable} -W ignore {CHARM}/src/boot.py record\n"
        "TimeoutStartSec=600\n"
        "TimeoutStopSec=30\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )
    assert a40.commands == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "nova-compute-nvidia-vgpu"),
    ]


def test_a_unit_that_is_there_costs_no_program(a40):
    boot.ensure_unit(a40.root, a40, CHARM)
    a40.commands.clear()
    assert boot.ensure_unit(a40.root, a40, CHARM) is False
    assert a40.commands == []


def test_a_unit_of_another_revision_is_refreshed(a40):
    boot.ensure_unit(a40.root, a40, Path("/somewhere/else"))
    assert boot.ensure_unit(a40.root, a40, CHARM) is True
    assert str(CHARM) in (a40.root / UNIT_FILE).read_text()


@pytest.mark.parametrize("folder", ["/a b", "/a%n", "/a\nExecStart=/bin/id", "/a$b", "a"])
def test_a_folder_that_systemd_would_read_otherwise_is_refused(a40, folder):
    with pytest.raises(HostError) as error:
        boot.ensure_unit(a40.root, a40, Path(folder))
    assert error.value.problem.kind is ProblemKind.BOOT_SERVICE_FAILED
    assert not (a40.root / UNIT_FILE).exists()


def test_a_unit_that_systemd_has_not_read_is_told_again(a40):
    """The hook may be killed in between, and finds its text there the next time."""
    boot.ensure_unit(a40.root, a40, Path("/of/another/revision"))
    a40.fail("systemctl daemon-reload")
    with pytest.raises(HostError):
        boot.ensure_unit(a40.root, a40, CHARM)
    a40.repair("systemctl daemon-reload")
    assert boot.ensure_unit(a40.root, a40, CHARM) is True
    assert boot.ensure_unit(a40.root, a40, CHARM) is False


def test_a_systemd_that_refuses_is_told(a40):
    a40.fail("systemctl enable")
    with pytest.raises(HostError) as error:
        boot.ensure_unit(a40.root, a40, CHARM)
    assert error.value.problem == Problem(
        ProblemKind.BOOT_SERVICE_FAILED, "systemctl enable failed"
    )


def test_removing_leaves_nothing(a40):
    boot.ensure_unit(a40.root, a40, CHARM)
    run_at_boot(a40, requested_mapping=WISH)
    boot.remove_unit(a40.root, a40)
    boot.remove_unit(a40.root, a40)
    left = [path for path in a40.root.rglob("*nova-compute-nvidia-vgpu*") if not path.is_dir()]
    assert left == []
    assert list((a40.root / "run").rglob("result.json")) == []
