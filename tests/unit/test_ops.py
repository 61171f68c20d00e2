# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which ops these tests run on."""

from __future__ import annotations

import sys

import ops


def test_each_python_has_the_newest_ops_that_it_takes():
    wanted = ("2", "23") if sys.version_info < (3, 10) else ("3",)
    assert tuple(ops.__version__.split("."))[: len(wanted)] == wanted
