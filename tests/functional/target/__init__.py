# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cloud suite: zaza deploys OpenStack and the charm with Juju, and runs these tests."""
