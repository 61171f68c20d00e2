# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any parameters of an action: it returns printable text or valid JSON, or fails with a reason."""

from __future__ import annotations

import json

import checks
import hostile
from examples import fuzzed
from hypothesis import strategies as st
from ops import testing
from units import unit_on

FORMATS = st.one_of(st.sampled_from(["json", "text"]), hostile.texts(20))
HOSTS = st.sampled_from(["t4-pair", "l40s-vendor-vfio"])


def run_action(unit, action, **params):
    """Run an action and check its output, or the message with which it fails."""
    try:
        text = unit.action(action, **params).get("output", "")
    except testing.ActionFailed as failed:
        checks.status("blocked", failed.message)
        return
    checks.action_output(text)
    if params.get("format") == "json":
        assert json.loads(text) is not None


@fuzzed(share=0.1, host=HOSTS, text=hostile.mappings(), style=FORMATS)
def test_show_plan_accepts_any_mapping(folder, host, text, style):
    with unit_on(folder, host) as unit:
        run_action(unit, "show-plan", mappings=text, format=style)
        assert not (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu").exists()


@fuzzed(share=0.03, host=HOSTS, style=FORMATS, force=st.booleans(), text=hostile.type_names())
def test_other_actions_return_output_or_fail_with_a_reason(folder, host, style, force, text):
    with unit_on(folder, host) as unit:
        for name in unit.machine.root.glob("sys/devices/*/*/mdev_supported_types/*/name"):
            name.write_bytes(hostile.encoded(text))
        run_action(unit, "list-vgpu-types", format=style)
        run_action(unit, "reboot-install", force=force, i_really_mean_it=not force)
        run_action(unit, "pause")
        run_action(unit, "resume")
