# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A plan in the words of the installed Nova; pure.

The principal prints each pair as `key = value` without escaping, so only text of a known shape
gets through here, whatever the layers above have checked. Option names: nova/conf/devices.py.
"""

from __future__ import annotations

import re
from typing import Iterable

from plan import Assignment
from releases import NovaVersion

__all__ = ["render"]

_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*-[0-9]{1,9}", re.ASCII)
_RESOURCE_CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


def render(
    assignments: Iterable[Assignment], nova: NovaVersion
) -> dict[str, list[tuple[str, str]]]:
    """Return nova.conf's sections as pairs of option and value; empty if nothing is offered.

    An empty set of sections, not an empty list of types: the principal drops the sections of
    other subordinates in favour of any that are not empty.

    Raises:
        ValueError: a type or a class is no plain word.
    """
    assignments = tuple(assignments)
    if not assignments:
        return {}
    for assignment in assignments:
        _check(_TYPE_ID, assignment.type_id)
    types = ", ".join(assignment.type_id for assignment in assignments)
    sections = {"devices": [(f"enabled_{nova.word}_types", types)]}
    if nova.reads_addresses:
        for assignment in assignments:
            sections[f"{nova.word}_{assignment.type_id}"] = _section(assignment)
    return sections


def _section(assignment: Assignment) -> list[tuple[str, str]]:
    pairs = [("device_addresses", ",".join(str(address) for address in assignment.addresses))]
    if assignment.resource_class is not None:
        pairs.append(("mdev_class", _check(_RESOURCE_CLASS, assignment.resource_class)))
    if assignment.max_instances is not None:
        pairs.append(("max_instances", str(int(assignment.max_instances))))
    return pairs


def _check(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueError(f"not a word for nova.conf: {text!r}")
    return text
