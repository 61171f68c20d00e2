# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The files that GitHub reads: the workflow and the bug report form."""

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
def test_the_file_matches_githubs_schema(repository, name, schema):
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", schema, repository / ".github" / name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "ok -- validation done\n"), result.stdout


def test_the_workflow_has_only_read_permission(workflow, steps):
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    for job_steps in steps.values():
        assert job_steps[0]["uses"].startswith("actions/checkout@")
        assert job_steps[0]["with"]["persist-credentials"] is False


def test_no_expression_is_expanded_in_a_shell_command(steps):
    commands = [step["run"] for job_steps in steps.values() for step in job_steps if "run" in step]
    assert not any("${{" in command for command in commands)


def test_actions_are_githubs_own_and_pinned_to_a_major_version(steps):
    actions = [
        step["uses"] for job_steps in steps.values() for step in job_steps if "uses" in step
    ]
    assert all(re.fullmatch(r"actions/[a-z-]+@v[0-9]+", action) for action in actions)


def test_the_workflow_runs_existing_make_targets(repository, steps):
    targets = {
        name: [
            target
            for step in job_steps
            for target in re.findall(r"make (\S+)", step.get("run", ""))
        ]
        for name, job_steps in steps.items()
    }
    assert targets == {"test": ["test"], "pack": ["test-pack"]}
    for job_targets in targets.values():
        subprocess.run(["make", "--dry-run", *job_targets], cwd=repository, check=True)


def test_only_tags_are_packed_after_their_tests_pass(workflow):
    pack = workflow["jobs"]["pack"]
    assert pack["if"] == "github.ref_type == 'tag'"
    assert pack["needs"] == "test"
    assert workflow[True]["push"]["tags"] == ["*"]  # YAML 1.1 reads the key `on` as true


def test_the_pack_job_fetches_the_tags_for_the_version(steps):
    assert steps["pack"][0]["with"]["fetch-depth"] == 0


def test_the_bug_form_asks_for_the_output_of_show_plan(repository):
    path = repository / ".github/ISSUE_TEMPLATE/bug.yaml"
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    actions = yaml.safe_load((repository / "actions.yaml").read_text(encoding="utf-8"))
    labels = [field["attributes"]["label"] for field in form["body"]]
    assert "show-plan" in labels
    assert "show-plan" in actions
