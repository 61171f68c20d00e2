# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Sections of nova.conf for each release of Nova."""

from __future__ import annotations

import configparser

import pytest

from gpu.pci import PciAddress
from nova_compute.nova_conf import render, with_kept
from nova_compute.release import NovaVersion
from planning.plan import Assignment

M10 = (PciAddress(0, 0x84, 0, 0), PciAddress(0, 0x85, 0, 0))
ONE = Assignment("nvidia-35", M10)
OTHER = Assignment("nvidia-36", (PciAddress(0, 0xAF, 0, 0),))


@pytest.mark.parametrize("major", [17, 18, 19, 20])
def test_queens_to_train_have_only_the_list_of_types(major):
    assert render([ONE, OTHER], NovaVersion(major)) == {
        "devices": [("enabled_vgpu_types", "nvidia-35, nvidia-36")]
    }


@pytest.mark.parametrize("major", [21, 22, 23])
def test_ussuri_to_wallaby_have_sections_under_the_old_name(major):
    assert render([ONE, OTHER], NovaVersion(major)) == {
        "devices": [("enabled_vgpu_types", "nvidia-35, nvidia-36")],
        "vgpu_nvidia-35": [("device_addresses", "0000:84:00.0,0000:85:00.0")],
        "vgpu_nvidia-36": [("device_addresses", "0000:af:00.0")],
    }


@pytest.mark.parametrize("major", [24, 25, 28, 29, 31, 34, 50])
def test_xena_and_later_have_sections_under_the_new_name(major):
    assert render([ONE, OTHER], NovaVersion(major)) == {
        "devices": [("enabled_mdev_types", "nvidia-35, nvidia-36")],
        "mdev_nvidia-35": [("device_addresses", "0000:84:00.0,0000:85:00.0")],
        "mdev_nvidia-36": [("device_addresses", "0000:af:00.0")],
    }


def test_class_and_limit_are_in_the_section_of_the_type():
    assignment = Assignment("nvidia-35", M10, max_instances=4, resource_class="CUSTOM_A")
    assert render([assignment], NovaVersion(29))["mdev_nvidia-35"] == [
        ("device_addresses", "0000:84:00.0,0000:85:00.0"),
        ("mdev_class", "CUSTOM_A"),
        ("max_instances", "4"),
    ]


def test_no_section_is_rendered_without_types():
    assert render([], NovaVersion(29)) == {}


def test_order_of_the_types_is_kept():
    sections = render([OTHER, ONE], NovaVersion(21))
    assert sections["devices"] == [("enabled_vgpu_types", "nvidia-36, nvidia-35")]


def test_rendered_sections_are_valid_ini():
    sections = render([ONE, OTHER], NovaVersion(29))
    lines = [
        line
        for name, pairs in sections.items()
        for line in (f"[{name}]", *(f"{key} = {value}" for key, value in pairs))
    ]
    reader = configparser.ConfigParser(interpolation=None)
    reader.read_string("\n".join(lines))
    assert reader.sections() == ["devices", "mdev_nvidia-35", "mdev_nvidia-36"]


@pytest.mark.parametrize(
    "type_id",
    [
        "nvidia-35\nvirt_type = qemu",
        "nvidia-35\n",
        "nvidia-35, nvidia-36",
        "nvidia-35]",
        "nvidia 35",
        "T4-8Q",
        "35",
        "",
        "nvidia-\uff13\uff15",
    ],
    ids=ascii,
)
def test_invalid_type_id_is_never_rendered(type_id):
    with pytest.raises(ValueError) as error:
        render([Assignment(type_id, M10)], NovaVersion(17))
    assert str(error.value) == f"not a type ID for nova.conf: {type_id!r}"


@pytest.mark.parametrize(
    "name", ["CUSTOM_A\nx = y", "custom_a", "PCPU", "CUSTOM_", "VGPU\n"], ids=ascii
)
def test_invalid_resource_class_is_never_rendered(name):
    with pytest.raises(ValueError) as error:
        render([Assignment("nvidia-35", M10, resource_class=name)], NovaVersion(29))
    assert str(error.value) == f"not a resource class for nova.conf: {name!r}"


def test_invalid_limit_is_never_rendered():
    with pytest.raises(ValueError, match="invalid literal"):
        render([Assignment("nvidia-35", M10, max_instances="4\nx = y")], NovaVersion(29))


@pytest.mark.parametrize(
    "value", ['"type-VF" "10de"', '["type-VF", "10de"]', '{"type-VF": "10de"}']
)
def test_alias_without_a_name_that_another_revision_published_stays(value):
    published = {"pci": [("alias", value)]}
    offered = {"pci": [("device_spec", "{}"), ("alias", '{"name": "t4"}')]}
    kept = with_kept(offered, published, keeps_vgpus=True, keeps_whole_cards=False)
    assert kept == {"pci": [("alias", value), *offered["pci"]]}
