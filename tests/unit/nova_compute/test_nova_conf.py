# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import configparser

import pytest

from gpu.pci import PciAddress
from nova_compute.nova_conf import render
from nova_compute.release import NovaVersion
from planning.plan import Assignment

M10 = (PciAddress(0, 0x84, 0, 0), PciAddress(0, 0x85, 0, 0))
ONE = Assignment("nvidia-35", M10)
OTHER = Assignment("nvidia-36", (PciAddress(0, 0xAF, 0, 0),))


@pytest.mark.parametrize("major", [17, 18, 19, 20])
def test_queens_to_train_know_the_types_only(major):
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


def test_class_and_limit_stand_beside_the_addresses():
    found = Assignment("nvidia-35", M10, max_instances=4, resource_class="CUSTOM_A")
    assert render([found], NovaVersion(29))["mdev_nvidia-35"] == [
        ("device_addresses", "0000:84:00.0,0000:85:00.0"),
        ("mdev_class", "CUSTOM_A"),
        ("max_instances", "4"),
    ]


def test_nothing_offered_is_no_section_rather_than_an_empty_list():
    assert render([], NovaVersion(29)) == {}


def test_order_of_the_types_is_kept_since_the_first_may_count_alone():
    sections = render([OTHER, ONE], NovaVersion(21))
    assert sections["devices"] == [("enabled_vgpu_types", "nvidia-36, nvidia-35")]


def test_ini_reader_finds_what_was_rendered():
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
def test_type_that_is_no_plain_word_reaches_no_file(type_id):
    with pytest.raises(ValueError) as error:
        render([Assignment(type_id, M10)], NovaVersion(17))
    assert str(error.value) == f"not a type ID for nova.conf: {type_id!r}"


@pytest.mark.parametrize(
    "name", ["CUSTOM_A\nx = y", "custom_a", "PCPU", "CUSTOM_", "VGPU\n"], ids=ascii
)
def test_class_that_is_no_plain_word_reaches_no_file(name):
    with pytest.raises(ValueError) as error:
        render([Assignment("nvidia-35", M10, resource_class=name)], NovaVersion(29))
    assert str(error.value) == f"not a resource class for nova.conf: {name!r}"


def test_limit_that_is_no_number_reaches_no_file():
    with pytest.raises(ValueError, match="invalid literal"):
        render([Assignment("nvidia-35", M10, max_instances="4\nx = y")], NovaVersion(29))
