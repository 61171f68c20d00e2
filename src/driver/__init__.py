# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's host software: the attached package, its installation, its daemons."""
