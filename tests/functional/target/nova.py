# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the vGPU options of a nova.conf; pure functions."""

from __future__ import annotations

import configparser
from typing import Dict

Sections = Dict[str, Dict[str, str]]


def sections(text: str) -> Sections:
    """Read a nova.conf; sections may be repeated, and the last value of an option counts."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def offers(conf: Sections) -> bool:
    """Return whether a nova.conf enables any vGPU type."""
    return bool(conf.get("devices", {}).keys() & {"enabled_mdev_types", "enabled_vgpu_types"})


def option_prefix(version: str) -> str:
    """Return how a version of nova-common names its options; 24 (xena) renamed them."""
    return "mdev" if int(version.rpartition(":")[2].split(".")[0]) >= 24 else "vgpu"
