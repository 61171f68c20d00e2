# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever words come with a cause: it is told in one line, which ends with the mend."""

from __future__ import annotations

import holds
import hostile
from examples import tried
from hypothesis import strategies as st

from gpu.problems import HostError, Problem, ProblemKind


@tried(
    share=3, problem=st.builds(Problem, st.sampled_from(ProblemKind), *[hostile.texts(200)] * 3)
)
def test_any_words_are_told_in_one_line_that_ends_with_the_mend(problem):
    holds.said(problem)
    holds.message(str(HostError(problem)))
