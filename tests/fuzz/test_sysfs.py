# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any content of sysfs: the host is read, and all output passes the checks."""

from __future__ import annotations

import checks
import hostile
import trees
from examples import fuzzed
from hypothesis import strategies as st

from nova_compute.nova_conf import PciOptions

OPTIONS = st.builds(PciOptions, st.booleans(), st.booleans())
KNOWN = ("..", ".", "/", "/dev/null", "/nowhere", "x" * 200, "../0000:84:00.0", "../\udcff\n",
         "../0000:41:00.4", "../0000:3d:00.4", "../0000:3d:00.0")  # fmt: skip
TARGETS = st.one_of(st.sampled_from(KNOWN), hostile.names()).map(trees.Link)
OTHERS = st.one_of(hostile.octets(), TARGETS, st.sampled_from([None, trees.Folder()]))

# Nearly the right content of each attribute.
_ROW = st.builds(
    "{}{}{}".format, hostile.numerals(), st.sampled_from([": ", " "]), hostile.type_names()
)
_ROWS = st.lists(_ROW).map(lambda rows: "\n".join(["ID : vGPU Name", *rows]))
NEARLY = {
    "vendor": st.one_of(st.just("0x10de"), hostile.numerals()),
    "device": hostile.numerals(),
    "class": st.one_of(st.sampled_from(["0x030000", "0x068000"]), hostile.numerals()),
    "subsystem_vendor": hostile.numerals(),
    "numa_node": hostile.numerals(),
    "sriov_totalvfs": hostile.numerals(),
    "name": hostile.type_names(),
    "description": st.builds("framebuffer={}M, max_instance={}".format, *[hostile.numerals()] * 2),
    "available_instances": hostile.numerals(),
    "current_vgpu_type": st.one_of(st.sampled_from(["1148", "1152", "0"]), hostile.numerals()),
    "creatable_vgpu_types": _ROWS,
    "version": hostile.numerals(),
}


NEW_LINKS = (
    "virtfn0", "virtfn9", f"virtfn{'9' * 200}", "physfn", "iommu_group",
    f"{trees.UUID}/mdev_type", f"{'n' * 36}/mdev_type",
)  # fmt: skip


@st.composite
def attributes(draw, hosts):
    """A host with invalid attributes, on one function or on all."""
    name = draw(st.sampled_from(sorted(hosts)))
    edits = {}
    files = [path for path in trees.files(hosts[name] / "sys") if path.rsplit("/", 1)[1] in NEARLY]
    for place in draw(st.lists(st.sampled_from(files), min_size=1, max_size=5)):
        attribute = place.rsplit("/", 1)[1]
        nearly = NEARLY[attribute].map(hostile.encoded)
        is_everywhere = draw(st.booleans())
        content = draw(st.one_of(nearly, nearly, nearly, OTHERS))
        for path in files if is_everywhere else [place]:
            if path.endswith(f"/{attribute}"):
                edits[f"sys/{path}"] = content
    return name, edits


@fuzzed(share=1.5, data=st.data(), options=OPTIONS, is_counted=st.booleans())
def test_the_host_is_read_with_any_attribute(hosts, data, options, is_counted):
    name, edits = data.draw(attributes(hosts))
    text = data.draw(st.sampled_from(trees.MAPPINGS[name]))
    with trees.modified(hosts[name], edits) as root, checks.Log():
        checks.host(root, text, options, count=is_counted)


@fuzzed(data=st.data(), options=OPTIONS)
def test_the_host_is_read_with_any_target_of_a_link(hosts, data, options):
    """The links are those of drivers, functions, vGPU types and IOMMU groups."""
    name = data.draw(st.sampled_from(sorted(hosts)))
    links = trees.files(hosts[name] / "sys", links=True)
    cards = [path.rsplit("/", 1)[0] for path in links if path.endswith("/driver")]
    links += [f"{data.draw(st.sampled_from(cards))}/{new}" for new in NEW_LINKS]
    links += [f"bus/pci/devices/{new}" for new in ("84:00.0", "0000:AF:00.0", "\n\x1b[2J")]
    places = data.draw(st.lists(st.sampled_from(links), min_size=1, max_size=4, unique=True))
    content = st.one_of(TARGETS, OTHERS)
    edits = {f"sys/{place}": data.draw(content) for place in sorted(places, reverse=True)}
    text = data.draw(st.sampled_from(trees.MAPPINGS[name]))
    with trees.modified(hosts[name], edits) as root, checks.Log():
        checks.host(root, text, options)
