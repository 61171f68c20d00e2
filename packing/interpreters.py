# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Python interpreters of this machine, and which of them to use for a base."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

__all__ = ["bases", "find", "for_base"]

BASES = Path(__file__).with_name("bases")


def bases() -> dict[str, str]:
    """Return the Python version of each base, e.g. 3.10 for 22.04."""
    rows = BASES.read_text(encoding="utf-8").splitlines()
    return dict(row.split() for row in rows)


def for_base(base: str) -> Path | None:
    """Return the interpreter to use for a base; 3.13 also serves for newer versions."""
    python = bases()[base]
    return find(python) or (find("3.13") if _minor(python) > 13 else None)


@lru_cache(maxsize=None)
def find(python: str) -> Path | None:
    """Return an interpreter of a version: the system's, or one that pyenv installed."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob(f"versions/{python}.*/bin"))
    for folder in folders:
        program = folder / f"python{python}"
        answer = _query(program) if program.exists() else []
        if answer[:1] == [python]:
            return Path(answer[1])
    return None


def _query(program: Path) -> list[str]:
    """Return an interpreter's version and real path; pyenv's shims are slow and may fail."""
    code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable, sep='\\n')"
    result = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
    return result.stdout.splitlines() if result.returncode == 0 else []


def _minor(python: str) -> int:
    return int(python.split(".")[1])
