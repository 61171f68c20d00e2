# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which ops these tests run on."""

from __future__ import annotations

import sys

import ops


def test_newest_ops_for_this_python_is_installed():
    wanted = ("2", "23") if sys.version_info < (3, 10) else ("3",)
    assert tuple(ops.__version__.split("."))[: len(wanted)] == wanted
