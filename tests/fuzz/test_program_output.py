# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever programs say: it is read in no time, and what is told of it is one line."""

from __future__ import annotations

import holds
import hostile
import programs
import pytest
import trees
from examples import memory_below, tried
from hypothesis import strategies as st

from actions import detailed_facts
from cards import nvidia_smi, prepare
from driver import installation
from driver.installation import DriverState
from gpu.card import COUNT_LIMIT, NAME_LIMIT
from gpu.problems import HostError
from host.gpus import PciAddress
from planning import mappings
from system import apt, commands
from system.commands import CommandError, Result

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
ASKED = (
    nvidia_smi.supported_types,
    nvidia_smi.mig_mode,
    nvidia_smi.instances,
    nvidia_smi.mixed_size,
    nvidia_smi.destroy_instances,
)


@tried(run=programs.saying(st.one_of(SMI, SMI, MODE, hostile.texts())))
def test_whatever_nvidia_smi_says_is_read_as_bounded_words(run, hosts):
    for ask in ASKED:
        try:
            told = ask(run, CARD)
        except CommandError as error:
            holds.message(str(error))
            holds.message(nvidia_smi.reason(error))
            continue
        for known in told if ask is nvidia_smi.supported_types else ():
            assert known.name.isprintable()
            assert len(known.name) <= NAME_LIMIT
            assert known.max_instances is None or 0 <= known.max_instances <= COUNT_LIMIT
    holds.commands(run.started, hosts["t4-pair"])


@tried(share=0.2, run=programs.saying(SMI), data=st.data())
def test_whatever_nvidia_smi_says_the_cards_are_prepared_or_it_is_told(hosts, run, data):
    name = data.draw(st.sampled_from(["a100-80-pair", "a40-mdev", "l40s-vendor-vfio"]))
    text = data.draw(st.sampled_from(trees.WISHES[name]))
    requests = mappings.requests(mappings.parse(text))
    with trees.spoilt(hosts[name], {}) as root, holds.Log():
        for problem in prepare.prepare_cards(root, run, requests):
            holds.said(problem)
        detailed_facts.gather_detailed(root, run)
        holds.host(root, text, run=run)
        holds.written(root)
    holds.commands(run.started, root)


POLICY = programs.lines(
    st.sampled_from(["dkms:", "  Installed: (none)", "  Candidate: 1.0", "  Candidate: (none)"]),
    st.sampled_from(
        ["E: no", "dpkg: error: x", " trying to overwrite '/x'", "E: Could not get lock"]
    ),
    st.sampled_from(["modprobe: ERROR: ", "Key was rejected by service", "active"]),
    hostile.texts(),
)


@tried(share=1.5, run=programs.saying(POLICY))
def test_whatever_apt_or_modprobe_says_it_is_told_in_one_line(hosts, run):
    root = hosts["t4-pair"]
    found = apt.Package("nvidia-vgpu-ubuntu-570", "570.172.07", "installed")
    state = DriverState(packages=(found,), kernel="5.15.0-173-generic")
    for step in (
        lambda: apt.ensure_available_installed(root, run, "dkms"),
        lambda: apt.remove(run, found, found._replace(flag="reinstreq")),
        lambda: installation.ensure_loaded(root, run, state),
    ):
        try:
            step()
        except HostError as error:
            holds.said(error.problem)
            holds.message(str(error))
            holds.message(str(error.__cause__ or ""))
    holds.commands(run.started, root)


@pytest.mark.parametrize("word", [" ", "\n", "|", "| 0 MIG 1", "vGPU Type ID ", ":", "9", "\tA "])
def test_flood_of_one_word_is_read_in_no_time_and_memory(word, hosts):
    run = programs.Programs(Result(0, word * (commands._OUTPUT_LIMIT // len(word) // 4), ""))

    @tried(share=0, seconds=20, ask=st.sampled_from(ASKED[:1] + ASKED[2:4]))
    def read(ask):
        with memory_below(300):
            ask(run, CARD)

    read()
