# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The answer of the action show-plan; pure."""

from __future__ import annotations

import json
from typing import Iterable, Mapping, Sequence

from actions.inventory import CardInventory, card_inventories
from actions.output import truncate_to_result
from gpu.card import Card, Framework
from gpu.problems import Problem
from nova_compute.nova_conf import alias
from planning.mappings import VgpuRequest
from planning.plan import Assignment
from planning.preparation import Partitioning, TypeAssignment
from status.assessment import WAITING, Assessment
from status.diagnosis import why_no_types
from status.unit_status import Level, format_problem

__all__ = ["plan_json", "plan_text"]

Sections = Mapping[str, Sequence["tuple[str, str]"]]


def plan_text(situation: Assessment, outlook: Assessment, published: Sections, app: str) -> str:
    """Return what the host has, what would be published, and why the rest is not.

    Args:
        situation: what holds.
        outlook: what will hold once the work on the cards is done; the same if there is none.
        published: the sections that the principal has now.
        app: the application's name.
    """
    facts, steps = situation.facts, _steps(situation)
    offered = _offers(outlook)
    graver, notes = _said(situation, outlook, app)
    blocks = [_host(situation), _cards(facts.cards, offered, is_due=bool(steps))]
    if steps:
        blocks.append(_block("to be done on the cards", steps))
    blocks.append(_nova_conf(outlook, published, is_due=bool(steps)))
    if _aliases(outlook):
        blocks.append(_block("on the controllers", _on_controllers(outlook), mark=""))
    if offered:
        blocks.append(_block("for flavors", _properties(offered, outlook), mark=""))
    if graver:
        blocks.append(_block("in the way", graver))
    if notes:
        blocks.append(_block("to know", notes))
    if situation.plan.for_other_hosts:
        blocks.append(_block("for other hosts", map(_asked, situation.plan.for_other_hosts)))
    return truncate_to_result("\n\n".join(blocks))


def plan_json(situation: Assessment, outlook: Assessment, published: Sections, app: str) -> str:
    """Return the same for machines; of `sections` and `cards`, what will be."""
    facts, state = situation.facts, situation.facts.driver
    offered = _offers(outlook)
    shown = _said_problems(situation, outlook)
    return json.dumps(
        {
            "nova": str(facts.nova) if facts.nova else None,
            "codename": facts.nova.codename if facts.nova else None,
            "driver": {
                "package": state.installed.name if state.installed else None,
                "installed": state.installed.version if state.installed else None,
                "loaded": state.loaded,
            },
            "kernel": state.kernel,
            "paused": situation.is_paused,
            "cards": [_card_json(card, offered) for card in facts.cards],
            "pending_changes": _steps(situation),
            "keeps_published": outlook.plan.keeps_published,
            "sections": outlook.sections,
            "published": published,
            "aliases": [json.loads(text) for text in _aliases(outlook)],
            "problems": [
                {"kind": problem.kind.value, "text": format_problem(problem, app)[1]}
                for problem in shown
            ],
            "for_other_hosts": [_asked(request) for request in situation.plan.for_other_hosts],
        }
    )


def _offers(outlook: Assessment) -> tuple[CardInventory, ...]:
    nova = outlook.facts.nova
    return () if nova is None else card_inventories(outlook.plan, outlook.facts.cards, nova)


def _said_problems(situation: Assessment, outlook: Assessment) -> list[Problem]:
    """Return what is to be said: not that which the work on the cards is to end."""
    plan, facts = situation.plan, situation.facts
    problems = [*situation.problems, *outlook.problems]
    if situation.needs_preparation:
        problems = [problem for problem in problems if problem.kind not in WAITING]
    silent = [card for card in facts.cards if card.gpu.address not in plan.preparation.enable]
    problems += filter(None, (why_no_types(card, facts) for card in silent))
    return list(dict.fromkeys(problems))


def _said(situation: Assessment, outlook: Assessment, app: str) -> tuple[list[str], list[str]]:
    """Return what is in the way, and what else there is to know."""
    found = [format_problem(problem, app) for problem in _said_problems(situation, outlook)]
    graver = [text for level, text in found if level is not Level.ACTIVE]
    return graver, [text for level, text in found if level is Level.ACTIVE]


def _aliases(situation: Assessment) -> list[str]:
    return [
        alias(found, situation.options)
        for found in situation.plan.assignments
        if found.framework is Framework.VENDOR_VFIO and not situation.plan.keeps_published
    ]


def _on_controllers(outlook: Assessment) -> list[str]:
    lines = [
        "nova-cloud-controller's scheduler-default-filters has PciPassthroughFilter;",
        "its pci-alias is a list, which has, beside what other hosts need:",
        *(f"  {text}" for text in _aliases(outlook)),
    ]
    if outlook.options.report_in_placement:
        lines.append("its nova.conf says [filter_scheduler] pci_in_placement = true.")
    return lines


def _properties(offered: Sequence[CardInventory], outlook: Assessment) -> list[str]:
    """Return what flavors ask for, a line for each type."""
    lines = []
    for found in dict.fromkeys(offer.assignment for offer in offered):
        if found.framework is Framework.VENDOR_VFIO:
            name = json.loads(alias(found, outlook.options))["name"]
            wanted = f"pci_passthrough:alias={name}:1"
        else:
            wanted = f"resources:{found.resource_class or 'VGPU'}=1"
        lines.append((wanted, _offered(found)))
    width = max(len(wanted) for wanted, _ in lines)
    return [f"{wanted:<{width}}  {name}" for wanted, name in lines]


def _steps(situation: Assessment) -> list[str]:
    """Say what is to be done on the cards, in the order in which it is done."""
    work = situation.plan.preparation
    if not situation.needs_preparation:
        return []
    cards = {card.gpu.address: card for card in situation.facts.cards}
    return [
        *filter(None, (_mig_step(step, cards[step.card]) for step in work.partitionings)),
        *(f"enable the virtual functions of {card}" for card in work.enable),
        *filter(None, (_sizes_step(step, cards[step.card]) for step in work.partitionings)),
        *(f"set {_called(step)} on functions of {step.card}" for step in work.type_assignments),
    ]


def _mig_step(step: Partitioning, card: Card) -> str:
    types = ", ".join(wish.vgpu_type for wish in step.instance_requests)
    if types:
        return f"put {step.card} into MIG mode, and make GPU instances for {types}"
    if card.is_mig_partitioned:
        return f"take {step.card} out of MIG mode"
    is_asked = card.mode is not None and card.mode.types_queried
    return "" if step.mixed_size or is_asked else f"ask the driver what {step.card} can be"


def _sizes_step(step: Partitioning, card: Card) -> str:
    is_on = card.mode is not None and bool(card.mode.mixed_size)
    if step.mixed_size == is_on:
        return ""
    return f"switch mixed-size mode of {step.card} {'on' if step.mixed_size else 'off'}"


def _called(step: TypeAssignment) -> str:
    return (
        step.type_id
        if step.requested_type == step.type_id
        else f"{step.type_id} ({step.requested_type})"
    )


def _host(situation: Assessment) -> str:
    facts, state = situation.facts, situation.facts.driver
    nova = (
        f"{facts.nova} ({facts.nova.codename})"
        if facts.nova and facts.nova.codename
        else facts.nova
    )
    installed = state.installed
    rows = [
        ("nova", str(nova or "not installed")),
        ("package", f"{installed.name} {installed.version}" if installed else "not installed"),
        ("driver", f"{state.loaded} loaded" if state.loaded else "not loaded"),
        ("kernel", state.kernel or "unknown"),
    ]
    if situation.is_paused:
        rows.append(("unit", "paused"))
    return "\n".join(f"{name + ':':<10}{text}" for name, text in rows)


def _cards(cards: Sequence[Card], offered: Sequence[CardInventory], *, is_due: bool) -> str:
    if not cards:
        return "no supported NVIDIA GPU on this host"
    offers = "WILL OFFER" if is_due else "OFFERS"
    rows: list[tuple[str, ...]] = [
        ("CARD", "PCI ID", "DRIVER", "FRAMEWORK", "FUNCTIONS", "IN USE", offers, "VGPUS", "FREE")
    ]
    for card in cards:
        mine = [found for found in offered if found.card.gpu.address == card.gpu.address]
        cells = [
            (_offered(found.assignment), _number(found.total), _number(found.free))
            for found in mine
        ]
        for number, cell in enumerate(cells or [("-", "-", "-")]):
            rows.append((*(_about(card) if number == 0 else ("",) * 6), *cell))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def _about(card: Card) -> tuple[str, ...]:
    functions = len(card.gpu.virtual_functions)
    return (
        str(card.gpu.address),
        str(card.gpu.id),
        card.gpu.driver or "-",
        card.framework.value if card.framework else "-",
        str(functions) if functions else "off" if card.is_sriov else "-",
        str(len(card.in_use)),
    )


def _card_json(card: Card, offered: Sequence[CardInventory]) -> dict[str, object]:
    mine = [found for found in offered if found.card.gpu.address == card.gpu.address]
    return {
        "address": str(card.gpu.address),
        "id": str(card.gpu.id),
        "driver": card.gpu.driver,
        "numa_node": card.gpu.numa_node,
        "framework": card.framework.value if card.framework else None,
        "parents": [str(address) for address in card.parents],
        "in_use": list(card.in_use),
        "offers": [
            {"type": found.assignment.type_id, "vgpus": found.total, "free": found.free}
            for found in mine
        ],
    }


def _offered(assignment: Assignment) -> str:
    name = f" ({assignment.name})" if assignment.name else ""
    return assignment.type_id + name


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


def _nova_conf(outlook: Assessment, published: Sections, *, is_due: bool) -> str:
    if outlook.sections:
        title = "nova.conf, once that is done:" if is_due else "nova.conf:"
        return f"{title}\n{_indented(_ini(outlook.sections))}"
    if not outlook.plan.keeps_published:
        return "nova.conf: nothing is published"
    later = "to be seen once that is done; until then " if is_due else ""
    if published:
        return f"nova.conf: {later}as it is:\n{_indented(_ini(published))}"
    return f"nova.conf: {later}nothing is published"


def _asked(request: VgpuRequest) -> str:
    return f"{request.vgpu_type}: " + ", ".join(str(device) for device in request.devices)


def _ini(sections: Sections) -> str:
    return "\n\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in pairs)])
        for name, pairs in sections.items()
    )


def _block(title: str, lines: Iterable[str], mark: str = "- ") -> str:
    return f"{title}:\n" + "\n".join(f"  {mark}{line}" for line in lines)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
