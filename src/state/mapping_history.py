# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The life of a mapping: requested, then published or withdrawn.

The charm requests a mapping once it has found nothing wrong with it. The boot service applies the
requested mapping, and returns to the published one if the requested one fails.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MappingHistory"]


class MappingHistory(NamedTuple):
    """The outcome of the values of the option vgpu-device-mappings on this host.

    Attributes:
        requested: the last valid value, which the boot service applies.
        requested_report_in_placement: the option report-in-placement that came with it.
        published: the last value from which nova.conf was made, also if a card of it had failed.
    """

    requested: str = ""
    requested_report_in_placement: bool = False
    published: str = ""

    @property
    def is_new(self) -> bool:
        """Whether the requested mapping has not been published yet."""
        return self.requested != self.published

    def request(self, text: str, *, report_in_placement: bool) -> MappingHistory:
        """Return the history with a mapping for the boot service to apply."""
        return self._replace(requested=text, requested_report_in_placement=report_in_placement)

    def withdraw(self, text: str) -> MappingHistory:
        """Return the history without a mapping that turned out to be wrong after its request."""
        return self._replace(requested=self.published) if self.requested == text else self

    def publish(self) -> MappingHistory:
        """Return the history with the requested mapping published."""
        return self._replace(published=self.requested)
