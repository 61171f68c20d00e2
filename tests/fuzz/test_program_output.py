# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any output of programs: it is parsed quickly, and reported in one line."""

from __future__ import annotations

import checks
import hostile
import programs
import pytest
import trees
from examples import fuzzed, memory_below
from hypothesis import strategies as st

from actions import detailed_facts
from cards import nvidia_smi, prepare
from driver import installation
from gpu.card import COUNT_LIMIT, NAME_LIMIT
from gpu.pci import PciAddress
from gpu.problems import HostError
from host.driver_state import DriverState
from host.facts import HostReader
from system import apt, commands
from system.commands import CommandError, Result
from system.dpkg import Package

CARD = PciAddress(0, 0x84, 0, 0)
FIELD = st.builds(
    "{}{}: {}".format,
    st.sampled_from(["vGPU Type ID", "Name", "GPU Instance Profile ID", "Max Instances",
                     "Max Instances Per GI", "FB Memory", "vGPU Heterogeneous Mode", "x"]),
    st.sampled_from(["", "  ", " " * 5000]),
    st.one_of(hostile.numerals(), hostile.type_names(), st.sampled_from(["0x2bb", "Enabled"])),
)  # fmt: skip
INSTANCE = st.builds(
    "|   0  MIG 1g.5gb   {}   {}   4:1  |".format, hostile.numerals(), hostile.numerals()
)
MODE = st.builds("{}, {}".format, *[st.sampled_from(["Enabled", "Disabled", "[N/A]", ""])] * 2)
SMI = programs.lines(FIELD, FIELD, FIELD, INSTANCE, MODE, hostile.texts(30))
QUERIES = (
    nvidia_smi.supported_types,
    nvidia_smi.mig_mode,
    nvidia_smi.instances,
    nvidia_smi.mixed_size,
    nvidia_smi.destroy_instances,
)


@fuzzed(run=programs.printing(st.one_of(SMI, SMI, MODE, hostile.texts())))
def test_values_from_any_nvidia_smi_output_are_bounded(run, hosts):
    for query in QUERIES:
        try:
            answer = query(run, CARD)
        except CommandError as error:
            checks.log_message(str(error))
            checks.log_message(nvidia_smi.reason(error))
            continue
        for vgpu_type in answer if query is nvidia_smi.supported_types else ():
            assert vgpu_type.name.isprintable()
            assert len(vgpu_type.name) <= NAME_LIMIT
            assert vgpu_type.max_instances is None or 0 <= vgpu_type.max_instances <= COUNT_LIMIT
    checks.commands(run.started, hosts["t4-pair"])


@fuzzed(share=0.2, run=programs.printing(SMI), data=st.data())
def test_cards_are_prepared_or_problems_reported_for_any_nvidia_smi_output(hosts, run, data):
    name = data.draw(st.sampled_from(["a100-80-pair", "a40-mdev", "l40s-vendor-vfio"]))
    text = data.draw(st.sampled_from(trees.MAPPINGS[name]))
    with trees.modified(hosts[name], {}) as root, checks.Log():
        for problem in prepare.prepare_cards(HostReader(root), run, text):
            checks.problem(problem)
        detailed_facts.gather_detailed(root, run)
        checks.host(root, text, count=True)
        checks.files(root)
    checks.commands(run.started, root)


POLICY = programs.lines(
    st.sampled_from(["dkms:", "  Installed: (none)", "  Candidate: 1.0", "  Candidate: (none)"]),
    st.sampled_from(
        ["E: no", "dpkg: error: x", " trying to overwrite '/x'", "E: Could not get lock"]
    ),
    st.sampled_from(["modprobe: ERROR: ", "Key was rejected by service", "active"]),
    hostile.texts(),
)


@fuzzed(share=1.5, run=programs.printing(POLICY))
def test_any_output_of_apt_and_modprobe_is_reported_in_one_line(hosts, run):
    root = hosts["t4-pair"]
    package = Package("nvidia-vgpu-ubuntu-570", "570.172.07", "installed")
    state = DriverState(packages=(package,), kernel="5.15.0-173-generic")
    for step in (
        lambda: apt.ensure_available_installed(root, run, "dkms"),
        lambda: apt.remove(run, package, package._replace(flag="reinstreq")),
        lambda: installation.ensure_loaded(root, run, state),
    ):
        try:
            step()
        except HostError as error:
            checks.problem(error.problem)
            checks.log_message(str(error))
            checks.log_message(str(error.__cause__ or ""))
    checks.commands(run.started, root)


@pytest.mark.parametrize("text", [" ", "\n", "|", "| 0 MIG 1", "vGPU Type ID ", ":", "9", "\tA "])
def test_very_long_output_takes_little_time_and_memory(text, hosts):
    run = programs.Programs(Result(0, text * (commands._OUTPUT_LIMIT // len(text) // 4), ""))

    @fuzzed(share=0, seconds=20, query=st.sampled_from(QUERIES[:1] + QUERIES[2:4]))
    def read(query):
        with memory_below(300):
            query(run, CARD)

    read()
