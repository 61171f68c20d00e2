# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the option's text: it is read as checked words, or refused in one line."""

from __future__ import annotations

import re

import holds
import hostile
from examples import memory_below, tried
from hypothesis import strategies as st

from gpu.problems import HostError, ProblemKind
from host.gpus import PciAddress, PciId
from planning import mappings

REFUSALS = {
    ProblemKind.MAPPING_SYNTAX,
    ProblemKind.MAPPING_INVALID,
    ProblemKind.DEVICE_MAPPED_TWICE,
}
TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_-]{0,63}", re.ASCII)
CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


def is_sound(text: str) -> None:
    """Read a value as an event does."""
    try:
        found = mappings.parse(text)
        if found is not None:
            mappings.check(found)
        requests = mappings.requests(found)
    except HostError as error:
        assert error.problem.kind in REFUSALS
        holds.said(error.problem)
        holds.message(str(error))
        return
    for request in requests:
        assert TYPE.fullmatch(request.vgpu_type)
        assert request.devices
        assert all(isinstance(device, (PciAddress, PciId)) for device in request.devices)
        assert request.max_instances is None or 1 <= request.max_instances <= 9999
        assert request.resource_class is None or CLASS.fullmatch(request.resource_class)


@tried(share=2, text=st.one_of(hostile.texts(200), hostile.scribbles()))
def test_any_text_is_read_or_refused_in_one_line(text):
    is_sound(text)


@tried(share=2, text=hostile.documents())
def test_any_document_is_read_or_refused_in_one_line(text):
    is_sound(text)


@tried(share=0.02, seconds=8, text=hostile.bombs())
def test_no_text_takes_long_or_much_memory(text):
    with memory_below(40):  # which takes its time to measure
        is_sound(text)


@tried(text=hostile.texts(12), place=st.integers(0, 3))
def test_nothing_can_hang_on_a_word_that_is_well_formed(text, place):
    words = ["nvidia-35", "0000:84:00.0", "4", "CUSTOM_X"]
    words[place] += text
    vgpu_type, device, limit, name = words
    value = {"devices": [device], "max-instances": limit, "resource-class": name}
    try:
        mappings.check({vgpu_type: value})
        (request,) = mappings.requests({vgpu_type: value})
    except HostError:
        return
    assert [request.vgpu_type, str(request.devices[0])] == [vgpu_type, device]
    assert [str(request.max_instances), request.resource_class] == [limit, name]
