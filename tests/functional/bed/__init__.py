# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A test bed: a compute host without a GPU and without Juju, on which everything else is real.

`machine` boots a Debian with systemd in a container. `kernel` gives it a recorded host's /sys,
backed by a simulation of NVIDIA's driver. `juju` implements the hook tools and runs the charm's
dispatch. `packages` builds a sample of NVIDIA's package and an apt archive. `principal` reads what
the charm publishes, as nova-compute and Nova do.
"""
