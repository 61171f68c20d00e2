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
from driver import nouveau, resource, software
from gpu.problems import ProblemKind
from state import boot_result, charm_state
from state.charm_state import CharmState

STATE, RUN = trees.RECORDS
ADDRESS = st.sampled_from(["0000:84:00.0", "0000:3d:00.4", "0000:31:00.4", "x"])
TYPE = st.sampled_from(["nvidia-233", "nvidia-1152", "nvidia-699", "../x-1"])
COUNT = st.one_of(st.none(), st.integers(), st.just(10**9))
KIND = st.sampled_from([kind.value for kind in ProblemKind])
FAILURE = st.tuples(
    KIND,
    st.one_of(st.just(""), ADDRESS),
    st.dictionaries(st.sampled_from(["reason", "vgpu_type", "place", "x"]), hostile.texts()),
)
MAPPING = st.fixed_dictionaries(
    {},
    optional={
        "requested": hostile.nearly(hostile.mappings()),
        "published": hostile.nearly(hostile.mappings()),
        "requested_report_in_placement": hostile.nearly(st.booleans()),
    },
)
BACKOFF = st.fixed_dictionaries(
    {},
    optional={
        "conditions": hostile.nearly(hostile.texts()),
        "failures": hostile.nearly(st.integers()),
        "failed_at": hostile.nearly(st.integers()),
        "delay": hostile.nearly(st.integers()),
        "problem": FAILURE,
    },
)

# The format of each file.
RECORDS = {
    f"{STATE}/state.json": st.fixed_dictionaries(
        {},
        optional={
            name: hostile.nearly(
                {
                    "mapping": MAPPING,
                    "installation": BACKOFF,
                    "preparation": BACKOFF,
                    "undone": BACKOFF,
                    "resource_inspection": st.one_of(
                        FAILURE, st.lists(hostile.texts()).map(lambda texts: ["package", *texts])
                    ),
                }.get(name, st.booleans() if default is False else hostile.texts())
            )
            for name, default in CharmState._field_defaults.items()
        },
    ),
    f"{STATE}/bound-functions.json": st.dictionaries(
        ADDRESS, hostile.nearly(st.sampled_from(["10de:1eb8", "10de:26b9"]))
    ),
    f"{STATE}/mdevs.json": st.dictionaries(
        st.just(trees.UUID),
        st.fixed_dictionaries(
            {"parent": ADDRESS, "type_id": TYPE},
            optional={"name": hostile.nearly(hostile.type_names())},
        ),
    ),
    f"{STATE}/assigned-types.json": st.dictionaries(ADDRESS, hostile.nearly(TYPE)),
    f"{STATE}/types.json": st.dictionaries(
        st.sampled_from(["10de:26b9", "10de:20b5", "10de:2235", "x"]),
        st.dictionaries(
            TYPE,
            st.fixed_dictionaries(
                {"name": hostile.nearly(hostile.type_names())},
                optional={
                    "max_instances": COUNT,
                    "gpu_instance_profile": COUNT,
                    "vgpus_per_gpu_instance": COUNT,
                },
            ),
        ),
    ),
    f"{RUN}/modes.json": st.dictionaries(
        ADDRESS,
        st.fixed_dictionaries(
            {
                "gpu_instances": st.lists(COUNT),
                "mixed_size": st.sampled_from([None, True, False, 1, "x"]),
            },
            optional={"types_queried": hostile.nearly(st.booleans())},
        ),
    ),
    f"{RUN}/result.json": st.fixed_dictionaries({"failures": st.lists(FAILURE)}),
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
        state = resource.ensure_inspected(run, charm_state.load(root))
        attached = resource.inspected(state)
        for problem in (*boot_result.failures(root), *filter(None, [attached.problem])):
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
        nouveau.ensure_blocked(root, programs.Programs(programs.NO_OUTPUT))
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
