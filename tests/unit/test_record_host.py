# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A recorded host is recorded again from its own tree, with all that the tree shows."""

from __future__ import annotations

import pytest
import yaml

import record_host
import recorded

VENDORS = ("10de", "15b3")
NOT_SHOWN = ("types", "mig", "mixed-size", "mixed")  # only NVIDIA's driver and programs know them


@pytest.mark.parametrize("name", recorded.host_names())
def test_recording_a_host_gives_what_its_tree_was_built_from(host, name):
    original = recorded.host(name)
    found = record_host.record(host(name))
    for key in ("kernel", "nova", "driver"):
        assert (found[key] or None) == (original.get(key) or None)
    for function in found["functions"]:
        del function["iommu-group"]
        if function.get("sriov", {"enabled": 1})["enabled"] == 0:  # then nothing shows it
            function["sriov"]["framework"] = "mdev"
    assert found["functions"] == [
        {
            key: value
            for key, value in function.items()
            if key not in (*NOT_SHOWN, "iommu-group")
            if value is not None
        }
        for function in sorted(original["functions"], key=lambda function: function["address"])
        if function["id"][:4] in VENDORS
    ]
    assert yaml.safe_load(yaml.safe_dump(found)) == found
