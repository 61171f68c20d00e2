# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The format of the changelog, and whether it covers all options and actions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Known limits"]
HEADING = re.compile(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}")


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_versions_are_dated_with_the_newest_first(text):
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings
    assert all(HEADING.fullmatch(heading) for heading in headings)
    dates = [heading.rpartition(" ")[2] for heading in headings if "Unreleased" not in heading]
    assert dates == sorted(dates, reverse=True)
    assert "[Unreleased]" not in headings[1:]


def test_changes_have_known_categories_in_order(text):
    for version in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds]


def test_every_option_and_action_that_the_legacy_charm_lacks_is_listed(text, repository, options):
    actions = yaml.safe_load((repository / "actions.yaml").read_text(encoding="utf-8"))
    in_legacy_charm = {"vgpu-device-mappings", "force-install-nvidia-vgpu", "list-vgpu-types"}
    for name in {*options, *actions} - in_legacy_charm:
        assert f"`{name}`" in text
