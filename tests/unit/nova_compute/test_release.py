# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Versions of Nova, and what each release supports."""

from __future__ import annotations

import pytest

from nova_compute.release import NovaVersion


@pytest.mark.parametrize(
    ("package_version", "version"),
    [
        ("2:17.0.13-0ubuntu5.3", (17, 0, 13)),
        ("3:25.2.1-0ubuntu2.9", (25, 2, 1)),
        ("3:29.2.0-0ubuntu1~cloud0", (29, 2, 0)),
        ("29.2.0", (29, 2, 0)),
        ("3:33.0.0~b2+git2026012114.1a2b3c4d-0ubuntu1", (33, 0, 0)),
        ("3:34.0-1", (34, 0, 0)),
        ("3:34-1", (34, 0, 0)),
    ],
)
def test_version_of_nova_common_is_read_without_epoch_and_revision(package_version, version):
    assert NovaVersion.parse(package_version) == NovaVersion(*version)


@pytest.mark.parametrize("text", ["", "unknown", ":17.0.0", "\u0662\u0665.0.0"])
def test_invalid_version_is_rejected(text):
    with pytest.raises(ValueError) as error:
        NovaVersion.parse(text)
    assert str(error.value) == f"not a version of Nova: {text!r}"


def test_versions_compare_as_numbers():
    assert NovaVersion(22, 2, 1) < NovaVersion(22, 10, 0) < NovaVersion(100)
    assert str(NovaVersion(22, 10)) == "22.10.0"


# major, codename, option prefix, addresses, several types, single type restricted, class, limit
RELEASES = [
    (16, None, "vgpu", False, False, False, False, False),
    (17, "queens", "vgpu", False, False, False, False, False),
    (18, "rocky", "vgpu", False, False, False, False, False),
    (19, "stein", "vgpu", False, False, False, False, False),
    (20, "train", "vgpu", False, False, False, False, False),
    (21, "ussuri", "vgpu", True, False, False, False, False),
    (22, "victoria", "vgpu", True, False, False, False, False),
    (23, "wallaby", "vgpu", True, True, False, False, False),
    (24, "xena", "mdev", True, True, False, True, False),
    (25, "yoga", "mdev", True, True, False, True, False),
    (26, "zed", "mdev", True, True, False, True, False),
    (27, "antelope", "mdev", True, True, False, True, False),
    (28, "bobcat", "mdev", True, True, False, True, False),
    (29, "caracal", "mdev", True, True, True, True, True),
    (30, "dalmatian", "mdev", True, True, True, True, True),
    (31, "epoxy", "mdev", True, True, True, True, True),
    (32, "flamingo", "mdev", True, True, True, True, True),
    (33, "gazpacho", "mdev", True, True, True, True, True),
    (34, None, "mdev", True, True, True, True, True),
    (99, None, "mdev", True, True, True, True, True),
]


@pytest.mark.parametrize(
    (
        "major",
        "codename",
        "prefix",
        "addresses",
        "several_types",
        "single_type",
        "mdev_class",
        "limit",
    ),
    RELEASES,
    ids=[str(row[0]) for row in RELEASES],
)
def test_capabilities_of_each_release(
    major, codename, prefix, addresses, several_types, single_type, mdev_class, limit
):
    nova = NovaVersion(major)
    assert nova.codename == codename
    assert nova.supports_vgpus is (major >= 17)
    assert nova.option_prefix == prefix
    assert nova.supports_device_addresses is addresses
    assert nova.supports_several_types is several_types
    assert nova.restricts_single_type is single_type
    assert nova.supports_mdev_class is mdev_class
    assert nova.supports_max_instances is limit


@pytest.mark.parametrize(
    ("version", "several_types"),
    [((21, 2, 4), False), ((22, 0, 0), False), ((22, 2, 0), False), ((22, 2, 1), True)],
)
def test_several_types_are_supported_from_22_2_1(version, several_types):
    assert NovaVersion(*version).supports_several_types is several_types
