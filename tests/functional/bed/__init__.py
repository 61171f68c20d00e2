# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A compute host to test on, without a GPU, without Juju: everything else on it is real.

`machine` boots a Debian with systemd in a container, `kernel` shows it a recorded host's /sys with
NVIDIA's driver behind it, `juju` answers the charm's hook tools and runs its dispatch, `packages`
builds NVIDIA's package and an archive, `principal` reads what the charm publishes as nova-compute
and Nova do.
"""
