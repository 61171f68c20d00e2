# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The chapters for the guides of the OpenStack charms are valid, and their commands work."""

from __future__ import annotations

import re
import textwrap

import documents
import openstack_client
import pytest
import simulated_host
import yaml
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives

CHAPTERS = sorted((documents.ROOT / "docs/upstream").glob("*.rst"))
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?:   .*)?\n)+)", re.MULTILINE)


class CodeBlock(Directive):
    """Sphinx's directive, which docutils does not know."""

    required_arguments = 1
    has_content = True

    def run(self):
        return []


@pytest.fixture(params=CHAPTERS, ids=documents.name)
def text(request):
    return request.param.read_text(encoding="utf-8")


def blocks(text, language):
    return [textwrap.dedent(body) for name, body in BLOCK.findall(text) if name == language]


def commands(text):
    joined = [re.sub(r"\s*\\\n\s*", " ", block) for block in blocks(text, "none")]
    return [line for block in joined for line in block.splitlines() if line]


def test_chapter_is_valid(text):
    directives.register_directive("code-block", CodeBlock)
    publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})
    assert max(map(len, text.splitlines())) < 90


def test_commands_of_the_charm_work(text):
    with simulated_host.start("t4-fresh", nova="25.2.1", deployed="no") as session:
        for command in filter(session.understands, commands(text)):
            if "passthrough-devices" in command:
                session.run("juju config nova-compute-nvidia-vgpu --reset vgpu-device-mappings")
            session.run(command)
            assert session.host.status[1].partition(":")[0] != "vgpu-device-mappings"


def test_commands_of_openstack_are_accepted(text):
    for command in commands(text):
        if command.startswith("openstack "):
            openstack_client.parse(command)


def test_bundles_name_what_the_charm_has(text):
    for block in blocks(text, "yaml"):
        application = yaml.safe_load(block)["applications"]["nova-compute-nvidia-vgpu"]
        options = yaml.safe_load((documents.ROOT / "config.yaml").read_text())["options"]
        metadata = yaml.safe_load((documents.ROOT / "metadata.yaml").read_text())
        assert set(application["options"]) <= set(options)
        assert set(application["resources"]) <= set(metadata["resources"])
