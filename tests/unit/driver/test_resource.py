# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The attached resource: it is inspected once for each file."""

from __future__ import annotations

import os

import pytest

from driver import resource
from gpu.problems import Problem, ProblemKind
from state.charm_state import CharmState


@pytest.fixture
def host(machine):
    """A host whose driver was installed from elsewhere."""
    return machine("t4-pair")


def attach(host, **options):
    deb = host.make_deb(host.root.parent / "a.deb", **options)
    return CharmState(resource_path=str(deb))


def inspect(host, state):
    host.commands.clear()
    state = resource.ensure_inspected(host, state)
    return state, resource.inspected(state)


def test_file_is_inspected_once(host):
    state, first = inspect(host, attach(host))
    assert (first.package.name, first.package.version) == ("nvidia-vgpu-ubuntu-570", "570.172.07")
    state, second = inspect(host, state)
    assert second == first
    assert host.commands == []


def test_changed_file_is_inspected_again(host):
    state, _ = inspect(host, attach(host))
    attach(host, version="570.200.01")
    os.utime(state.resource_path, ns=(1, 1))
    assert inspect(host, state)[1].package.version == "570.200.01"


def test_deleted_file_is_missing(host):
    state, _ = inspect(host, attach(host))
    os.unlink(state.resource_path)
    assert inspect(host, state)[1].problem == Problem(ProblemKind.RESOURCE_MISSING)


def test_resource_that_is_not_attached_is_missing(host):
    state, missing = inspect(host, CharmState())
    assert missing.problem == Problem(ProblemKind.RESOURCE_MISSING)
    assert (state, host.commands) == (CharmState(), [])


def test_problem_of_a_file_is_recorded(host):
    state, first = inspect(host, attach(host, architecture="arm64"))
    assert first.problem == Problem(
        ProblemKind.RESOURCE_INVALID, reason="it is for arm64, not amd64"
    )
    assert inspect(host, state) == (state, first)
    assert host.commands == []


@pytest.mark.parametrize("inspection", [("kind-of-a-later-revision", "", {}), (), ("archive", 7)])
def test_inspection_of_another_revision_is_repeated(host, inspection):
    state, first = inspect(host, attach(host))
    assert inspect(host, state._replace(resource_inspection=inspection)) == (state, first)


def test_further_fields_of_a_later_revision_are_ignored(host):
    state, first = inspect(host, attach(host))
    later = state._replace(resource_inspection=(*state.resource_inspection, "x"))
    assert inspect(host, later)[1] == first
