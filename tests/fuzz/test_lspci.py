# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever lspci says: it is the second witness, and sysfs is believed."""

from __future__ import annotations

import holds
import hostile
import programs
from examples import tried
from hypothesis import strategies as st

from host import gpus

FIELD = st.builds(
    "{}:{}{}".format,
    st.sampled_from(["Slot", "Class", "Vendor", "Device", ""]),
    st.sampled_from(["\t", "\t", " ", ""]),
    st.one_of(st.sampled_from(["0000:84:00.0", "84:00.0", "0302", "10de"]), hostile.numerals()),
)
SAID = programs.lines(FIELD, FIELD, FIELD, st.just(""), hostile.texts())


@tried(share=1.5, run=programs.saying(SAID))
def test_whatever_lspci_says_sysfs_is_believed(hosts, run):
    root = hosts["t4-pair"]
    with holds.Log():
        assert gpus.list_gpus(root, run) == gpus.list_gpus(root)
    holds.commands(run.started, root)
