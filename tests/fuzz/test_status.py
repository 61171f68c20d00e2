# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any details of a problem: the status is one line, which ends with the remedy."""

from __future__ import annotations

import checks
import hostile
from examples import fuzzed
from hypothesis import strategies as st

from gpu.problems import HostError, Problem, ProblemKind


@fuzzed(
    share=3, problem=st.builds(Problem, st.sampled_from(ProblemKind), *[hostile.texts(200)] * 3)
)
def test_any_problem_is_one_line_that_ends_with_the_remedy(problem):
    checks.problem(problem)
    checks.log_message(str(HostError(problem)))
