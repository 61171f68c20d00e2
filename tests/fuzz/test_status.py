# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any details of a problem: the status is one line, which ends with the remedy."""

from __future__ import annotations

import json
from string import Formatter

import checks
import hostile
from examples import fuzzed
from hypothesis import strategies as st

from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from status.messages import MESSAGES

ADDRESSES = st.one_of(st.none(), st.builds(PciAddress, *[st.integers(0, 7)] * 4))


@st.composite
def problems(draw):
    kind = draw(st.sampled_from(ProblemKind))
    fields = {name for _, name, _, _ in Formatter().parse(MESSAGES[kind].template) if name}
    names = fields - {"address", "app"}
    return Problem(kind, draw(ADDRESSES), **{name: draw(hostile.texts(200)) for name in names})


@fuzzed(share=3, problem=problems())
def test_any_problem_is_one_line_that_ends_with_the_remedy(problem):
    checks.problem(problem)
    checks.log_message(str(HostError(problem)))
    assert Problem.from_row(json.loads(json.dumps(problem.to_row()))) == problem
