# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""When something that failed is tried again: after minutes at first, then after hours.

A failing step is often slow, and Juju runs no other hook on the host meanwhile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gpu.problems import Problem

__all__ = ["AFTER_AN_HOUR", "AFTER_MINUTES", "AT_ONCE", "Backoff"]

# Seconds from the first failure to the next attempt.
AT_ONCE = 0
AFTER_MINUTES = 240  # Juju's update-status comes every five minutes
AFTER_AN_HOUR = 3600
_MAX_DELAY = 4 * 3600  # seconds
_MAX_DOUBLINGS = 10  # more would exceed the maximum anyway


class Backoff(NamedTuple):
    """Attempts that failed one after the other under the same conditions.

    Attributes:
        conditions: a digest of what decides whether an attempt succeeds.
        failures: how many attempts have failed; 0: there was none, or the last one succeeded.
        failed_at: when the last one failed, in seconds since 1970.
        delay: seconds from then to the next attempt.
        problem: why it failed, as `Problem.to_row` returns it; empty if that is kept elsewhere.
    """

    conditions: str = ""
    failures: int = 0
    failed_at: int = 0
    delay: int = 0
    problem: tuple[Any, ...] = ()

    @property
    def failure(self) -> Problem | None:
        """The problem of the last attempt."""
        return Problem.from_row(self.problem)

    def fail(
        self,
        conditions: str,
        now: float,
        problem: Problem | None = None,
        first_delay: int = AFTER_MINUTES,
    ) -> Backoff:
        """Return the record after one more attempt has failed.

        Args:
            conditions: a digest of what decided whether it succeeded.
            now: seconds since 1970.
            problem: why it failed.
            first_delay: seconds from the first failure to the next attempt.
        """
        is_same = conditions == self.conditions
        failures = min(self.failures, _MAX_DOUBLINGS) + 1 if is_same and self.failures > 0 else 1
        delay = max(first_delay, AFTER_MINUTES) * 2 ** (failures - 1)
        delay = first_delay if failures == 1 else min(delay, _MAX_DELAY)
        row = () if problem is None else tuple(problem.to_row())
        return Backoff(conditions, failures, int(now), delay, row)

    def may_retry(self, conditions: str, now: float) -> bool:
        """Whether the conditions have changed since the last failure, or its delay has passed.

        If the clock was set back, the delay counts as passed.
        """
        return conditions != self.conditions or self.retry_at(now) is None

    def retry_at(self, now: float) -> int | None:
        """Return the time of the next attempt in seconds since 1970; None: it may be now."""
        age, delay = int(now) - self.failed_at, min(self.delay, _MAX_DELAY)
        return self.failed_at + delay if self.failures and 0 <= age < delay else None
