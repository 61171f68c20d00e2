# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The OpenStack charms' own test of this charm, where zaza.openstack is installed.

.tox/func-target/bin/pip install git+https://github.com/openstack-charmers/zaza-openstack-tests.git
"""

from __future__ import annotations

import unittest

__all__ = ["NovaComputeNvidiaVgpuTest"]

try:
    from zaza.openstack.charm_tests.nova.tests import NovaComputeNvidiaVgpuTest
except ImportError:

    class NovaComputeNvidiaVgpuTest(unittest.TestCase):  # type: ignore[no-redef]
        """A placeholder for the test."""

        def test_vgpu_in_nova_conf(self) -> None:
            self.skipTest("zaza.openstack is not installed")
