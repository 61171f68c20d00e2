# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The state of the unit, its causes, and the wording in `juju status`."""
