# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""This host as it is: GPUs, vGPUs, guests, driver and Nova; read-only."""
