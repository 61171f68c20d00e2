# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The version of ops that the tests use."""

from __future__ import annotations

import sys

import ops


def test_newest_ops_for_this_python_is_installed():
    expected = ("2", "23") if sys.version_info < (3, 10) else ("3",)
    assert tuple(ops.__version__.split("."))[: len(expected)] == expected
