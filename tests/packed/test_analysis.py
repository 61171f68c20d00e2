# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the linters of charms and of shell say."""

from __future__ import annotations

import json
import subprocess

import built
import pytest
from built import BASES, PLATFORMS, REPOSITORY

import interpreters

CHARMLINT = REPOSITORY / "build/charmlint"
EXPLAINED = {
    "ACTIONS-001",  # charm.py observes its actions in a loop, which charmlint cannot read
    "METADATA-006",  # no place for issues and source is known to the charm itself
    "METADATA-007",
    "TESTING-001",  # the tests are not shipped
}
SCRIPTS = ("dispatch", "packing/dependencies", "packing/setup")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_charmcraft_finds_nothing(platform):
    command = [built.CHARMCRAFT / "charmcraft", "analyse", "--format", "json"]
    result = subprocess.run(
        [*command, built.charm(platform)], check=False, capture_output=True, text=True
    )
    found = {row["name"]: row for row in json.loads(result.stdout)}
    # It checks the Python that runs charmcraft, not what the charm ships: see the next test.
    del found["pip-check"]
    assert {name: row["result"] for name, row in found.items()} == {
        "language": "python",
        "framework": "operator",
        "juju-actions": "ok",
        "juju-config": "ok",
        "metadata": "ok",
        "naming-conventions": "ok",
        "entrypoint": "ok",
        "ops-main-call": "ok",
        "pydeps": "ok",
        # Only where the charm was just built.
        "additional-files": "nonapplicable",
    }


@pytest.mark.parametrize("base", BASES)
def test_nothing_that_is_shipped_lacks_what_it_needs(base, unpacked):
    python = interpreters.find(BASES[base])
    if python is None:
        pytest.skip(f"no Python {BASES[base]} here")
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
    """The program, on a Python that it takes."""
    python = interpreters.find("3.13") or interpreters.find("3.12") or interpreters.find("3.14")
    if python is None:
        pytest.skip("no Python 3.12 or newer here, which charmlint needs")
    if not (CHARMLINT / "bin/charmlint").exists():
        subprocess.run([python, "-m", "venv", "--clear", CHARMLINT], check=True)
        pip = [CHARMLINT / "bin/python", "-m", "pip", "-q", "install"]
        subprocess.run([*pip, "charmlint==0.3.0"], check=True)
    return CHARMLINT / "bin/charmlint"


def test_charmlint_finds_nothing(charmlint, unpacked):
    charm = unpacked("ubuntu@22.04:amd64")
    result = subprocess.run(
        [charmlint, "--format", "json", charm], check=False, capture_output=True, text=True
    )
    found = json.loads(result.stdout)["diagnostics"]
    assert [row["message"] for row in found if row["rule_id"] not in EXPLAINED] == []
    assert {row["rule_id"] for row in found} == EXPLAINED


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_is_posix_and_clean(script):
    result = subprocess.run(
        ["shellcheck", "--shell=sh", REPOSITORY / script],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.stdout == ""
    assert result.returncode == 0
