# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the installed Nova makes of the aliases of whole cards, and what it refuses; pure.

Sources: nova/pci/request.py and nova/pci/devspec.py at each release's tag, and
https://docs.openstack.org/nova/latest/admin/pci-passthrough.html.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any, Iterator, Mapping, Sequence

from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind
from nova_compute.nova_conf import PciOptions, whole_card_class
from nova_compute.release import NUMA_SOCKET_SINCE, REPORT_IN_PLACEMENT_SINCE, NovaVersion
from planning.whole_card_plan import WholeCardOffer, WholeCardPlan

__all__ = ["apply_release_to_whole_cards"]

_DEVICE_OPTIONS = ("device_spec", "passthrough_whitelist")
_PRINCIPAL = "pci-alias of nova-compute"


def apply_release_to_whole_cards(
    plan: WholeCardPlan,
    nova: NovaVersion,
    options: PciOptions,
    vgpu_aliases: Sequence[str],
    operator_options: Sequence[tuple[str, str]],
) -> WholeCardPlan:
    """Add problems for what the installed Nova refuses or could not distinguish.

    Args:
        plan: the plan.
        nova: the installed Nova.
        options: the operator's options.
        vgpu_aliases: the aliases of vGPUs that are published beside it, as JSON.
        operator_options: what the operator has set in [pci] on the principal.
    """
    if not plan.later_offers:
        return plan
    taken = dict.fromkeys(_names(vgpu_aliases), "vgpu-device-mappings")
    values = [value for name, value in operator_options if name == "alias"]
    taken.update(dict.fromkeys(_names(values), _PRINCIPAL))
    plan = plan.with_problems(
        [
            *_unsupported(plan.later_offers, nova, options),
            *_conflicts(plan.later_offers, options),
            *_taken_names(plan.later_offers, taken),
            *_taken_classes(plan.later_offers, vgpu_aliases, options),
        ]
    )
    return plan._replace(notes=(*plan.notes, *_covered(plan.later_offers, operator_options)))


def _unsupported(
    offers: Sequence[WholeCardOffer], nova: NovaVersion, options: PciOptions
) -> Iterator[Problem]:
    for offer in offers:
        if offer.numa_policy == "socket" and not nova.supports_numa_socket:
            yield _needs("numa-policy socket", NUMA_SOCKET_SINCE, nova)
        if options.report_in_placement and not nova.supports_report_in_placement:
            yield _needs("report-in-placement", REPORT_IN_PLACEMENT_SINCE, nova)
        if offer.resource_class and not options.report_in_placement:
            yield Problem(ProblemKind.NEEDS_PLACEMENT, name=offer.name)


def _needs(option: str, since: int, nova: NovaVersion) -> Problem:
    kind = ProblemKind.OPTION_UNSUPPORTED
    return Problem(kind, option=option, required=str(since), nova=str(nova))


def _conflicts(offers: Sequence[WholeCardOffer], options: PciOptions) -> Iterator[Problem]:
    """Find offers that Nova could not distinguish, or would refuse under one name.

    All aliases of one name need one device_type; with pci_in_placement there can be only one of
    them. Without placement, an alias matches devices by their IDs.
    """
    for number, second in enumerate(offers):
        for first in offers[:number]:
            if first.name == second.name:
                yield from _conflict_within_name(first, second, options)
            elif options.report_in_placement:
                resource_class = whole_card_class(first)
                if resource_class == whole_card_class(second):
                    kind, names = ProblemKind.CLASS_SHARED, (first.name, second.name)
                    yield Problem(
                        kind, resource_class=resource_class, first=names[0], second=names[1]
                    )
            elif (first.id, first.device_type) == (second.id, second.device_type):
                kind = ProblemKind.ALIAS_AMBIGUOUS
                yield Problem(kind, first=first.name, second=second.name)


def _conflict_within_name(
    first: WholeCardOffer, second: WholeCardOffer, options: PciOptions
) -> Iterator[Problem]:
    if first.device_type != second.device_type:
        kind = ProblemKind.DEVICE_TYPES_DIFFER
        yield Problem(kind, second.addresses[0], name=first.name, other=str(first.addresses[0]))
    elif options.report_in_placement:
        kind = ProblemKind.MODELS_DIFFER
        yield Problem(kind, second.addresses[0], name=first.name, other=str(first.addresses[0]))


def _taken_names(offers: Sequence[WholeCardOffer], taken: Mapping[str, str]) -> Iterator[Problem]:
    for name in dict.fromkeys(offer.name for offer in offers):
        if name in taken:
            yield Problem(ProblemKind.ALIAS_TAKEN, name=name, owner=taken[name])


def _taken_classes(
    offers: Sequence[WholeCardOffer], vgpu_aliases: Sequence[str], options: PciOptions
) -> Iterator[Problem]:
    if not options.report_in_placement:
        return
    owners = {alias.get("resource_class"): alias["name"] for alias in _objects(vgpu_aliases)}
    for offer in offers:
        resource_class = whole_card_class(offer)
        if resource_class in owners:
            kind, first = ProblemKind.CLASS_SHARED, owners[resource_class]
            yield Problem(kind, resource_class=resource_class, first=first, second=offer.name)


def _names(aliases: Sequence[str]) -> Iterator[str]:
    for alias in _objects(aliases):
        name = alias.get("name")
        if isinstance(name, str):
            yield name


def _covered(
    offers: Sequence[WholeCardOffer], operator_options: Sequence[tuple[str, str]]
) -> Iterator[Problem]:
    """Find cards that the operator's own device_spec covers as well: Nova uses the first."""
    values = [value for name, value in operator_options if name in _DEVICE_OPTIONS]
    specs = list(_objects(values))
    for offer in offers:
        for address in offer.addresses:
            if any(_covers(spec, offer, address) for spec in specs):
                yield Problem(ProblemKind.WHITELIST_COVERS, address)


def _covers(spec: Mapping[str, Any], offer: WholeCardOffer, address: PciAddress) -> bool:
    if "address" in spec:
        return _is_meant(spec["address"], address)
    ids = (f"{offer.id.vendor:04x}", f"{offer.id.device:04x}")
    written_ids = (spec.get("vendor_id"), spec.get("product_id"))
    return any(written_ids) and all(
        text is None or str(text).lower() in (pci_id, f"0x{pci_id}", "*")
        for text, pci_id in zip(written_ids, ids)
    )


def _is_meant(written: Any, address: PciAddress) -> bool:
    """Whether an address of Nova, which may have wildcards, means a device.

    In the form of an object, whose parts are regular expressions, only plain parts are compared.
    """
    if isinstance(written, dict):
        names = ("domain", "bus", "slot", "function")
        parts = zip(names, str(address).replace(".", ":").split(":"))
        return all(written.get(name, part) in (part, ".*", "*") for name, part in parts)
    pattern = str(written).lower()
    return any(fnmatchcase(text, pattern) for text in (str(address), str(address)[5:]))


def _objects(values: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return the JSON objects in some values; each may be a list of them."""
    for value in values:
        try:
            data = json.loads(value)
        except (ValueError, RecursionError):
            continue
        items = data if isinstance(data, list) else [data]
        yield from (item for item in items if isinstance(item, dict))
