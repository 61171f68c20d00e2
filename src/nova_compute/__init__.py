# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova supports, and its sections of nova.conf; pure."""
