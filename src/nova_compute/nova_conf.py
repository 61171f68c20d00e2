# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A plan in the words of the installed Nova; pure.

The principal prints each pair as `key = value` without escaping, so only text of a known shape
gets through here, whatever the layers above have checked. Option names: nova/conf/devices.py.
"""

from __future__ import annotations

import json
import re
from typing import Iterable

from gpu.card import Framework
from nova_compute.release import NovaVersion
from planning.plan import DEFAULTS, Assignment, VariantDriverOptions

__all__ = ["REPORT_IN_PLACEMENT", "alias", "render"]

# Nova refuses to start without it on a compute node that has said it once:
# https://docs.openstack.org/nova/latest/admin/pci-passthrough.html
REPORT_IN_PLACEMENT = ("report_in_placement", "true")

_TYPE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*-[0-9]{1,9}", re.ASCII)
_RESOURCE_CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


def render(
    assignments: Iterable[Assignment], nova: NovaVersion, options: VariantDriverOptions = DEFAULTS
) -> dict[str, list[tuple[str, str]]]:
    """Return nova.conf's sections as pairs of option and value; empty if nothing is offered.

    An empty set of sections, not an empty list of types: the principal drops the sections of
    other subordinates in favour of any that are not empty.

    Raises:
        ValueError: a type or a class is no plain word.
    """
    assignments = tuple(assignments)
    for assignment in assignments:
        _check(_TYPE_ID, assignment.type_id)
    variant = [found for found in assignments if found.framework is Framework.VENDOR_VFIO]
    mdev = [found for found in assignments if found.framework is Framework.MDEV]
    sections = _mdev_sections(mdev, nova) if mdev else {}
    if variant:
        sections["pci"] = _pci_section(variant, options)
    return sections


def alias(assignment: Assignment, options: VariantDriverOptions) -> str:
    """Return the JSON of the alias that flavors ask for; the controllers need the same one."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", _short_name(assignment))
    found = {"name": name[:255], "device_type": "type-VF"}
    if options.report_in_placement:
        found["resource_class"] = _resource_class(assignment)
    elif assignment.function_id is not None:
        found["vendor_id"] = f"{assignment.function_id.vendor:04x}"
        found["product_id"] = f"{assignment.function_id.device:04x}"
    if options.live_migratable:
        found["live_migratable"] = "yes"
    return json.dumps(found)


def _pci_section(
    variant: list[Assignment], options: VariantDriverOptions
) -> list[tuple[str, str]]:
    """Name exactly the functions that carry a type; Nova would hand out the others as well.

    `managed` is "no": libvirt must not take them from NVIDIA's driver. Each line is valid JSON,
    for Nova reads no other, and none is ever empty.
    """
    pairs = [REPORT_IN_PLACEMENT] if options.report_in_placement else []
    for assignment in variant:
        spec = {"managed": "no"}
        if options.live_migratable:
            spec["live_migratable"] = "yes"
        if options.report_in_placement:
            spec["resource_class"] = _resource_class(assignment)
        pairs += [
            ("device_spec", json.dumps({"address": str(address), **spec}))
            for address in assignment.addresses
        ]
        pairs.append(("alias", alias(assignment, options)))
    return pairs


def _short_name(assignment: Assignment) -> str:
    """Return the last word of the type's name, `L40S-8Q`; its id if it has none."""
    return ((assignment.name or "").split() or [assignment.type_id])[-1]


def _resource_class(assignment: Assignment) -> str:
    """Return the class asked for, or one made of the type's name: CUSTOM_L40S_8Q."""
    made = "CUSTOM_" + re.sub(r"[^A-Z0-9]", "_", _short_name(assignment).upper())
    return _check(_RESOURCE_CLASS, assignment.resource_class or made[:255])


def _mdev_sections(
    assignments: list[Assignment], nova: NovaVersion
) -> dict[str, list[tuple[str, str]]]:
    types = ", ".join(assignment.type_id for assignment in assignments)
    sections = {"devices": [(f"enabled_{nova.option_prefix}_types", types)]}
    if nova.supports_device_addresses:
        for assignment in assignments:
            sections[f"{nova.option_prefix}_{assignment.type_id}"] = _section(assignment, nova)
    return sections


def _section(assignment: Assignment, nova: NovaVersion) -> list[tuple[str, str]]:
    pairs = [("device_addresses", ",".join(str(address) for address in assignment.addresses))]
    if assignment.resource_class is not None:
        pairs.append(("mdev_class", _check(_RESOURCE_CLASS, assignment.resource_class)))
    # Before, the addresses alone are the limit: as many virtual functions.
    if assignment.max_instances is not None and nova.supports_max_instances:
        pairs.append(("max_instances", str(int(assignment.max_instances))))
    return pairs


def _check(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueError(f"not a word for nova.conf: {text!r}")
    return text
