# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for the unit, why, and how it is worded in `juju status`."""
