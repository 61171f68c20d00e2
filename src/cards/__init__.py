# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Changes the cards: virtual functions, partitioning, vGPU types, guests' devices."""
