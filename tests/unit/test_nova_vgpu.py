# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The relation library: provider and requirer."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import ops
import pytest
from ops import testing

from charms.nova_compute_nvidia_vgpu.v0 import nova_vgpu
from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import (
    DatabagError,
    NovaVgpuProvides,
    NovaVgpuRequires,
    ProviderData,
)

DATA = ProviderData(
    sections={
        "devices": (("enabled_mdev_types", "nvidia-35, nvidia-36"),),
        "mdev_nvidia-35": (("device_addresses", "0000:84:00.0"), ("max_instances", "2")),
    },
    services=("nvidia-vgpu-mgr",),
    release="yoga",
    packages=("nvidia-vgpu-ubuntu-570",),
)
DATABAG = {
    "subordinate_configuration": json.dumps(
        {
            "nova": {
                "/etc/nova/nova.conf": {
                    "sections": {
                        "devices": [["enabled_mdev_types", "nvidia-35, nvidia-36"]],
                        "mdev_nvidia-35": [
                            ["device_addresses", "0000:84:00.0"],
                            ["max_instances", "2"],
                        ],
                    }
                }
            }
        }
    ),
    "services": '["nvidia-vgpu-mgr"]',
    "releases-packages-map": (
        '{"yoga": {"deb": {"install": ["nvidia-vgpu-ubuntu-570"], "purge": []}}}'
    ),
}
EMPTY = {
    "subordinate_configuration": '{"nova": {"/etc/nova/nova.conf": {"sections": {}}}}',
    "services": "[]",
    "releases-packages-map": "{}",
}


class Provider(ops.CharmBase):
    """Publishes the data that its option `publish` names."""

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        self.nova_vgpu = NovaVgpuProvides(self)
        framework.observe(self.on.config_changed, self._publish)

    def _publish(self, _: ops.EventBase) -> None:
        data_set = self.config["publish"]
        if data_set == "data":
            self.changed = self.nova_vgpu.publish(DATA)
        elif data_set == "services":
            self.changed = self.nova_vgpu.publish(ProviderData(), keep_sections=True)
        else:
            self.changed = self.nova_vgpu.withdraw()


class Requirer(ops.CharmBase):
    """Reads the data of its subordinates and requests a restart."""

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        self.nova_vgpu = NovaVgpuRequires(self)
        framework.observe(self.on.update_status, self._read)

    def _read(self, _: ops.EventBase) -> None:
        self.read = self.nova_vgpu.provided()
        self.nova_vgpu.trigger_restart("a-uuid")


def provider() -> testing.Context[Provider]:
    return testing.Context(
        Provider,
        meta={
            "name": "provider",
            "subordinate": True,
            "provides": {"nova-vgpu": {"interface": "nova-vgpu", "scope": "container"}},
            "requires": {"juju-info": {"interface": "juju-info", "scope": "container"}},
        },
        config={"options": {"publish": {"type": "string", "default": "data"}}},
    )


def publish(data_set: str, present: dict[str, str]) -> tuple[bool, dict[str, str]]:
    relation = testing.SubordinateRelation("nova-vgpu", local_unit_data=dict(present))
    context = provider()
    state = testing.State(relations={relation}, config={"publish": data_set})
    with context(context.on.config_changed(), state) as manager:
        out = manager.run()
        changed = manager.charm.changed
    data = out.get_relation(relation.id).local_unit_data
    return changed, {key: data[key] for key in EMPTY if key in data}


def test_published_databag_has_the_format_of_the_principal():
    assert publish("data", {}) == (True, DATABAG)


def test_unchanged_data_is_not_written_again():
    assert publish("data", DATABAG) == (False, DATABAG)


def test_withdrawing_leaves_empty_sections():
    assert publish("withdraw", DATABAG) == (True, EMPTY)


def test_sections_are_kept_on_request():
    changed, databag = publish("services", DATABAG)
    assert changed
    assert databag == {**EMPTY, "subordinate_configuration": DATABAG["subordinate_configuration"]}


def test_nothing_is_published_without_a_relation():
    context = provider()
    with context(context.on.config_changed(), testing.State()) as manager:
        manager.run()
        assert manager.charm.changed is False
        assert manager.charm.nova_vgpu.is_related is False


def test_requirer_reads_what_the_provider_writes():
    assert ProviderData.from_databag(DATA.to_databag()) == DATA


def test_empty_databag_contains_no_data():
    assert ProviderData.from_databag({}) == ProviderData()


def test_requirer_reads_each_subordinate_and_requests_restarts():
    context = testing.Context(
        Requirer,
        meta={
            "name": "requirer",
            "requires": {"nova-vgpu": {"interface": "nova-vgpu", "scope": "container"}},
        },
    )
    relation = testing.SubordinateRelation("nova-vgpu", remote_unit_data=dict(DATABAG))
    with context(context.on.update_status(), testing.State(relations={relation})) as manager:
        out = manager.run()
        assert manager.charm.read == (DATA,)
    assert out.get_relation(relation.id).local_unit_data["restart-trigger"] == "a-uuid"


@pytest.mark.parametrize(
    "pair",
    [("enabled_mdev_types", "nvidia-35\nvirt_type = qemu"), ("a\n[libvirt]", "x"), ("a", "\x00")],
    ids=["line-break-in-a-value", "line-break-in-an-option", "nul"],
)
def test_control_character_is_never_published(pair):
    with pytest.raises(DatabagError) as error:
        ProviderData(sections={"devices": [pair]}).to_databag()
    assert str(error.value).startswith("section 'devices': not one line of text: ")


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("services", "null", "services: None is not of type 'array'"),
        ("services", '"nvidia-vgpu-mgr"', "services: 'nvidia-vgpu-mgr' is not of type 'array'"),
        ("services", "[1]", "services.0: 1 is not of type 'string'"),
        ("services", "junk", "services: not valid JSON"),
        ("services", "[" * 100_000, "services: not valid JSON"),
        (
            "subordinate_configuration",
            '{"nova": {"/etc/nova/nova.conf": {"sections": {"devices": "x"}}}}',
            "subordinate_configuration.nova./etc/nova/nova.conf.sections.devices: "
            "'x' is not of type 'array'",
        ),
        (
            "subordinate_configuration",
            '{"nova": {"/etc/nova/nova.conf": {"sections": {"devices": [["a", "b\\nc"]]}}}}',
            "subordinate_configuration.nova./etc/nova/nova.conf.sections.devices.0.1: "
            "'b\\nc' does not match '^[^\\\\x00-\\\\x1f\\\\x7f]*$(?![\\\\s\\\\S])'",
        ),
        (
            "releases-packages-map",
            '{"yoga": {"deb": {"install": "x"}}}',
            "releases-packages-map.yoga.deb.install: 'x' is not of type 'array'",
        ),
    ],
)
def test_databag_that_violates_the_schema_is_rejected_with_the_path(key, text, message):
    with pytest.raises(DatabagError) as error:
        ProviderData.from_databag({key: text})
    assert str(error.value) == message


def test_library_metadata_is_literal_and_complete():
    """Charmhub reads the file without running it, so each value is a literal at the top level."""
    path = Path(nova_vgpu.__file__)
    metadata = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in {"LIBID", "LIBAPI", "LIBPATCH", "PYDEPS"}
    }
    assert re.fullmatch(r"[0-9a-f]{32}", metadata["LIBID"])
    assert type(metadata["LIBAPI"]) is int
    assert path.parent.name == f"v{metadata['LIBAPI']}"
    assert type(metadata["LIBPATCH"]) is int
    assert metadata["LIBPATCH"] >= 1
    assert path.parents[1].name == "nova_compute_nvidia_vgpu"
    shipped = (Path(__file__).parents[2] / "requirements.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in shipped for name in metadata["PYDEPS"])
