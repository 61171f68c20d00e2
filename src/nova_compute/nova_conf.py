# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A plan as sections of nova.conf; pure.

The principal prints each pair as `key = value` without escaping, so only text of a known shape
is accepted here, whatever was checked before. Option names: nova/conf/devices.py.
"""

from __future__ import annotations

import json
import re
from typing import Iterable, Iterator, Mapping, NamedTuple, Sequence, Tuple

from gpu.card import Framework, is_type_id
from gpu.pci import NVIDIA
from nova_compute.release import NovaVersion
from planning.plan import Assignment
from planning.whole_card_plan import WholeCardOffer

__all__ = [
    "DEFAULT_OPTIONS",
    "REPORT_IN_PLACEMENT",
    "PciOptions",
    "alias",
    "has_vgpus",
    "has_whole_cards",
    "render",
    "whole_card_alias",
    "whole_card_class",
    "with_kept",
]

# Nova refuses to start without it on a compute node that has ever had it:
# https://docs.openstack.org/nova/latest/admin/pci-passthrough.html
REPORT_IN_PLACEMENT = ("report_in_placement", "true")

_PCI = "pci"  # the section
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_RESOURCE_CLASS = re.compile(r"VGPU|CUSTOM_[A-Z0-9_]{1,248}", re.ASCII)


Pair = Tuple[str, str]
Sections = Mapping[str, Sequence[Pair]]


class PciOptions(NamedTuple):
    """The operator's options for PCI devices: virtual functions and whole cards.

    Attributes:
        report_in_placement: whether each device is reported to placement, with a resource class
            for its vGPU type, or for the name of a whole card.
        live_migratable: whether guests may be migrated with their virtual functions.
    """

    report_in_placement: bool = False
    live_migratable: bool = False


DEFAULT_OPTIONS = PciOptions()


def render(
    assignments: Iterable[Assignment],
    nova: NovaVersion,
    options: PciOptions = DEFAULT_OPTIONS,
    offers: Iterable[WholeCardOffer] = (),
) -> dict[str, list[Pair]]:
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
    pairs = [*_variant_pairs(variant, options), *_whole_card_pairs(offers, nova, options)]
    if pairs:
        sections[_PCI] = [REPORT_IN_PLACEMENT] if options.report_in_placement else []
        sections[_PCI] += pairs
    return sections


def with_kept(
    sections: Sections, published: Sections, *, keeps_vgpus: bool, keeps_whole_cards: bool
) -> dict[str, list[Pair]]:
    """Return sections in which the vGPUs, or the whole cards, are those that are published now."""
    of_vgpus = published if keeps_vgpus else sections
    of_whole_cards = published if keeps_whole_cards else sections
    merged = {name: list(of_vgpus[name]) for name in of_vgpus if name != _PCI}
    both = (*sections.get(_PCI, ()), *published.get(_PCI, ()))
    pairs = [REPORT_IN_PLACEMENT] if REPORT_IN_PLACEMENT in both else []
    vgpus, whole_cards = _split(of_vgpus.get(_PCI, ()))[0], _split(of_whole_cards.get(_PCI, ()))[1]
    if keeps_vgpus:
        whole_cards = _without_names_of(vgpus, whole_cards)
    elif keeps_whole_cards:
        vgpus = _without_names_of(whole_cards, vgpus)
    pairs += [*vgpus, *whole_cards]
    return {**merged, _PCI: pairs} if pairs else merged


def _without_names_of(kept: Sequence[Pair], pairs: Sequence[Pair]) -> list[Pair]:
    """Leave out aliases, with their devices, whose names are kept for others.

    Nova does not start with two aliases of one name that have different device types.
    """
    taken = {_alias_name(value) for name, value in kept if name == "alias"}
    return [
        pair
        for group in _groups(pairs)
        if _alias_name(group[-1][1]) not in taken
        for pair in group
    ]


def _groups(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Yield the devices of each alias with the alias, which stands after them."""
    group: list[Pair] = []
    for pair in pairs:
        if pair != REPORT_IN_PLACEMENT:
            group.append(pair)
        if pair[0] == "alias":
            yield group
            group = []


def _alias_name(value: str) -> str:
    """Return the name in an alias; what another revision published may have none."""
    try:
        return str(json.loads(value)["name"])
    except (LookupError, TypeError, ValueError):
        return value


def has_vgpus(sections: Sections) -> bool:
    """Whether some sections offer vGPUs."""
    return any(name != _PCI for name in sections) or bool(_split(sections.get(_PCI, ()))[0])


def has_whole_cards(sections: Sections) -> bool:
    """Whether some sections offer whole cards."""
    return bool(_split(sections.get(_PCI, ()))[1])


def alias(assignment: Assignment, options: PciOptions) -> str:
    """Return the JSON of the alias that flavors request; the controllers need the same one.

    From 31.3.1 on, nova-compute refuses to start with an alias that has a resource class but no
    IDs, unless its own configuration has `[filter_scheduler] pci_in_placement`:
    _validate_required_ids in nova/pci/request.py.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", assignment.short_name)
    fields = {"name": name[:255], "device_type": "type-VF"}
    if assignment.function_id is not None:
        fields["vendor_id"] = f"{assignment.function_id.vendor:04x}"
        fields["product_id"] = f"{assignment.function_id.device:04x}"
    if assignment.numa_policy is not None:
        fields["numa_policy"] = assignment.numa_policy
    if options.report_in_placement:
        fields["resource_class"] = _resource_class(assignment)
    if options.live_migratable:
        fields["live_migratable"] = "yes"
    return json.dumps(fields)


def _whole_card_pairs(
    offers: Iterable[WholeCardOffer], nova: NovaVersion, options: PciOptions
) -> list[Pair]:
    """Return the options of [pci] for whole cards, each model followed by its alias.

    Nova before 31 has no `managed`: libvirt then finds the card bound to vfio-pci, and leaves it
    so afterwards.
    """
    pairs = []
    for offer in offers:
        spec = {"managed": "no"} if nova.supports_managed else {}
        if options.report_in_placement:
            spec["resource_class"] = whole_card_class(offer)
        pairs += [
            (nova.device_spec_option, json.dumps({"address": str(address), **spec}))
            for address in offer.addresses
        ]
        pairs.append(("alias", whole_card_alias(offer, nova, options)))
    return pairs


def whole_card_alias(offer: WholeCardOffer, nova: NovaVersion, options: PciOptions) -> str:
    """Return the JSON of the alias of whole cards; the controllers need the same one."""
    if _ALIAS.fullmatch(offer.name) is None:
        raise ValueError(f"not the name of an alias for nova.conf: {offer.name!r}")
    fields = {
        "name": offer.name,
        "device_type": offer.device_type,
        "vendor_id": f"{offer.id.vendor:04x}",
        "product_id": f"{offer.id.device:04x}",
    }
    if offer.numa_policy is not None:
        fields["numa_policy"] = offer.numa_policy
    if options.report_in_placement and nova.supports_alias_class:
        fields["resource_class"] = whole_card_class(offer)
    return json.dumps(fields)


def whole_card_class(offer: WholeCardOffer) -> str:
    """Return the requested class, or one derived from the name of the alias: CUSTOM_H100."""
    return _checked_class(offer.resource_class or _class_of(offer.name))


def _split(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the options of [pci] for vGPUs, and those for whole cards.

    Devices stand before their alias; an alias of vGPUs is one of NVIDIA's virtual functions.
    """
    vgpus: list[Pair] = []
    whole_cards: list[Pair] = []
    for group in _groups((name, value) for name, value in pairs):
        value = group[-1][1]
        is_vgpu = '"type-VF"' in value and f'"{NVIDIA:04x}"' in value
        (vgpus if is_vgpu else whole_cards).extend(group)
    return vgpus, whole_cards


def _variant_pairs(variant: list[Assignment], options: PciOptions) -> list[Pair]:
    """List exactly the functions with a type; Nova would assign others to guests as well.

    `managed` is "no": libvirt must not unbind them from NVIDIA's driver. Each value is valid
    JSON and never empty, as Nova requires.
    """
    pairs = []
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


def _resource_class(assignment: Assignment) -> str:
    """Return the requested class, or one derived from the type's name: CUSTOM_L40S_8Q."""
    return _checked_class(assignment.resource_class or _class_of(assignment.short_name))


def _class_of(name: str) -> str:
    """Return the name of a resource class as Nova normalises it."""
    return ("CUSTOM_" + re.sub(r"[^A-Z0-9]", "_", name.upper()))[:255]


def _mdev_sections(assignments: list[Assignment], nova: NovaVersion) -> dict[str, list[Pair]]:
    types = ", ".join(assignment.type_id for assignment in assignments)
    sections = {"devices": [(f"enabled_{nova.option_prefix}_types", types)]}
    if nova.supports_device_addresses:
        for assignment in assignments:
            sections[f"{nova.option_prefix}_{assignment.type_id}"] = _mdev_section(
                assignment, nova
            )
    return sections


def _mdev_section(assignment: Assignment, nova: NovaVersion) -> list[Pair]:
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
