# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The machine below: commands, files, sysfs, dpkg, apt and systemd; knows no GPU."""
