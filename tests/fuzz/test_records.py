# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any content of the files of the charm, of dpkg and of libvirt: the host is read."""

from __future__ import annotations

import checks
import hostile
import programs
import trees
from examples import fuzzed
from hypothesis import strategies as st

import boot
from driver import installation, software
from gpu.problems import ProblemKind
from state import charm_state
from state.charm_state import CharmState

STATE, RUN = trees.RECORDS
ADDRESS = st.sampled_from(["0000:84:00.0", "0000:3d:00.4", "0000:31:00.4", "x"])
TYPE = st.sampled_from(["nvidia-233", "nvidia-1152", "nvidia-699", "../x-1"])
COUNT = st.one_of(st.none(), st.integers(), st.just(10**9))
KIND = st.sampled_from([kind.value for kind in ProblemKind])
FAILURE = st.builds(
    lambda kind, details: [kind, *details], KIND, st.lists(hostile.texts(), max_size=4)
)

# The format of each file.
RECORDS = {
    f"{STATE}/memory.json": st.fixed_dictionaries(
        {},
        optional={
            name: hostile.nearly(
                {
                    "wish": hostile.mappings(),
                    "fulfilled": hostile.mappings(),
                    "failure": FAILURE,
                    "resource_package": st.one_of(
                        FAILURE, FAILURE.map(lambda failure: ["package", *failure])
                    ),
                }.get(name, st.booleans() if default is False else hostile.texts())
            )
            for name, default in CharmState._field_defaults.items()
        },
    ),
    f"{STATE}/mdevs.json": st.lists(
        st.tuples(st.just(trees.UUID), ADDRESS, TYPE, hostile.nearly(hostile.type_names()))
    ),
    f"{STATE}/carried.json": st.dictionaries(ADDRESS, hostile.nearly(TYPE)),
    f"{STATE}/types.json": st.dictionaries(
        st.sampled_from(["10de:26b9", "10de:20b5", "10de:2235", "x"]),
        st.lists(st.tuples(hostile.nearly(TYPE), hostile.type_names(), COUNT, COUNT, COUNT)),
    ),
    f"{RUN}/modes.json": st.dictionaries(
        ADDRESS, st.tuples(st.lists(COUNT), st.sampled_from([None, True, False, 1, "x"]))
    ),
    f"{RUN}/result.json": st.lists(FAILURE),
}


@st.composite
def modified_records(draw):
    places = draw(st.lists(st.sampled_from(sorted(RECORDS)), min_size=1, max_size=3, unique=True))
    return {place: draw(hostile.json_files(RECORDS[place])) for place in places}


@fuzzed(share=0.5, edits=modified_records(), data=st.data())
def test_any_state_files_let_the_host_be_read_and_the_boot_service_run(hosts, edits, data):
    name = data.draw(st.sampled_from(sorted(hosts)))
    run = programs.Programs(programs.NO_OUTPUT)
    with trees.modified(hosts[name], edits) as root, checks.Log():
        state, resource = software.inspect_resource(run, charm_state.load(root))
        for problem in (*boot.failures(root), *filter(None, [resource.problem])):
            checks.problem(problem)
        assessment = checks.host(root, data.draw(st.sampled_from(trees.MAPPINGS[name])))
        for problem in software.find_problems(assessment.facts, state):
            checks.problem(problem)
        assert boot.main(root, run) in (0, 1)
        charm_state.save(root, state)
        assert charm_state.load(root) == state
    checks.commands(run.started, root)


DPKG = programs.lines(
    st.sampled_from(["Package: nova-common", "Package: libvirt0", "Package: nvidia-vgpu-ubuntu",
                     "Package: nvidia-vgpu-ubuntu-570", "Status: install ok installed", "",
                     "Status: install ok", "Version: 3:29.2.0-0ubuntu1", "Version: 570.172.07"]),
    st.builds("{}: {}".format, st.sampled_from(["Status", "Version"]), hostile.numerals()),
    hostile.texts(20),
)  # fmt: skip
XML = st.lists(
    st.one_of(
        st.sampled_from(["<hostdev", " type='mdev'", " type='pci'", ">", "</hostdev>", "<source>",
                         "</source>", "<address uuid='", trees.UUID, "'/>", "domain='0x", "<!--",
                         "<address domain='0x0000' bus='0x3d' slot='0x00' function='0x4'/>",
                         "<address bus='0xffffffff' slot='0x99' function='0x9'/>"]),
        hostile.texts(10),
    ),
    max_size=15,
).map("".join)  # fmt: skip
OTHERS = {
    "var/lib/dpkg/status": DPKG.map(hostile.encoded),
    "etc/libvirt/qemu/instance-00000002.xml": XML.map(hostile.encoded),
    "etc/modprobe.d/nova-compute-nvidia-vgpu.conf": hostile.octets(),
    "sys/module/nvidia/version": hostile.octets(),
    "proc/driver/nvidia/version": hostile.octets(),
}


@fuzzed(share=0.7, place=st.sampled_from(sorted(OTHERS)), data=st.data())
def test_any_files_of_dpkg_libvirt_and_modprobe_let_the_host_be_read(hosts, place, data):
    name = data.draw(st.sampled_from(sorted(hosts)))
    content = data.draw(st.one_of(OTHERS[place], OTHERS[place], hostile.octets()))
    with trees.modified(hosts[name], {place: content}) as root, checks.Log():
        assessment = checks.host(root, trees.MAPPINGS[name][0])
        installation._disable_nouveau(root, programs.Programs(programs.NO_OUTPUT))
        checks.files(root)
        assert assessment is not None


REPEATED = st.sampled_from(
    ["<hostdev>", "<hostdev", "<hostdev><source>", "</hostdev>", "Package: nova-common\n", "\n"]
)


@fuzzed(share=0.01, seconds=4, text=REPEATED)
def test_a_large_file_is_read_quickly(hosts, text):
    edits = {place: text.encode() * (1_000_000 // len(text)) for place in list(OTHERS)[:2]}
    with trees.modified(hosts["l40s-vendor-vfio"], edits) as root:
        checks.host(root, trees.MAPPINGS["l40s-vendor-vfio"][0])
