# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""From the mapping and the cards to a plan: what to offer, what to prepare; pure."""
