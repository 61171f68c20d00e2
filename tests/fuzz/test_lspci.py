# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any output of lspci: it is only cross-checked, and sysfs takes precedence."""

from __future__ import annotations

import checks
import hostile
import programs
from examples import fuzzed
from hypothesis import strategies as st

from host import gpus, lspci

FIELD = st.builds(
    "{}:{}{}".format,
    st.sampled_from(["Slot", "Class", "Vendor", "Device", ""]),
    st.sampled_from(["\t", "\t", " ", ""]),
    st.one_of(st.sampled_from(["0000:84:00.0", "84:00.0", "0302", "10de"]), hostile.numerals()),
)
OUTPUT = programs.lines(FIELD, FIELD, FIELD, st.just(""), hostile.texts())


@fuzzed(share=1.5, run=programs.printing(OUTPUT))
def test_any_output_of_lspci_is_compared_with_sysfs(hosts, run):
    root = hosts["t4-pair"]
    with checks.Log():
        lspci.compare(root, run, gpus.scan(root).gpus)
    checks.commands(run.started, root)
