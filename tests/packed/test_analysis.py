# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The linters for charms and for shell scripts report nothing unexpected."""

from __future__ import annotations

import json
import subprocess

import built
import pytest
from built import BASES, PLATFORMS, REPOSITORY

import interpreters

CHARMLINT = REPOSITORY / "build/charmlint"
EXPECTED = {
    "ACTIONS-001",  # charm.py observes its actions in a loop, which charmlint does not recognise
    "METADATA-006",  # the metadata has no addresses for issues and source
    "METADATA-007",
    "TESTING-001",  # the tests are not shipped
}
SCRIPTS = ("dispatch", "packing/dependencies", "packing/setup")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_charmcraft_analyse_reports_no_problem(platform):
    command = [built.CHARMCRAFT / "charmcraft", "analyse", "--format", "json"]
    result = subprocess.run(
        [*command, built.charm(platform)], check=False, capture_output=True, text=True
    )
    results = {row["name"]: row for row in json.loads(result.stdout)}
    # This checks the Python that runs charmcraft, not the charm's dependencies: see the next test.
    del results["pip-check"]
    assert {name: row["result"] for name, row in results.items()} == {
        "language": "python",
        "framework": "operator",
        "juju-actions": "ok",
        "juju-config": "ok",
        "metadata": "ok",
        "naming-conventions": "ok",
        "entrypoint": "ok",
        "ops-main-call": "ok",
        "pydeps": "ok",
        # Applies only when charmcraft has just built the charm.
        "additional-files": "nonapplicable",
    }


@pytest.mark.parametrize("base", BASES)
def test_shipped_packages_have_all_their_dependencies(base, unpacked):
    python = interpreters.find(BASES[base])
    if python is None:
        pytest.skip(f"Python {BASES[base]} is not installed")
    charm = unpacked(f"ubuntu@{base}:amd64")
    result = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "check"],
        env={"PYTHONPATH": str(charm / "venv")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "No broken requirements found.\n"


@pytest.fixture(scope="session")
def charmlint():
    """The program charmlint, on a Python that it supports."""
    python = interpreters.find("3.13") or interpreters.find("3.12") or interpreters.find("3.14")
    if python is None:
        pytest.skip("charmlint needs Python 3.12 or newer, which is not installed")
    if not (CHARMLINT / "bin/charmlint").exists():
        subprocess.run([python, "-m", "venv", "--clear", CHARMLINT], check=True)
        pip = [CHARMLINT / "bin/python", "-m", "pip", "-q", "install"]
        subprocess.run([*pip, "charmlint==0.3.0"], check=True)
    return CHARMLINT / "bin/charmlint"


def test_charmlint_reports_only_expected_findings(charmlint, unpacked):
    charm = unpacked("ubuntu@22.04:amd64")
    result = subprocess.run(
        [charmlint, "--format", "json", charm], check=False, capture_output=True, text=True
    )
    diagnostics = json.loads(result.stdout)["diagnostics"]
    assert [row["message"] for row in diagnostics if row["rule_id"] not in EXPECTED] == []
    assert {row["rule_id"] for row in diagnostics} == EXPECTED


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_scripts_are_posix_and_clean(script):
    result = subprocess.run(
        ["shellcheck", "--shell=sh", REPOSITORY / script],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stdout == ""
    assert result.returncode == 0
