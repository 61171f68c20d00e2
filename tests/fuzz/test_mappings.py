# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any text of the option: it is parsed into validated values, or refused in one line."""

from __future__ import annotations

import re

import checks
import hostile
from examples import fuzzed, memory_below
from hypothesis import strategies as st

from gpu.pci import PciAddress, PciId
from gpu.problems import HostError, ProblemKind
from planning import mappings

REFUSALS = {
    ProblemKind.OPTION_SYNTAX,
    ProblemKind.OPTION_INVALID,
    ProblemKind.DEVICE_MAPPED_TWICE,
}
TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_-]{0,63}", re.ASCII)
CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


def check(text: str) -> None:
    """Parse a value as an event does, and check the requests or the problem."""
    try:
        parsed = mappings.OPTION.parse(text)
        if parsed is not None:
            mappings.OPTION.check(parsed)
        requests = mappings.requests(parsed)
    except HostError as error:
        assert error.problem.kind in REFUSALS
        checks.problem(error.problem)
        checks.log_message(str(error))
        return
    for request in requests:
        assert TYPE.fullmatch(request.vgpu_type)
        assert request.devices
        assert all(isinstance(device, (PciAddress, PciId)) for device in request.devices)
        assert request.max_instances is None or 1 <= request.max_instances <= 9999
        assert request.resource_class is None or CLASS.fullmatch(request.resource_class)


@fuzzed(share=2, text=st.one_of(hostile.texts(200), hostile.scribbles()))
def test_any_text_is_parsed_or_refused_in_one_line(text):
    check(text)


@fuzzed(share=2, text=hostile.documents())
def test_any_document_is_parsed_or_refused_in_one_line(text):
    check(text)


@fuzzed(share=0.02, seconds=8, text=hostile.bombs())
def test_no_text_takes_long_or_much_memory(text):
    with memory_below(40):  # measuring memory is slow
        check(text)


@fuzzed(text=hostile.texts(12), place=st.integers(0, 3))
def test_no_text_after_a_valid_value_is_ignored(text, place):
    values = ["nvidia-35", "0000:84:00.0", "4", "CUSTOM_X"]
    values[place] += text
    vgpu_type, device, limit, name = values
    value = {"devices": [device], "max-instances": limit, "resource-class": name}
    try:
        mappings.OPTION.check({vgpu_type: value})
        (request,) = mappings.requests({vgpu_type: value})
    except HostError:
        return
    assert [request.vgpu_type, str(request.devices[0])] == [vgpu_type, device]
    assert [str(request.max_instances), request.resource_class] == [limit, name]
