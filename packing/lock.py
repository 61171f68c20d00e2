#!/usr/bin/env python3
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Write requirements/python*.txt: what the charm ships for each Python, pinned and with hashes.

requirements.txt lists what the charm itself imports. uv resolves its dependencies for each Python;
pip can do that only for the Python that it runs on. The lock names one file of each package: a
pure-Python wheel, which serves every processor. Run this with `make lock`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    import tomllib
except ImportError:  # before Python 3.11
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[1]
LOCKS = REPOSITORY / "requirements"
# Published only as compiled wheels. The compiled part is optional, and `dependencies` removes it.
# The wheels for all processors have the same Python files.
COMPILED = {"pyyaml"}
HEADING = "# What the charm ships for Python {python}; written by `make lock`.\n"


def main(uv: str) -> int:
    """Write a lock for each Python; return the exit code."""
    LOCKS.mkdir(exist_ok=True)
    for python in pythons():
        command = [uv, "pip", "compile", "--quiet", "--format", "pylock.toml"]
        command += ["--python-version", python, str(REPOSITORY / "requirements.txt")]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        packages = tomllib.loads(result.stdout)["packages"]
        lines = [
            f"{package['name']}=={package['version']} --hash=sha256:{digest(package, python)}\n"
            for package in packages
        ]
        lock = LOCKS / f"python{python}.txt"
        lock.write_text(HEADING.format(python=python) + "".join(lines), encoding="utf-8")
        print(f"{lock.relative_to(REPOSITORY)}: {len(lines)} packages")
    return 0


def pythons() -> list[str]:
    """Return the Python versions of the bases, oldest first."""
    rows = (REPOSITORY / "packing/bases").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(row.split()[1] for row in rows))


def digest(package: dict[str, Any], python: str) -> str:
    """Return the hash of the package's file to use."""
    endings = ["-none-any.whl"]
    if package["name"] in COMPILED:
        tag = f"cp{python.replace('.', '')}"
        endings = [f"-{tag}-{tag}-", "manylinux2014_x86_64"]
    for wheel in package["wheels"]:
        name = wheel["url"].rsplit("/", 1)[-1]
        if all(ending in name for ending in endings):
            return str(wheel["hashes"]["sha256"])
    raise SystemExit(f"{package['name']} {package['version']} has no wheel for Python {python}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
