# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The sources of the charm use no shell and create no code from data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("lib/**/*.py")])
FORBIDDEN = {"os.system", "os.popen", "subprocess.getoutput", "yaml.load", "yaml.unsafe_load",
             "eval", "exec", "compile", "__import__"}  # fmt: skip
MODULES = {"pickle", "marshal", "shelve"}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_shell_and_no_code_from_data(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert dotted(node.func) not in FORBIDDEN, node.lineno
            assert "shell" not in [keyword.arg for keyword in node.keywords], node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & MODULES, node.lineno
            if "subprocess" in names:
                assert path.name == "commands.py"
