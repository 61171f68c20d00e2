# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the boot service could not do since the last boot: result.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable

from gpu.problems import RETRIABLE, Problem, ProblemKind
from state.folders import UNTIL_BOOT
from system.files import delete, ensure_contents, read_json

__all__ = ["clear", "failures", "has_run", "is_permanent", "save"]

_PATH = UNTIL_BOOT / "result.json"


def has_run(root: Path) -> bool:
    """Whether the service has completed a run since the last boot; it may have been killed."""
    return (root / _PATH).exists()


def failures(root: Path) -> tuple[Problem, ...]:
    """Return what the last run since the last boot could not do; empty if there was none."""
    rows = read_json(root / _PATH).get("failures")
    problems = map(Problem.from_row, rows if isinstance(rows, list) else [])
    return tuple(problem for problem in problems if problem is not None)


def is_permanent(root: Path, *, risks_published: bool) -> bool:
    """Whether the last run failed for a reason that another run would hardly end.

    Args:
        root: the root of the host's file system.
        risks_published: whether another run may take from Nova what it is offered.
    """
    retriable = RETRIABLE if risks_published else RETRIABLE | {ProblemKind.TYPE_REFUSED}
    return any(problem.kind not in retriable for problem in failures(root))


def clear(root: Path) -> None:
    """Delete the result, so that it is never taken for that of a later run."""
    delete(root / _PATH)


def save(root: Path, problems: Iterable[Problem]) -> None:
    """Write what a run could not do.

    Raises:
        HostError: DISK_WRITE_FAILED; the disk is full, or the file cannot be written.
    """
    rows = [problem.to_row() for problem in problems]
    ensure_contents(root / _PATH, json.dumps({"failures": rows}) + "\n")
