# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The answers of the actions list-vgpu-types and show-plan; pure."""

from __future__ import annotations

import json
from typing import Iterable, Iterator, Mapping, Sequence

from evidence import silence
from facts import Facts
from mappings import VgpuRequest
from nova_conf import alias
from plan import Assignment, Plan
from problem import Problem
from situation import Situation
from status import sentence
from vgpu import Card, Framework, VgpuType, type_number
from work import Work

__all__ = ["fits", "plan_json", "plan_text", "types_json", "types_text"]

# Bytes; the hook tool takes an answer as one argument, which the kernel limits to 128 KiB.
_LIMIT = 120 * 1024

Sections = Mapping[str, Sequence["tuple[str, str]"]]


def types_text(cards: Iterable[Card]) -> str:
    """Return `id, address, name, description`, a line for each type of each card."""
    return _within(
        "\n".join(
            ", ".join(
                filter(None, (known.id, str(card.gpu.address), known.name, known.description))
            )
            for card in cards
            for known in _all_types(card)
        )
    )


def types_json(cards: Iterable[Card]) -> str:
    """Return the same with framebuffer (MiB), framework, kind, free and maximum instances."""
    rows = [
        {
            "id": known.id,
            "address": str(card.gpu.address),
            "name": known.name,
            "framebuffer": known.framebuffer,
            "framework": card.framework.value if card.framework else None,
            "mig_backed": known.is_mig_backed,
            "free": known.available,
            "maximum": known.maximum,
        }
        for card in cards
        for known in _all_types(card)
    ]
    return json.dumps(rows)


def _all_types(card: Card) -> list[VgpuType]:
    """Return a card's types, those among them that it would have to be parted for first."""
    shown = {known.id for known in card.types}
    hidden = [known._replace(available=0) for known in card.told if known.id not in shown]
    return sorted((*card.types, *hidden), key=lambda known: type_number(known.id) or 0)


def plan_text(situation: Situation, app: str) -> str:
    """Return what the host has, what would be published, and why the rest is not."""
    facts, plan, problems = situation.facts, situation.plan, situation.problems
    blocks = [_host(facts), _cards(facts.cards, plan)]
    if situation.sections:
        blocks.append("nova.conf:\n" + _indented(_ini(situation.sections)))
    else:
        kept = "; what is published now stays" if plan.held else ""
        blocks.append(f"nova.conf: nothing is published{kept}")
    notes = [sentence(found, app)[1] for found in _silences(facts, plan)]
    if notes:
        blocks.insert(2, "\n".join(f"- {note}" for note in notes))
    if plan.work.is_due:
        steps = [f"- {step}" for step in _steps(plan.work)]
        blocks.append("to be done on the cards:\n" + _indented("\n".join(steps)))
    aliases = _aliases(situation)
    if aliases:
        text = f"juju config nova-cloud-controller pci-alias='[{', '.join(aliases)}]'"
        if situation.options.report_in_placement:
            text += "\n[filter_scheduler] pci_in_placement = true, in their nova.conf"
        blocks.append("on the controllers:\n" + _indented(text))
    if problems:
        lines = "\n".join(f"- {sentence(problem, app)[1]}" for problem in problems)
        blocks.append("in the way:\n" + _indented(lines))
    if plan.elsewhere:
        lines = "\n".join(f"- {_asked(request)}" for request in plan.elsewhere)
        blocks.append("for other hosts:\n" + _indented(lines))
    return _within("\n\n".join(blocks))


def plan_json(situation: Situation, app: str) -> str:
    """Return the same for machines."""
    facts, plan, problems = situation.facts, situation.plan, situation.problems
    state = facts.driver
    return json.dumps(
        {
            "nova": str(facts.nova) if facts.nova else None,
            "driver": {
                "installed": state.installed.version if state.installed else None,
                "loaded": state.loaded,
            },
            "cards": [_card_json(card, plan) for card in facts.cards],
            "sections": situation.sections,
            "steps": _steps(plan.work) if plan.work.is_due else [],
            "aliases": [json.loads(text) for text in _aliases(situation)],
            "held": plan.held,
            "problems": [
                {"kind": problem.kind.value, "text": sentence(problem, app)[1]}
                for problem in problems
            ],
            "elsewhere": [_asked(request) for request in plan.elsewhere],
        }
    )


def _aliases(situation: Situation) -> list[str]:
    return [
        alias(found, situation.options)
        for found in situation.plan.assignments
        if found.framework is Framework.VENDOR_VFIO
    ]


def _silences(facts: Facts, plan: Plan) -> Iterator[Problem]:
    cards = (card for card in facts.cards if card.gpu.address not in plan.work.enable)
    return filter(None, (silence(card, facts) for card in cards))


def _steps(work: Work) -> list[str]:
    steps = []
    for mode in work.modes:
        if mode.mixed_size:
            continue
        types = ", ".join(wish.vgpu_type for wish in mode.instances)
        if types:
            steps.append(f"part {mode.card} into GPU instances for {types}")
        else:
            steps.append(f"share {mode.card} by time, as one whole")
    steps += [f"enable the virtual functions of {card}" for card in work.enable]
    steps += [f"let {mode.card} mix sizes" for mode in work.modes if mode.mixed_size]
    steps += [f"set {step.type_id} on functions of {step.card}" for step in work.types]
    return steps


def _host(facts: Facts) -> str:
    state = facts.driver
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
    return "\n".join(f"{name + ':':<10}{text}" for name, text in rows)


def _cards(cards: Sequence[Card], plan: Plan) -> str:
    if not cards:
        return "no supported NVIDIA GPU on this host"
    rows = [("CARD", "PCI ID", "DRIVER", "FRAMEWORK", "PARENTS", "IN USE", "OFFERS", "FREE")]
    for card in cards:
        offered = [found for found in plan.assignments if card.gpu.address in found.cards]
        rows.append(
            (
                str(card.gpu.address),
                str(card.gpu.id),
                card.gpu.driver or "-",
                card.framework.value if card.framework else "-",
                str(len(card.parents)),
                str(len(card.in_use)),
                ", ".join(_offered(found) for found in offered) or "-",
                ", ".join(_free(card, found) for found in offered) or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def _card_json(card: Card, plan: Plan) -> dict[str, object]:
    offered = [found for found in plan.assignments if card.gpu.address in found.cards]
    return {
        "address": str(card.gpu.address),
        "id": str(card.gpu.id),
        "driver": card.gpu.driver,
        "numa_node": card.gpu.numa_node,
        "framework": card.framework.value if card.framework else None,
        "parents": [str(address) for address in card.parents],
        "in_use": list(card.in_use),
        "offers": [found.type_id for found in offered],
    }


def _offered(assignment: Assignment) -> str:
    name = f" ({assignment.name})" if assignment.name else ""
    return assignment.type_id + name


def _free(card: Card, assignment: Assignment) -> str:
    known = card.find_type(assignment.type_id)
    if known is None or known.available is None:
        return "?"
    return f"{known.available} of {'?' if known.maximum is None else known.maximum}"


def _asked(request: VgpuRequest) -> str:
    return f"{request.vgpu_type}: " + ", ".join(str(device) for device in request.devices)


def _ini(sections: Sections) -> str:
    return "\n\n".join(
        "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in pairs)])
        for name, pairs in sections.items()
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def fits(text: str) -> bool:
    """Whether Juju takes an answer."""
    return len(text.encode()) <= _LIMIT


def _within(text: str) -> str:
    """Return the lines that Juju takes, and how many are left out."""
    if fits(text):
        return text
    start = text.encode()[: _LIMIT - 100].decode(errors="ignore")
    shown = start.rsplit("\n", 1)[0]
    left_out = len(text.splitlines()) - len(shown.splitlines())
    return f"{shown}\n... and {left_out} lines more, which is more than Juju takes"
