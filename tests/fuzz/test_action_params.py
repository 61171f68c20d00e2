# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever an action is given: its answer is printable text or our JSON, or it says why not."""

from __future__ import annotations

import json

import holds
import hostile
from examples import tried
from hypothesis import strategies as st
from ops import testing
from units import unit_on

FORMATS = st.one_of(st.sampled_from(["json", "text"]), hostile.texts(20))
HOSTS = st.sampled_from(["t4-pair", "l40s-vendor-vfio"])


def answer(unit, action, **params):
    """Return what an action answers, or with which words it fails."""
    try:
        text = unit.action(action, **params).get("output", "")
    except testing.ActionFailed as failed:
        holds.status("blocked", failed.message)
        return
    holds.answer(text)
    if params.get("format") == "json":
        assert json.loads(text) is not None


@tried(share=0.1, host=HOSTS, text=hostile.mappings(), style=FORMATS)
def test_whatever_mapping_is_tried_the_plan_is_shown(folder, host, text, style):
    with unit_on(folder, host) as unit:
        answer(unit, "show-plan", mappings=text, format=style)
        assert not (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu").exists()


@tried(share=0.03, host=HOSTS, style=FORMATS, force=st.booleans(), text=hostile.type_names())
def test_whatever_other_actions_are_given_they_answer_or_say_why_not(
    folder, host, style, force, text
):
    with unit_on(folder, host) as unit:
        for name in unit.machine.root.glob("sys/devices/*/*/mdev_supported_types/*/name"):
            name.write_bytes(hostile.encoded(text))
        answer(unit, "list-vgpu-types", format=style)
        answer(unit, "reboot-install", force=force, i_really_mean_it=not force)
        answer(unit, "pause")
        answer(unit, "resume")
