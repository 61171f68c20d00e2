# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which package may import which others; CONTRIBUTING.md has the same table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"

# `system.text` is pure, and may be used by pure packages.
ALLOWED = {
    "gpu": {"gpu"},
    "planning": {"planning", "gpu", "system.text"},
    "nova_compute": {"nova_compute", "planning", "gpu"},
    "system": {"system", "gpu"},
    "state": {"state", "system", "gpu"},
    "host": {"host", "state", "system", "nova_compute.release", "gpu"},
    "driver": {"driver", "host", "state", "system", "gpu"},
    "cards": {"cards", "host", "state", "system", "nova_compute", "planning", "gpu"},
    "status": {
        "status", "driver", "host", "state", "nova_compute", "planning", "gpu", "system.text",
    },
    "actions": {
        "actions", "status", "cards.nvidia_smi", "host", "nova_compute", "planning", "gpu",
        "system",
    },
    "boot": {"cards", "host", "state", "system", "gpu"},
    "early_boot": {"host", "state", "system", "gpu"},
    "charm": {"actions", "status", "cards", "driver", "host", "state", "system", "gpu"},
}  # fmt: skip


def modules():
    """Return each module with the name of its package, or of itself at the top level."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).parts[0].replace(".py", ""), path


def imports(path):
    """Return the complete names that a module imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_packages_import_only_what_they_may():
    for package, path in modules():
        for name in imports(path):
            own = name.split(".")[0] in ALLOWED
            prefixes = {".".join(name.split(".")[:length]) for length in (1, 2)}
            assert not own or prefixes & ALLOWED[package], f"{path.relative_to(ROOT)}: {name}"


def test_all_packages_are_listed():
    assert {package for package, _ in modules()} == set(ALLOWED)


def test_only_the_charm_uses_ops():
    for package, path in modules():
        uses_ops = any(name.split(".")[0] == "ops" for name in imports(path))
        assert uses_ops == (package == "charm"), path


def test_no_hook_imports_the_actions():
    tree = ast.parse((SOURCE / "charm.py").read_text(encoding="utf-8"))
    top_level = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not any((node.module or "").startswith("actions") for node in top_level)


def test_contributors_guide_has_the_same_table():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.split("### Allowed imports")[1].split("### Data flow")[0]
    rows = re.findall(r"^\| `(\w+)(?:\.py)?` \| (.+) \|$", text, re.MULTILINE)
    table = {package: set(re.findall(r"`([\w.]+)`", others)) for package, others in rows}
    for package, allowed in ALLOWED.items():
        assert table[package] == allowed - {package}, package
