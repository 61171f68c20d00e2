# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What stands in a nova.conf about vGPUs; pure."""

from __future__ import annotations

import configparser
from typing import Dict

Sections = Dict[str, Dict[str, str]]


def sections(text: str) -> Sections:
    """Read a nova.conf that may name a section twice; of an option said twice the last counts."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def offers(conf: Sections) -> bool:
    """Say whether a nova.conf names any type of vGPU."""
    return bool(conf.get("devices", {}).keys() & {"enabled_mdev_types", "enabled_vgpu_types"})


def word(version: str) -> str:
    """Return what a version of nova-common calls a type: it was renamed in 24 (xena)."""
    return "mdev" if int(version.rpartition(":")[2].split(".")[0]) >= 24 else "vgpu"
