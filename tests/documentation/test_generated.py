# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and pictures are those that the code and the sources make; all tables are shown."""

from __future__ import annotations

import documents
import pictures
import pytest
import tables
import yaml

from nova_compute.release import NovaVersion

PATHS = documents.paths()
README = (documents.ROOT / "README.md").read_text(encoding="utf-8")
UPDATE = "run `make update-docs`"


@pytest.mark.parametrize("path", PATHS, ids=documents.name)
def test_tables_are_up_to_date(path):
    text = path.read_text(encoding="utf-8")
    assert tables.insert(text) == text, UPDATE


def test_every_table_is_in_a_document():
    shown = {name for path in PATHS for name in tables.names(path.read_text(encoding="utf-8"))}
    assert shown == set(tables.TABLES)


@pytest.mark.parametrize(
    ("picture", "source"), pictures.sources(), ids=lambda value: getattr(value, "name", "")
)
def test_picture_is_drawn_from_its_source(picture, source):
    assert pictures.is_current(picture, source), UPDATE


def test_no_picture_is_left_over():
    drawn = {picture for picture, _ in pictures.sources()}
    assert {*pictures.FOLDER.glob("*.svg")} == drawn


@pytest.mark.parametrize("name", ["config.yaml", "actions.yaml"])
def test_readme_lists_every_option_and_action(name):
    data = yaml.safe_load((documents.ROOT / name).read_text(encoding="utf-8"))
    for item in data.get("options", data):
        assert f"`{item}`" in README


# Of whole cards, or followed from others; docs/reference/releases.md lists them by hand.
OTHER_ABILITIES = {
    *("supports_vgpus", "supports_device_addresses", "supports_managed", "supports_alias_class"),
    *("supports_numa_socket", "supports_report_in_placement"),
}


def test_table_of_releases_has_all_abilities_of_nova():
    abilities = {
        name for name in vars(NovaVersion) if name.startswith(("supports_", "restricts_"))
    }
    assert abilities - OTHER_ABILITIES == set(tables.ABILITIES.values())


def test_table_of_releases_ends_with_the_newest_one():
    assert NovaVersion(tables.NEWEST + 1).codename is None, "raise NEWEST"
