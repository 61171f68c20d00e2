# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The life of a mapping: requested, then applied or failed, and perhaps tried again.

The charm requests a mapping once it has found nothing wrong with it. The boot service applies the
requested mapping, and returns to the applied one if the requested one fails.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MappingHistory"]

_RETRY_AFTER = 3600  # seconds


class MappingHistory(NamedTuple):
    """The outcome of the values of the option vgpu-device-mappings on this host.

    Attributes:
        requested: the last valid value, which the boot service applies.
        requested_report_in_placement: the option report-in-placement that came with it.
        applied: the last value that was applied completely.
        failed_attempt: digest of the conditions under which the boot service failed last.
        failed_at: when that was, in seconds since 1970.
    """

    requested: str = ""
    requested_report_in_placement: bool = False
    applied: str = ""
    failed_attempt: str = ""
    failed_at: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the requested mapping has not been applied yet."""
        return self.requested != self.applied

    def request(self, text: str, *, report_in_placement: bool) -> MappingHistory:
        """Return the history with a mapping for the boot service to apply."""
        return self._replace(requested=text, requested_report_in_placement=report_in_placement)

    def withdraw(self, text: str) -> MappingHistory:
        """Return the history without a mapping that turned out to be wrong after its request."""
        return self._replace(requested=self.applied) if self.requested == text else self

    def apply(self) -> MappingHistory:
        """Return the history with the requested mapping applied."""
        return self._replace(applied=self.requested)

    def fail(self, attempt: str, now: float) -> MappingHistory:
        """Return the history with a failed attempt; see `may_retry`."""
        return self._replace(failed_attempt=attempt, failed_at=int(now))

    def forget_failure(self) -> MappingHistory:
        """Return the history without the failure, so that anything may be tried again."""
        return self._replace(failed_attempt="", failed_at=0)

    def may_retry(self, attempt: str, now: float) -> bool:
        """Whether an attempt has not failed under the same conditions within the last hour.

        Each attempt may withdraw from Nova what is offered now, so attempts must be rare.
        """
        age = int(now) - self.failed_at
        return self.failed_attempt != attempt or not 0 <= age < _RETRY_AFTER
