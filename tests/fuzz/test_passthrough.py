# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any text of the option passthrough-devices, alone and beside a mapping on a host."""

from __future__ import annotations

import re

import checks
import hostile
import trees
from examples import fuzzed, memory_below
from hypothesis import strategies as st
from test_mappings import REFUSALS

from gpu.pci import PciAddress, PciId
from gpu.problems import HostError
from planning import passthrough

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
CLASS = re.compile(r"CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


def check(text: str) -> None:
    """Parse a value as an event does, and check the requests or the problem."""
    try:
        parsed = passthrough.OPTION.parse(text)
        if parsed is not None:
            passthrough.OPTION.check(parsed)
        requests = passthrough.requests(parsed)
    except HostError as error:
        assert error.problem.kind in REFUSALS
        checks.problem(error.problem)
        checks.log_message(str(error))
        return
    for request in requests:
        assert NAME.fullmatch(request.name)
        assert request.devices
        devices = (*request.devices, *request.nics)
        assert all(isinstance(device, (PciAddress, PciId)) for device in devices)
        assert request.numa_policy in (None, "required", "preferred", "legacy", "socket")
        assert request.resource_class is None or CLASS.fullmatch(request.resource_class)


@fuzzed(text=hostile.passthroughs())
def test_any_value_is_parsed_or_refused_in_one_line(text):
    check(text)


@fuzzed(share=0.02, seconds=8, text=hostile.bombs())
def test_no_text_takes_long_or_much_memory(text):
    with memory_below(40):  # measuring memory is slow
        check(text)


@fuzzed(share=0.5, text=hostile.passthroughs(), data=st.data())
def test_any_value_beside_a_mapping_is_published_in_the_right_format(hosts, text, data):
    name = data.draw(st.sampled_from(sorted(hosts)))
    mapping = data.draw(st.sampled_from(trees.MAPPINGS[name]))
    with trees.modified(hosts[name], {}) as root, checks.Log():
        checks.host(root, mapping, passthrough=text)
