# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the documents show is what the charm does.

The charm's own commands run on recorded hosts. Commands of other programs are parsed: those of the
OpenStack client by its own parser, the others by the shell.
"""

from __future__ import annotations

import json
import subprocess

import documents
import openstack_client
import pytest
import run_examples
import simulated_host
import yaml

PATHS = documents.paths()


@pytest.fixture(params=PATHS, ids=documents.name)
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param.read_text(encoding="utf-8"))


def commands(text: str) -> list[str]:
    examples = documents.examples(text)
    return [command for example in examples for command, _ in example.commands]


def test_outputs_are_those_of_the_charm(text):
    for done in run_examples.run_document(text, run_examples.SIMULATED, simulated_host.start):
        if not documents.agrees(done.shown, done.printed):
            assert done.shown == done.printed, f"{done.place}: {done.command}; make update-docs"


def test_every_command_of_the_charm_is_run(text):
    place = None
    for example in documents.examples(text):
        for key, _ in example.comments:
            place = key if key in (run_examples.SIMULATED, run_examples.BOOTED) else place
        assert place or not run_examples.of_the_charm(example), f"line {example.line}: no session"


def test_the_client_accepts_the_commands_of_openstack(text):
    for command in commands(text):
        if command.startswith("openstack "):
            openstack_client.parse(command)


def test_a_shell_accepts_all_commands(text):
    script = "\n".join(commands(text))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_files_can_be_read(text):
    for example in documents.examples(text):
        if example.language == "yaml":
            list(yaml.safe_load_all(example.body))
        if example.language == "json":
            json.loads(example.body)


def test_code_is_always_in_blocks_with_a_language(text):
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert "```" not in fences[::2]
    assert not any(line.startswith("    $ ") for line in text.splitlines())


def test_lines_that_a_document_leaves_out_may_differ():
    assert documents.agrees("a\n...\nz", "a\nb\nc\nz")
    assert documents.agrees("a\n...", "a")
    assert not documents.agrees("a\n...\nz", "a\nb")
    assert not documents.agrees("a", "a\nb")
    assert not documents.agrees("a.b", "axb")
