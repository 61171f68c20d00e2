# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Terraform module, read as HCL and held against the charm's own metadata."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import hcl2
import pytest

FILES = ("main.tf", "outputs.tf", "variables.tf", "versions.tf")


@pytest.fixture(scope="module")
def module(repository: Path) -> dict[str, Any]:
    """The four files as one, strings without their quotes."""
    found: dict[str, Any] = {}
    assert sorted(path.name for path in (repository / "terraform").glob("*.tf")) == list(FILES)
    for name in FILES:
        with (repository / "terraform" / name).open(encoding="utf-8") as stream:
            for kind, blocks in _plain(hcl2.load(stream)).items():
                found.setdefault(kind, []).extend(blocks)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items() if key != "__is_block__"}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def _named(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: body for block in blocks for name, body in block.items()}


@pytest.fixture(scope="module")
def application(module: dict[str, Any]) -> dict[str, Any]:
    (resource,) = module["resource"]
    return resource["juju_application"]["nova_compute_nvidia_vgpu"]


def test_a_subordinate_is_deployed_without_units_and_without_a_place(application):
    assert application.keys() == {"name", "model_uuid", "charm", "config", "resources"}
    (charm,) = application["charm"]
    assert charm.keys() == {"name", "base", "channel", "revision"}


def test_the_charm_is_this_one(application, module, metadata):
    assert application["charm"][0]["name"] == metadata["name"]
    assert _named(module["variable"])["app_name"]["default"] == metadata["name"]


def test_every_variable_is_used_and_every_one_used_is_there(repository, module):
    text = "".join((repository / "terraform" / name).read_text("utf-8") for name in FILES)
    used = set(re.findall(r"\bvar\.(\w+)", text))
    assert used == _named(module["variable"]).keys()


def test_each_variable_and_output_says_what_it_is(module):
    for blocks in (module["variable"], module["output"]):
        for name, body in _named(blocks).items():
            assert body["description"].endswith("."), name


def test_the_options_that_it_takes_are_those_of_the_charm(repository, options, module):
    text = (repository / "terraform/variables.tf").read_text(encoding="utf-8")
    checked = re.search(r"setsubtract\(keys\(var\.config\), \[(.*?)\]\)", text, re.DOTALL)
    assert checked is not None
    assert re.findall(r'"([^"]+)"', checked[1]) == sorted(options)
    message = _named(module["variable"])["config"]["validation"][0]["error_message"]
    assert all(name in message for name in options)


def test_the_outputs_name_every_endpoint_of_the_charm(module, metadata):
    outputs = _named(module["output"])
    assert outputs.keys() == {"app_name", "provides", "requires"}
    for role in ("provides", "requires"):
        expected = {name.replace("-", "_"): name for name in metadata[role]}
        assert outputs[role]["value"] == expected


def test_the_resource_that_it_speaks_of_is_the_charms(module, metadata):
    (name,) = metadata["resources"]
    assert name in _named(module["variable"])["resources"]["description"]


def test_the_readme_lists_the_variables_and_outputs(repository, module):
    text = (repository / "terraform/README.md").read_text(encoding="utf-8")
    inputs, _, outputs = text.partition("| output |")
    row = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
    assert row.findall(inputs) == sorted(_named(module["variable"]))
    assert row.findall(outputs) == sorted(_named(module["output"]))


def test_the_example_in_the_readme_is_hcl_that_the_module_takes(repository, module):
    text = (repository / "terraform/README.md").read_text(encoding="utf-8")
    block = "\n".join(re.findall(r"^    (.*)|^$", text[: text.index("The provider takes")], re.M))
    example = _plain(hcl2.loads(block + "\n"))
    call = example["module"][0]["nova_compute_nvidia_vgpu"]
    assert call.keys() - {"source"} <= _named(module["variable"]).keys()
    assert call["config"].keys() == {"vgpu-device-mappings"}


def test_the_provider_is_one_that_names_models_by_uuid(module):
    (terraform,) = module["terraform"]
    (required,) = terraform["required_providers"]
    assert required["juju"] == {"source": "juju/juju", "version": ">= 1.0.0, < 3.0.0"}
