# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What `juju status` shows: statuses from an assessment, and the text of a problem."""

from __future__ import annotations

import time
from typing import Dict, NamedTuple

from gpu.problems import ASSIGNED_ELSEWHERE, NEEDS_REBOOT, Problem, ProblemKind
from host.facts import HostFacts
from status.assessment import Assessment
from status.messages import MESSAGES, RUN_AGAIN, Level
from system.text import one_line

__all__ = [
    "Status",
    "format_problem",
    "problem_status",
    "unit_statuses",
    "why_no_reboot",
    "why_no_types_listed",
]

_LIMIT = 119  # characters; `juju status` cuts off the rest
_MIN_ARGUMENT = 11  # characters of an argument that are never cut off


class Status(NamedTuple):
    """One line of `juju status`."""

    level: Level
    message: str


def unit_statuses(assessment: Assessment, app: str, now: float) -> tuple[Status, ...]:
    """Return the statuses of a unit, the most severe first; of a paused one, only that.

    Args:
        assessment: the state of the host.
        app: the name of the application.
        now: seconds since 1970.
    """
    if assessment.is_paused:
        by_unit = assessment.state.paused
        kind = ProblemKind.PAUSED if by_unit else ProblemKind.PAUSED_BY_PRINCIPAL
        return (problem_status(Problem(kind), app),)
    statuses = [
        problem_status(problem, app, assessment.retry_at(problem, now))
        for problem in assessment.problems
    ]
    notes = [status.message for status in statuses if status.level is Level.ACTIVE]
    severe = [status for status in statuses if status.level is not Level.ACTIVE]
    severe.sort(key=lambda status: list(Level).index(status.level))
    return (*severe, Status(Level.ACTIVE, _ready(_summary(assessment), notes)))


def _ready(summary: str, notes: list[str]) -> str:
    """Return the text of a ready unit with as many complete notes as fit."""
    start = f"Unit is ready: {summary}"
    for count in range(len(notes), 0, -1):
        more = ["..."] if count < len(notes) else []
        text = "; ".join([start, *notes[:count], *more])
        if len(text) <= _LIMIT:
            return text
    return _truncate("; ".join([start, *notes[:1]]))


def problem_status(problem: Problem, app: str, retry_at: int | None = None) -> Status:
    """Return the level of a problem and its text; see `format_problem`."""
    return Status(MESSAGES[problem.kind].level, format_problem(problem, app, retry_at))


def format_problem(problem: Problem, app: str, retry_at: int | None = None) -> str:
    """Return the text of a problem, in which long arguments are cut off before anything else.

    Args:
        problem: the problem.
        app: the name of the application.
        retry_at: when the step that failed is tried again, in seconds since 1970; None if it is
            not waiting for that.
    """
    template = MESSAGES[problem.kind].template
    if retry_at is not None:
        template = template.replace(RUN_AGAIN, _run_again_or_wait(retry_at))
    arguments = {name: one_line(text, 2 * _LIMIT) for name, text in problem.arguments}
    text = _fill(template, problem, app, arguments)
    # The end, what to do, matters more than all of a long argument, which may appear twice.
    for _ in 2 * list(arguments):
        if len(text) > _LIMIT:
            longest = max(arguments, key=lambda name: len(arguments[name]))
            room = len(arguments[longest]) - (len(text) - _LIMIT)
            arguments[longest] = _truncate(arguments[longest], max(room, _MIN_ARGUMENT))
            text = _fill(template, problem, app, arguments)
    return _truncate(text)


def _run_again_or_wait(retry_at: int) -> str:
    return f"{RUN_AGAIN} (next try {time.strftime('%H:%M', time.gmtime(retry_at))} UTC)"


class _Arguments(Dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "?"  # another revision wrote the problem


def _fill(template: str, problem: Problem, app: str, arguments: dict[str, str]) -> str:
    address = "?" if problem.address is None else str(problem.address)
    return template.format_map(_Arguments({"address": address, "app": app, **arguments}))


def why_no_reboot(assessment: Assessment, obstacle: Problem | None, app: str, now: float) -> str:
    """Return what must be fixed before a reboot helps.

    Args:
        assessment: the state of the host.
        obstacle: what a reboot would interrupt.
        app: the name of the application.
        now: seconds since 1970.
    """
    problem = obstacle or assessment.software_problem
    if obstacle is not None and obstacle.kind is ProblemKind.DPKG_INTERRUPTED:
        problem = assessment.state.installation.failure or obstacle
    if problem is not None:
        return problem_status(problem, app, assessment.retry_at(problem, now)).message
    others = tuple(item for item in assessment.problems if item.kind not in NEEDS_REBOOT)
    return unit_statuses(assessment._replace(problems=others), app, now)[0].message


def why_no_types_listed(facts: HostFacts) -> str:
    """Return why there is no vGPU type to list."""
    if not facts.cards:
        return "No vGPU types: no supported NVIDIA GPU found"
    if facts.driver.loaded is None:
        return "No vGPU types: NVIDIA's driver is not loaded; see the unit's status"
    return "No vGPU types: the cards report none; see journalctl -u nvidia-vgpud"


def _summary(assessment: Assessment) -> str:
    facts, plan = assessment.facts, assessment.plan
    gpus = len(facts.gpus)
    if not gpus and not facts.whole_cards:
        return "no supported NVIDIA GPU found"
    offered = [assignment for assignment in plan.assignments if assignment.cards]
    if facts.nova is not None and not facts.nova.supports_several_types:
        offered = offered[:1]
    whole_cards, nics = (
        sum(
            len(offer.addresses)
            for offer in assessment.whole_cards.offers
            if offer.is_nic is are_nics
        )
        for are_nics in (False, True)
    )
    parts = [_counted(gpus, "NVIDIA GPU")]
    parts += [_counted(len(offered), "vGPU type")] if offered else []
    parts += [_counted(whole_cards, "whole card")] if whole_cards else []
    parts += [_counted(nics, "network function")] if nics else []
    if len(parts) == 1:
        parts.append(_why_none(assessment))
    elif not offered and facts.own_cards and plan.for_other_hosts:
        parts.append("no card selected by vgpu-device-mappings")
    return ", ".join(parts)


def _why_none(assessment: Assessment) -> str:
    """Return why nothing is offered, if nothing is wrong."""
    plan = assessment.plan
    if any(note.kind in ASSIGNED_ELSEWHERE for note in plan.notes):
        return "none free for vGPUs"
    unselected = {
        "vgpu-device-mappings": plan.for_other_hosts,
        "passthrough-devices": assessment.whole_cards.for_other_hosts,
    }
    options = [option for option, requests in unselected.items() if requests]
    return (
        f"none selected by {' or '.join(options)}"
        if options
        else ("vgpu-device-mappings is not set")
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _truncate(text: str, limit: int = _LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
