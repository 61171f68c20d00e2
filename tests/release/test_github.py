# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What GitHub reads: the workflow and the form for a bug."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SCHEMAS = [
    ("workflows/ci.yaml", "vendor.github-workflows"),
    ("workflows/ci.yaml", "custom.github-workflows-require-timeout"),
    ("ISSUE_TEMPLATE/bug.yaml", "vendor.github-issue-forms"),
    ("ISSUE_TEMPLATE/config.yaml", "vendor.github-issue-config"),
]


@pytest.fixture(scope="module")
def workflow(repository: Path) -> dict[Any, Any]:
    return yaml.safe_load((repository / ".github/workflows/ci.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def steps(workflow: dict[Any, Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: job["steps"] for name, job in workflow["jobs"].items()}


@pytest.mark.parametrize(("name", "schema"), SCHEMAS)
def test_github_takes_the_file(repository, name, schema):
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", schema, repository / ".github" / name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "ok -- validation done\n"), result.stdout


def test_it_may_read_and_nothing_else(workflow, steps):
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    for found in steps.values():
        assert found[0]["uses"].startswith("actions/checkout@")
        assert found[0]["with"]["persist-credentials"] is False


def test_no_text_of_others_reaches_a_shell(steps):
    commands = [step["run"] for found in steps.values() for step in found if "run" in step]
    assert not any("${{" in command for command in commands)


def test_actions_are_githubs_own_and_pinned_by_major_version(steps):
    actions = [step["uses"] for found in steps.values() for step in found if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v[0-9]+", action) for action in actions)


def test_it_runs_the_make_targets_that_a_maintainer_runs(repository, steps):
    called = {
        name: [word for step in found for word in re.findall(r"make (\S+)", step.get("run", ""))]
        for name, found in steps.items()
    }
    assert called == {"test": ["test"], "pack": ["test-pack"]}
    for words in called.values():
        subprocess.run(["make", "--dry-run", *words], cwd=repository, check=True)


def test_only_a_tag_is_packed_and_only_when_its_tests_pass(workflow):
    pack = workflow["jobs"]["pack"]
    assert pack["if"] == "github.ref_type == 'tag'"
    assert pack["needs"] == "test"
    assert workflow[True]["push"]["tags"] == ["*"]  # YAML 1.1 reads the key `on` so


def test_a_checkout_to_be_packed_brings_the_tags_that_name_the_version(steps):
    assert steps["pack"][0]["with"]["fetch-depth"] == 0


def test_the_form_asks_for_the_charms_own_report(repository):
    path = repository / ".github/ISSUE_TEMPLATE/bug.yaml"
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    actions = yaml.safe_load((repository / "actions.yaml").read_text(encoding="utf-8"))
    labels = [field["attributes"]["label"] for field in form["body"]]
    assert "show-plan" in labels
    assert "show-plan" in actions
