# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A plan as sections of nova.conf; pure.

The principal prints each pair as `key = value` without escaping, so only text of a known shape
is accepted here, whatever was checked before. Option names: nova/conf/devices.py.
"""

from __future__ import annotations

import json
import re
from typing import Iterable, NamedTuple

from gpu.card import Framework, is_type_id
from nova_compute.release import NovaVersion
from planning.plan import Assignment

__all__ = ["DEFAULT_OPTIONS", "REPORT_IN_PLACEMENT", "VariantDriverOptions", "alias", "render"]

# Nova refuses to start without it on a compute node that has ever had it:
# https://docs.openstack.org/nova/latest/admin/pci-passthrough.html
REPORT_IN_PLACEMENT = ("report_in_placement", "true")

_RESOURCE_CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


class VariantDriverOptions(NamedTuple):
    """The operator's options for functions under the kernel variant driver.

    Attributes:
        report_in_placement: whether each function is reported to placement, with a resource
            class for its type.
        live_migratable: whether guests may be migrated with their functions.
    """

    report_in_placement: bool = False
    live_migratable: bool = False


DEFAULT_OPTIONS = VariantDriverOptions()


def render(
    assignments: Iterable[Assignment],
    nova: NovaVersion,
    options: VariantDriverOptions = DEFAULT_OPTIONS,
) -> dict[str, list[tuple[str, str]]]:
    """Return nova.conf's sections as pairs of option and value; empty if nothing is offered.

    No section at all rather than an empty list of types: the principal would drop the sections
    of other subordinates in favour of it.

    Raises:
        ValueError: a type or a resource class has an unexpected shape.
    """
    assignments = tuple(assignments)
    for assignment in assignments:
        if not is_type_id(assignment.type_id):
            raise ValueError(f"not a type ID for nova.conf: {assignment.type_id!r}")
    variant = [item for item in assignments if item.framework is Framework.VENDOR_VFIO]
    mdev = [item for item in assignments if item.framework is Framework.MDEV]
    sections = _mdev_sections(mdev, nova) if mdev else {}
    if variant:
        sections["pci"] = _pci_section(variant, options)
    return sections


def alias(assignment: Assignment, options: VariantDriverOptions) -> str:
    """Return the JSON of the alias that flavors request; the controllers need the same one.

    From 31.3.1 on, nova-compute refuses to start with an alias that has a resource class but no
    IDs, unless its own configuration has `[filter_scheduler] pci_in_placement`:
    _validate_required_ids in nova/pci/request.py.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", _short_name(assignment))
    fields = {"name": name[:255], "device_type": "type-VF"}
    if assignment.function_id is not None:
        fields["vendor_id"] = f"{assignment.function_id.vendor:04x}"
        fields["product_id"] = f"{assignment.function_id.device:04x}"
    if options.report_in_placement:
        fields["resource_class"] = _resource_class(assignment)
    if options.live_migratable:
        fields["live_migratable"] = "yes"
    return json.dumps(fields)


def _pci_section(
    variant: list[Assignment], options: VariantDriverOptions
) -> list[tuple[str, str]]:
    """List exactly the functions with a type; Nova would assign others to guests as well.

    `managed` is "no": libvirt must not unbind them from NVIDIA's driver. Each value is valid
    JSON and never empty, as Nova requires.
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
    """Return the requested class, or one derived from the type's name: CUSTOM_L40S_8Q."""
    derived = "CUSTOM_" + re.sub(r"[^A-Z0-9]", "_", _short_name(assignment).upper())
    return _checked_class(assignment.resource_class or derived[:255])


def _mdev_sections(
    assignments: list[Assignment], nova: NovaVersion
) -> dict[str, list[tuple[str, str]]]:
    types = ", ".join(assignment.type_id for assignment in assignments)
    sections = {"devices": [(f"enabled_{nova.option_prefix}_types", types)]}
    if nova.supports_device_addresses:
        for assignment in assignments:
            sections[f"{nova.option_prefix}_{assignment.type_id}"] = _mdev_section(
                assignment, nova
            )
    return sections


def _mdev_section(assignment: Assignment, nova: NovaVersion) -> list[tuple[str, str]]:
    pairs = [("device_addresses", ",".join(str(address) for address in assignment.addresses))]
    if assignment.resource_class is not None:
        pairs.append(("mdev_class", _checked_class(assignment.resource_class)))
    # In earlier releases the addresses alone are the limit: that many virtual functions.
    if assignment.max_instances is not None and nova.supports_max_instances:
        pairs.append(("max_instances", str(int(assignment.max_instances))))
    return pairs


def _checked_class(resource_class: str) -> str:
    if _RESOURCE_CLASS.fullmatch(resource_class) is None:
        raise ValueError(f"not a resource class for nova.conf: {resource_class!r}")
    return resource_class
