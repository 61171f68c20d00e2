# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What fails under the same conditions is tried again after minutes, then after hours."""

from __future__ import annotations

import pytest

from gpu.problems import Problem, ProblemKind
from state.backoff import AFTER_AN_HOUR, AT_ONCE, Backoff

NOW = 1790000000
LOCKED = Problem(ProblemKind.DPKG_LOCKED)


def delays(count, *options):
    """Return the minutes before the attempts after each of several failures."""
    backoff, minutes = Backoff(), []
    for _ in range(count):
        backoff = backoff.fail("a", NOW, None, *options)
        minutes.append(((backoff.retry_at(NOW) or NOW) - NOW) // 60)
    return minutes


def test_delay_doubles_up_to_four_hours():
    assert delays(9) == [4, 8, 16, 32, 64, 128, 240, 240, 240]


def test_attempt_that_may_do_harm_is_not_repeated_within_an_hour():
    assert delays(4, AFTER_AN_HOUR) == [60, 120, 240, 240]


def test_interrupted_attempt_is_repeated_at_once_but_only_once():
    assert delays(3, AT_ONCE) == [0, 8, 16]


@pytest.mark.parametrize(
    ("conditions", "seconds", "may_retry"),
    [
        ("a", 0, False),
        ("a", 239, False),
        ("a", 240, True),
        ("a", -1, True),
        ("b", 0, True),
    ],
    ids=["at once", "within the delay", "after the delay", "clock set back", "other conditions"],
)
def test_attempt_waits_only_under_the_same_conditions(conditions, seconds, may_retry):
    backoff = Backoff().fail("a", NOW + 0.5)
    assert backoff.may_retry(conditions, NOW + seconds) is may_retry


def test_other_conditions_start_with_the_first_delay():
    backoff = Backoff().fail("a", NOW).fail("a", NOW).fail("b", NOW)
    assert backoff.retry_at(NOW) == NOW + 240


def test_failure_is_kept_with_its_problem():
    assert Backoff().fail("a", NOW, LOCKED).failure == LOCKED
    assert Backoff().fail("a", NOW).failure is None


@pytest.mark.parametrize(
    "damage",
    [
        {"failed_at": 10**400},
        {"failed_at": -(10**400)},
        {"delay": 10**400, "failed_at": NOW - 4 * 3600},
        {"delay": -1},
        {"failures": -3},
    ],
    ids=str,
)
def test_damaged_record_does_not_prevent_the_next_attempt(damage):
    backoff = Backoff().fail("a", NOW)._replace(**damage)
    assert backoff.may_retry("b", NOW)
    assert backoff.fail("a", NOW).retry_at(NOW) in (NOW + 240, NOW + 480)
