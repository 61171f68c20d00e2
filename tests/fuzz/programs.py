# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A runner in place of `commands.run`, whose programs all leave the same."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from system.commands import CommandError, Result


class Programs:
    """Remembers what was started; None: no program is there."""

    def __init__(self, answer: Result | None) -> None:
        self.answer = answer
        self.started: list[tuple[str, ...]] = []

    def __call__(self, *argv: str, timeout: float = 60.0, check: bool = True) -> Result:
        self.started.append(argv)
        if self.answer is None:
            raise CommandError(argv, "No such file or directory")
        if check and self.answer.returncode:
            lines = (self.answer.stderr.strip() or "no output").splitlines()
            raise CommandError(argv, f"exit 1: {lines[-1]}", self.answer)
        return self.answer


SILENT = Result(0, "", "")


def saying(said: SearchStrategy[str]) -> SearchStrategy[Any]:
    """Programs that say something and succeed, or fail; or are missing."""
    results = st.builds(Result, st.sampled_from([0, 0, 0, 1]), said, said)
    return st.one_of(results, results, results, st.none()).map(Programs)


def lines(*forms: SearchStrategy[str]) -> SearchStrategy[str]:
    """Some lines, each of one of the forms."""
    return st.lists(st.one_of(*forms), max_size=12).map("\n".join)
