# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A mapping is requested, published or withdrawn, and a failed one is retried later."""

from __future__ import annotations

from state.mapping_history import MappingHistory

OLD, NEW = "{T4-8Q: ['10de:1eb8']}", "{T4-4Q: ['10de:1eb8']}"
APPLIED = MappingHistory().request(OLD, report_in_placement=False).publish()


def test_requested_mapping_is_new_until_it_is_published():
    requested = APPLIED.request(NEW, report_in_placement=True)
    assert (APPLIED.is_new, requested.is_new, requested.publish().is_new) == (False, True, False)
    assert requested.requested_report_in_placement
    assert requested.published == OLD
    assert requested.publish().published == NEW


def test_withdrawn_mapping_returns_to_the_published_one():
    requested = APPLIED.request(NEW, report_in_placement=False)
    assert requested.withdraw(NEW) == APPLIED


def test_mapping_that_was_not_requested_cannot_be_withdrawn():
    assert APPLIED.withdraw(NEW) == APPLIED
