# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in the relation: either side takes what the schema asks for, or refuses it."""

from __future__ import annotations

import holds
import hostile
from examples import tried
from hypothesis import strategies as st

from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import DatabagError, ProviderData

WORD = st.one_of(st.sampled_from(["devices", "enabled_mdev_types", "nvidia-35"]), hostile.texts())
SECTIONS = st.dictionaries(WORD, st.lists(st.tuples(WORD, WORD), max_size=3), max_size=3)
NEARLY = {
    "subordinate_configuration": SECTIONS.map(
        lambda found: {"nova": {"/etc/nova/nova.conf": {"sections": found}}}
    ),
    "services": st.lists(WORD, max_size=3),
    "releases-packages-map": st.dictionaries(
        WORD, st.builds(lambda names: {"deb": {"install": names}}, st.lists(WORD)), max_size=2
    ),
}
BAGS = st.fixed_dictionaries(
    {},
    optional={
        key: hostile.json_files(shape).map(lambda data: data.decode("utf-8", "replace"))
        for key, shape in NEARLY.items()
    },
)


@tried(share=2, bag=BAGS)
def test_whatever_a_provider_writes_the_principal_gets_lines_and_words(bag):
    try:
        found = ProviderData.from_databag(bag)
    except DatabagError:
        return
    for name, pairs in found.sections.items():
        for word in (name, *(word for pair in pairs for word in pair)):
            assert not set(word) & set(map(chr, [*range(32), 127]))
    assert all(" " not in word for word in (*found.services, *found.packages))


@tried(share=2, sections=SECTIONS)
def test_nothing_that_would_break_its_line_is_published(sections):
    try:
        bag = ProviderData(sections=sections).to_databag()
    except DatabagError:
        return
    for name, pairs in sections.items():
        assert all(
            word.isprintable() for word in (name, *(word for pair in pairs for word in pair))
        )
    assert set(bag) == set(NEARLY)
    assert holds.json.loads(bag["services"]) == []
