# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Terraform module, parsed as HCL and compared with the charm's metadata."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hcl2
import pytest

FILES = ("main.tf", "outputs.tf", "variables.tf", "versions.tf")


@pytest.fixture(scope="module")
def module(repository: Path) -> dict[str, Any]:
    """The four files combined, with strings unquoted."""
    blocks_by_kind: dict[str, Any] = {}
    assert sorted(path.name for path in (repository / "terraform").glob("*.tf")) == list(FILES)
    for name in FILES:
        with (repository / "terraform" / name).open(encoding="utf-8") as stream:
            for kind, blocks in _unquoted(hcl2.load(stream)).items():
                blocks_by_kind.setdefault(kind, []).extend(blocks)
    return blocks_by_kind


def _unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            _unquoted(key): _unquoted(item) for key, item in value.items() if key != "__is_block__"
        }
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def _by_name(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: body for block in blocks for name, body in block.items()}


@pytest.fixture(scope="module")
def application(module: dict[str, Any]) -> dict[str, Any]:
    (resource,) = module["resource"]
    return resource["juju_application"]["nova_compute_nvidia_vgpu"]


def test_the_charm_is_deployed_without_units_and_without_a_machine(application):
    assert application.keys() == {"name", "model_uuid", "charm", "config", "resources"}
    (charm,) = application["charm"]
    assert charm.keys() == {"name", "base", "channel", "revision"}


def test_the_module_deploys_this_charm(application, module, metadata):
    assert application["charm"][0]["name"] == metadata["name"]
    assert _by_name(module["variable"])["app_name"]["default"] == metadata["name"]


def test_exactly_the_declared_variables_are_used(repository, module):
    text = "".join((repository / "terraform" / name).read_text("utf-8") for name in FILES)
    used = set(re.findall(r"\bvar\.(\w+)", text))
    assert used == _by_name(module["variable"]).keys()


def test_each_variable_and_output_has_a_description(module):
    for blocks in (module["variable"], module["output"]):
        for name, body in _by_name(blocks).items():
            assert body["description"].endswith("."), name


def test_the_module_accepts_the_options_of_the_charm(repository, options, module):
    text = (repository / "terraform/variables.tf").read_text(encoding="utf-8")
    match = re.search(r"setsubtract\(keys\(var\.config\), \[(.*?)\]\)", text, re.DOTALL)
    assert match is not None
    assert re.findall(r'"([^"]+)"', match[1]) == sorted(options)
    message = _by_name(module["variable"])["config"]["validation"][0]["error_message"]
    assert all(name in message for name in options)


def test_the_outputs_list_every_endpoint_of_the_charm(module, metadata):
    outputs = _by_name(module["output"])
    assert outputs.keys() == {"app_name", "provides", "requires"}
    for role in ("provides", "requires"):
        expected = {name.replace("-", "_"): name for name in metadata[role]}
        assert outputs[role]["value"] == expected


def test_the_described_resource_is_the_charms(module, metadata):
    (name,) = metadata["resources"]
    assert name in _by_name(module["variable"])["resources"]["description"]


def test_the_readme_lists_the_variables_and_outputs(repository, module):
    text = (repository / "terraform/README.md").read_text(encoding="utf-8")
    inputs, _, outputs = text.partition("| output |")
    row = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
    assert row.findall(inputs) == sorted(_by_name(module["variable"]))
    assert row.findall(outputs) == sorted(_by_name(module["output"]))


def test_the_example_in_the_readme_is_valid_for_the_module(repository, module):
    text = (repository / "terraform/README.md").read_text(encoding="utf-8")
    block = "\n".join(re.findall(r"^    (.*)|^$", text[: text.index("The provider takes")], re.M))
    example = _unquoted(hcl2.loads(block + "\n"))
    call = example["module"][0]["nova_compute_nvidia_vgpu"]
    assert call.keys() - {"source"} <= _by_name(module["variable"]).keys()
    assert call["config"].keys() == {"vgpu-device-mappings"}


def test_the_provider_version_identifies_models_by_uuid(module):
    (terraform,) = module["terraform"]
    (required,) = terraform["required_providers"]
    assert required["juju"] == {"source": "juju/juju", "version": ">= 1.0.0, < 3.0.0"}
