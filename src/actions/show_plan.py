# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The result of the action show-plan; pure."""

from __future__ import annotations

import json
from typing import Mapping, Sequence

from actions import gpudirect, whole_cards
from actions.inventory import CardInventory
from actions.offers import inventories as inventories_of
from actions.offers import offers, scheduler_filters, type_text
from actions.output import aligned, truncate_to_result
from gpu.card import Card
from gpu.problems import PREPARATION_PENDING, Problem, ProblemKind
from host.facts import HostFacts
from nova_compute import nova_conf
from planning.preparation import Partitioning, TypeAssignment
from status.assessment import Assessment
from status.diagnosis import why_no_types
from status.messages import Level
from status.unit_status import problem_status

__all__ = ["plan_json", "plan_text"]

Sections = Mapping[str, Sequence["tuple[str, str]"]]


def plan_text(
    assessment: Assessment,
    predicted: Assessment,
    published: Sections,
    app: str,
    advice: Sequence[str] = (),
    *,
    is_trial: bool = False,
) -> str:
    """Return what the host has, what would be published, and why the rest is not.

    Args:
        assessment: the present state.
        predicted: the state after the preparation of the cards; the same if there is none.
        published: the sections that the principal has now.
        app: the name of the application.
        advice: what the operator should know about the hardware; see `gpudirect.advice`.
        is_trial: whether the plan is for a value that is not set.
    """
    changes = _pending_changes(assessment, predicted)
    statuses = [problem_status(problem, app) for problem in _problems(assessment, predicted)]
    severe = [status.message for status in statuses if status.level is not Level.ACTIVE]
    notes = [status.message for status in statuses if status.level is Level.ACTIVE]
    notes += [problem_status(note, app).message for note in _unused_cards(assessment)]
    requests = _requests_for_other_hosts(assessment)
    heading = "WOULD OFFER" if is_trial else "WILL OFFER" if changes else "OFFERS"
    blocks = [
        _host_text(assessment),
        _card_table(predicted, assessment.facts, published, heading),
        whole_cards.table(assessment),
        gpudirect.distances(assessment),
        _list("Pending changes", changes),
        _nova_conf_text(predicted, published, bool(changes), is_trial),
        _block("Required on nova-cloud-controller", _controller_lines(predicted)),
        _block("Flavor properties", _flavor_lines(predicted)),
        _list("Problems", severe),
        _list("Notes", list(dict.fromkeys(notes))),
        _list("Hardware", advice),
        _list("Requests for other hosts", requests),
    ]
    return truncate_to_result("\n\n".join(filter(None, blocks)))


def plan_json(
    assessment: Assessment,
    predicted: Assessment,
    published: Sections,
    app: str,
    advice: Sequence[str] = (),
    *,
    is_trial: bool = False,
) -> str:
    """Return the same as JSON; `sections` and `cards` are those after the preparation."""
    facts, driver = assessment.facts, assessment.facts.driver
    inventories = inventories_of(predicted)
    return json.dumps(
        {
            "nova": str(facts.nova) if facts.nova else None,
            "codename": facts.nova.codename if facts.nova else None,
            "driver": {
                "package": driver.installed.name if driver.installed else None,
                "installed": driver.installed.version if driver.installed else None,
                "loaded": driver.loaded,
            },
            "kernel": driver.kernel,
            "paused": assessment.is_paused,
            "trial": is_trial,
            "cards": [_card_json(card, inventories) for card in facts.cards],
            "whole_cards": whole_cards.rows(assessment),
            "hardware": list(advice),
            "pending_changes": _pending_changes(assessment, predicted),
            "keeps_published": predicted.keeps_vgpus or predicted.keeps_whole_cards,
            "sections": predicted.sections,
            "published": published,
            "aliases": [json.loads(text) for text in _aliases(predicted)],
            "problems": [
                {"kind": problem.kind.value, "text": problem_status(problem, app).message}
                for problem in dict.fromkeys(
                    (*_problems(assessment, predicted), *_unused_cards(assessment))
                )
            ],
            "for_other_hosts": _requests_for_other_hosts(assessment),
        }
    )


def _problems(assessment: Assessment, predicted: Assessment) -> list[Problem]:
    """Return all problems, except those that the preparation of the cards should resolve."""
    problems = [*assessment.problems, *predicted.problems]
    if assessment.needs_preparation:
        resolved = PREPARATION_PENDING | {ProblemKind.CARD_STILL_MAPPED}
        lasting = {item for item in predicted.problems if item.kind not in PREPARATION_PENDING}
        problems = [item for item in problems if item.kind not in resolved or item in lasting]
    return list(dict.fromkeys(problems))


def _unused_cards(assessment: Assessment) -> list[Problem]:
    """Return why cards offer nothing, mapped or not."""
    facts, enabling = assessment.facts, assessment.plan.preparation.enable
    cards = [card for card in facts.cards if card.address not in enabling]
    reasons = filter(None, (why_no_types(card, facts) for card in cards))
    return [reason for reason in reasons if reason not in assessment.problems]


def _pending_changes(assessment: Assessment, predicted: Assessment) -> list[str]:
    """Describe the preparation of the cards, in the order in which it is done."""
    if not assessment.needs_preparation:
        return []
    preparation, given_away = assessment.plan.preparation, assessment.whole_cards
    cards = {card.address: card for card in assessment.facts.cards}
    partitionings = [(step, cards[step.card]) for step in preparation.partitionings]
    at_once = given_away.to_bind
    to_bind = [
        now.address
        for now, later in zip(assessment.facts.whole_cards, predicted.facts.whole_cards)
        if later.is_bound and not now.is_bound
    ]
    return [
        *(f"release {address} from vfio-pci" for address in given_away.to_return),
        *(f"bind {address} to vfio-pci" for address in to_bind if address in at_once),
        *filter(None, (_mig_change(step, card) for step, card in partitionings)),
        *(f"enable the virtual functions of {card}" for card in preparation.enable),
        *filter(None, (_size_change(step, card) for step, card in partitionings)),
        *map(_type_change, preparation.type_assignments),
        *(f"bind {address} to vfio-pci" for address in to_bind if address not in at_once),
    ]


def _mig_change(step: Partitioning, card: Card) -> str:
    types = ", ".join(request.vgpu_type for request in step.instance_requests)
    if types:
        return f"switch {step.card} to MIG mode and create GPU instances for {types}"
    if card.is_mig_partitioned:
        return f"switch {step.card} out of MIG mode"
    is_queried = card.mode is not None and card.mode.types_queried
    return "" if step.mixed_size or is_queried else f"query the types of {step.card}"


def _size_change(step: Partitioning, card: Card) -> str:
    is_on = card.mode is not None and bool(card.mode.mixed_size)
    if step.mixed_size == is_on:
        return ""
    return f"switch mixed-size mode of {step.card} {'on' if step.mixed_size else 'off'}"


def _type_change(step: TypeAssignment) -> str:
    is_id = step.requested_type == step.type_id
    name = "" if is_id else f" ({step.requested_type})"
    return f"assign {step.type_id}{name} to virtual functions of {step.card}"


def _host_text(assessment: Assessment) -> str:
    facts, driver = assessment.facts, assessment.facts.driver
    nova, installed = facts.nova, driver.installed
    codename = f" ({nova.codename})" if nova and nova.codename else ""
    rows = [
        ("nova", f"{nova}{codename}" if nova else "not installed"),
        ("package", f"{installed.name} {installed.version}" if installed else "not installed"),
        ("driver", f"{driver.loaded} loaded" if driver.loaded else "not loaded"),
        ("kernel", driver.kernel or "unknown"),
    ]
    if assessment.is_paused:
        rows.append(("unit", "paused"))
    return "\n".join(f"{name + ':':<10}{text}" for name, text in rows)


def _card_table(
    predicted: Assessment, facts: HostFacts, published: Sections, offers_heading: str
) -> str:
    cards, inventories = facts.cards, inventories_of(predicted)
    if not cards:
        return "" if facts.whole_cards else "no supported NVIDIA GPU found"
    kept = ""
    if predicted.keeps_vgpus:
        vgpus = nova_conf.with_kept({}, published, keeps_vgpus=True, keeps_whole_cards=False)
        kept = _ini(vgpus)
    heading = (
        "CARD", "PCI ID", "DRIVER", "FRAMEWORK", "FUNCTIONS", "IN USE", offers_heading, "VGPUS",
        "FREE",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [heading]
    for card in cards:
        card_cells = _card_cells(card)
        offered = [
            (type_text(item.assignment), _count(item.total), _count(item.free))
            for item in inventories
            if item.card.address == card.address
        ]
        unchanged = "as published" if _is_named(card, kept) else "-"
        for offer in offered or [(unchanged, "-", "-")]:
            rows.append((*card_cells, *offer))
            card_cells = ("",) * len(card_cells)
    return aligned(rows)


def _is_named(card: Card, text: str) -> bool:
    """Whether a card or one of its virtual functions is named in sections of nova.conf."""
    addresses = (card.address, *card.parents, *card.gpu.virtual_functions)
    return any(str(address) in text for address in addresses)


def _card_cells(card: Card) -> tuple[str, ...]:
    functions = len(card.gpu.virtual_functions)
    return (
        str(card.address),
        str(card.gpu.id),
        card.gpu.driver or "-",
        card.framework.value if card.framework else "-",
        str(functions) if functions else "off" if card.is_sriov else "-",
        str(len(card.in_use)),
    )


def _card_json(card: Card, inventories: Sequence[CardInventory]) -> dict[str, object]:
    return {
        "address": str(card.address),
        "id": str(card.gpu.id),
        "driver": card.gpu.driver,
        "numa_node": card.gpu.numa_node,
        "framework": card.framework.value if card.framework else None,
        "parents": [str(address) for address in card.parents],
        "in_use": list(card.in_use),
        "offers": [
            {"type": item.assignment.type_id, "vgpus": item.total, "free": item.free}
            for item in inventories
            if item.card.address == card.address
        ],
    }


def _count(count: int | None) -> str:
    return "?" if count is None else str(count)


def _nova_conf_text(
    predicted: Assessment, published: Sections, is_pending: bool, is_trial: bool
) -> str:
    keeps = predicted.keeps_vgpus or predicted.keeps_whole_cards
    if predicted.sections:
        types = "; vGPUs as published now" if predicted.keeps_vgpus else ""
        conditions = ["as tried"] if is_trial else []
        conditions += [f"after the pending changes{types}"] if is_pending else []
        when = f" ({', '.join(conditions)})" if conditions else ""
        return f"nova.conf{when}:\n{_ini(predicted.sections_beside(published))}"
    if not keeps:
        return "nova.conf: nothing is published"
    when = "decided after the pending changes; until then " if is_pending else ""
    if published:
        return f"nova.conf: {when}unchanged:\n{_ini(published)}"
    return f"nova.conf: {when}nothing is published"


def _ini(sections: Sections) -> str:
    """Return sections of nova.conf, indented."""
    texts = [
        "\n".join([f"  [{name}]", *(f"  {key} = {value}" for key, value in pairs)])
        for name, pairs in sections.items()
    ]
    return "\n\n".join(texts)


def _aliases(assessment: Assessment) -> list[str]:
    return [value for name, value in assessment.sections.get("pci", ()) if name == "alias"]


def _controller_lines(predicted: Assessment) -> list[str]:
    """Return what the option values of nova-cloud-controller must contain."""
    aliases = _aliases(predicted)
    if not aliases:
        return []
    lines = [
        f"scheduler-default-filters includes {' and '.join(scheduler_filters(aliases))}",
        "pci-alias is a JSON list that includes:",
        *(f"  {text}" for text in aliases),
    ]
    if predicted.options.report_in_placement:  # the charm has no option for it
        lines += [
            "/etc/nova/nova.conf.d/pci-in-placement.conf exists on each unit, and contains:",
            "  [filter_scheduler]",
            "  pci_in_placement = true",
            "then the unit's Nova services are restarted",
        ]
    return lines


def _flavor_lines(predicted: Assessment) -> list[str]:
    """Return the properties with which a flavor requests each type and each whole card."""
    rows = [(" ".join(offer.properties), offer.title) for offer in offers(predicted)]
    return aligned(rows).splitlines()


def _requests_for_other_hosts(assessment: Assessment) -> list[str]:
    vgpus, whole_cards = assessment.plan.for_other_hosts, assessment.whole_cards.for_other_hosts
    requests = [(request.vgpu_type, request.devices) for request in vgpus]
    requests += [(request.name, request.devices) for request in whole_cards]
    return [f"{name}: " + ", ".join(map(str, devices)) for name, devices in requests]


def _list(title: str, items: Sequence[str]) -> str:
    return _block(title, [f"- {item}" for item in items])


def _block(title: str, lines: Sequence[str]) -> str:
    """Return a titled block; empty if it has no lines."""
    return f"{title}:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
