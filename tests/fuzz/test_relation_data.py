# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any data in the relation: both sides accept what matches the schema, and refuse the rest."""

from __future__ import annotations

import checks
import hostile
from examples import fuzzed
from hypothesis import strategies as st

from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import DatabagError, ProviderData

TEXT = st.one_of(st.sampled_from(["devices", "enabled_mdev_types", "nvidia-35"]), hostile.texts())
SECTIONS = st.dictionaries(TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3), max_size=3)
NEARLY = {
    "subordinate_configuration": SECTIONS.map(
        lambda sections: {"nova": {"/etc/nova/nova.conf": {"sections": sections}}}
    ),
    "services": st.lists(TEXT, max_size=3),
    "releases-packages-map": st.dictionaries(
        TEXT, st.builds(lambda names: {"deb": {"install": names}}, st.lists(TEXT)), max_size=2
    ),
}
BAGS = st.fixed_dictionaries(
    {},
    optional={
        key: hostile.json_files(shape).map(lambda data: data.decode("utf-8", "replace"))
        for key, shape in NEARLY.items()
    },
)


@fuzzed(share=2, bag=BAGS)
def test_the_principal_gets_only_printable_lines_and_names(bag):
    try:
        data = ProviderData.from_databag(bag)
    except DatabagError:
        return
    for name, pairs in data.sections.items():
        for text in (name, *(text for pair in pairs for text in pair)):
            assert not set(text) & set(map(chr, [*range(32), 127]))
    assert all(" " not in item for item in (*data.services, *data.packages))


@fuzzed(share=2, sections=SECTIONS)
def test_no_text_with_a_line_break_is_published(sections):
    try:
        bag = ProviderData(sections=sections).to_databag()
    except DatabagError:
        return
    for name, pairs in sections.items():
        assert all(
            text.isprintable() for text in (name, *(text for pair in pairs for text in pair))
        )
    assert set(bag) == set(NEARLY)
    assert checks.json.loads(bag["services"]) == []
