# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""GPUs, vGPU types and problems as plain values; imports nothing."""
