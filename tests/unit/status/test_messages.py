# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Every kind of problem has a message, a level and its documentation, and its arguments match."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gpu.problems import OBSTACLES, Problem, ProblemKind
from status import messages
from status.messages import MESSAGES
from status.unit_status import format_problem

ROOT = Path(__file__).parents[3]
FIELD = re.compile(r"\{([a-z_]+)\}")
LOCATIONS = {"address", "app"}


def fields(kind):
    return set(FIELD.findall(MESSAGES[kind].template)) - LOCATIONS


def constructions():
    """Return kind, keywords and position of each `Problem(ProblemKind.X, ...)` in the charm."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                kind = node.args[0]
                if isinstance(kind, ast.Attribute):
                    keywords = {keyword.arg for keyword in node.keywords}
                    yield ProblemKind[kind.attr], keywords, len(node.args) > 1


def test_every_kind_has_a_message_with_a_cause():
    assert set(ProblemKind) - set(MESSAGES) == set(), "add a message to status/messages.py"
    assert all(message.cause.endswith(".") for message in MESSAGES.values())


def test_whatever_keeps_a_card_from_offering_vgpus_is_an_obstacle():
    text = (ROOT / "src/host/obstacles.py").read_text(encoding="utf-8")
    kinds = {ProblemKind[name] for name in re.findall(r"ProblemKind\.([A-Z_]+)", text)}
    assert kinds == OBSTACLES, "see OBSTACLES in gpu/problems.py"


def test_problems_have_the_arguments_of_their_messages():
    found = list(constructions())
    assert len(found) > 50
    for kind, keywords, has_address in found:
        assert keywords == fields(kind), kind
        assert has_address is ("{address}" in MESSAGES[kind].template), kind


@pytest.mark.parametrize("length", [1, 12, 60, 500])
@pytest.mark.parametrize("kind", ProblemKind, ids=lambda kind: kind.value)
def test_no_message_is_longer_than_juju_status_shows(kind, length):
    arguments = dict.fromkeys(fields(kind), "x" * length)
    text = format_problem(Problem(kind, **arguments), "nova-compute-nvidia-vgpu")
    assert 0 < len(text) < 120
    assert FIELD.search(text) is None


def test_other_texts_fit_as_well():
    texts = (
        messages.INSTALLING,
        messages.PREPARING,
        messages.REBOOT_LATER,
        messages.REBOOT_NEEDED,
        messages.REBOOT_NOT_NEEDED,
        messages.REBOOT_SCHEDULED,
        messages.TOO_LARGE,
    )
    assert all(0 < len(text) < 120 for text in texts)


def test_journal_is_always_named():
    for message in MESSAGES.values():
        assert "journal" not in message.template or "journalctl -u " in message.template
