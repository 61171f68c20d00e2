# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A mapping is requested, applied or failed, and a failed one is retried later."""

from __future__ import annotations

import pytest

from state.mapping_history import MappingHistory

OLD, NEW = "{T4-8Q: ['10de:1eb8']}", "{T4-4Q: ['10de:1eb8']}"
APPLIED = MappingHistory().request(OLD, report_in_placement=False).apply()


def test_requested_mapping_is_new_until_it_is_applied():
    requested = APPLIED.request(NEW, report_in_placement=True)
    assert (APPLIED.is_new, requested.is_new, requested.apply().is_new) == (False, True, False)
    assert requested.requested_report_in_placement
    assert requested.applied == OLD
    assert requested.apply().applied == NEW


def test_withdrawn_mapping_returns_to_the_applied_one():
    requested = APPLIED.request(NEW, report_in_placement=False)
    assert requested.withdraw(NEW) == APPLIED


def test_mapping_that_was_not_requested_cannot_be_withdrawn():
    assert APPLIED.withdraw(NEW) == APPLIED


@pytest.mark.parametrize(
    ("attempt", "seconds", "may_retry"),
    [
        ("a", 0, False),
        ("a", 3599, False),
        ("a", 3600, True),
        ("a", -1, True),
        ("b", 0, True),
    ],
    ids=["at once", "within the hour", "after an hour", "clock set back", "other conditions"],
)
def test_failed_attempt_is_repeated_after_an_hour(attempt, seconds, may_retry):
    history = APPLIED.fail("a", now=1790000000.5)
    assert history.may_retry(attempt, now=1790000000 + seconds) is may_retry


def test_damaged_time_of_a_failure_allows_a_retry():
    assert APPLIED._replace(failed_attempt="a", failed_at=10**400).may_retry("a", now=1.5)


def test_forgotten_failure_is_tried_again_at_once():
    assert APPLIED.fail("a", now=1790000000).forget_failure() == APPLIED
