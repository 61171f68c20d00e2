# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What holds on a host and what it is to offer: facts and the option's value, put together."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import boot
from driver import daemon, software
from gpu.card import Framework
from gpu.problems import HostError, Kind, Problem
from host.facts import Facts
from nova_compute import nova_conf
from nova_compute.compatibility import honour
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import DEFAULTS, PciOptions, Plan, make_plan
from state.charm_state import Memory
from status import diagnosis

__all__ = ["WAITING", "Situation", "assess"]

_RETRY = 3600  # seconds
# What the work on the cards is to end.
WAITING = frozenset(
    {
        Kind.VFS_DISABLED,
        Kind.TYPES_UNKNOWN,
        Kind.TYPE_NOT_SET,
        Kind.INSTANCES_MISSING,
        Kind.MIG_BACKED_STILL,
        Kind.MIXED_SIZE_WAITS,
        Kind.MIXED_SIZE_GUESTS,
    }
)


class Situation(NamedTuple):
    """What an event found and decided; what is published and the status follow from it.

    Attributes:
        facts: the host as it is.
        plan: what it is to offer.
        problems: all that is in the way, the plan's own among them.
        memory: what is to be remembered.
        options: what is wanted of functions under the kernel variant driver.
        is_due: whether there is something for the boot service to do now.
    """

    facts: Facts
    plan: Plan
    problems: tuple[Problem, ...]
    memory: Memory
    options: PciOptions = DEFAULTS
    is_due: bool = False

    def was_vain(self, now: float) -> bool:
        """Whether the boot service failed in this situation within the hour.

        Another try may take from Nova what it is offered.
        """
        age = now - self.memory.vain_since
        return self.memory.vain == self._fingerprint and 0 <= age < _RETRY

    def as_vain(self, now: float) -> Situation:
        """Return the situation, with the note that the boot service has just failed in it."""
        memory = self.memory._replace(vain=self._fingerprint, vain_since=int(now))
        return self._replace(memory=memory)

    @property
    def _fingerprint(self) -> str:
        """A digest of all that decides what comes of the boot service."""
        work = self.plan.work
        rows = [
            (card._replace(creatable=frozenset()), *sorted(card.creatable))
            for card in self.facts.cards
            if card.gpu.address in work.due
        ]
        text = repr((self.memory.wish, work.due, rows, self.facts.driver.loaded))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_paused(self) -> bool:
        """Whether we or the principal hold NVIDIA's services."""
        return self.memory.paused or self.facts.is_masked

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The sections of nova.conf; empty if the plan is held, too."""
        if self.plan.held or self.facts.nova is None:
            return {}
        found = nova_conf.render(
            self.plan.assignments,
            self.facts.nova,
            self.options,
        )
        if self.memory.has_reported:
            found.setdefault("pci", [nova_conf.REPORT])
        return found


def assess(
    root: Path,
    facts: Facts,
    memory: Memory,
    text: str,
    *,
    needs_software: bool,
    options: PciOptions,
) -> Situation:
    """Say what holds and what is to be offered; change nothing.

    Args:
        root: the root of the host's file system.
        facts: what was read from it.
        memory: what is remembered; the situation's own knows the value if it is good.
        text: a value of the option.
        needs_software: whether NVIDIA's host software belongs on this host.
        options: see `Situation`.
    """
    problems: list[Problem] = []
    if needs_software:
        problems += software.judge(facts, memory)
    if memory.restart_waits:
        problems.append(Problem(Kind.RESTART_WAITS, daemon.DAEMON))
    try:
        memory, requests = _read(memory, text)
    except HostError as error:
        return Situation(facts, Plan(held=True), (error.problem, *problems), memory)
    if facts.nova is None:
        problems.append(Problem(Kind.NOVA_MISSING))
        return Situation(facts, Plan(held=True), tuple(problems), memory)
    plan = honour(make_plan(requests, facts.cards), facts.cards, facts.nova, options)
    failures = boot.result(root) if plan.work.is_due or facts.is_owing else ()
    problems += failures
    plan = _without_failed(plan, facts, failures)
    if facts.unreadable and requests:
        problems.append(Problem(Kind.CARD_UNREADABLE, str(facts.unreadable[0])))
        plan = plan._replace(held=True)
    memory = _with_wish(memory, text, plan, options)
    is_due = (plan.work.is_due and memory.wish == text) or facts.is_owing
    options, remarks = _allowed(options, plan, facts)
    problems += remarks
    problems += diagnosis.silent_cards(plan, facts)
    problems += (*plan.problems, *plan.remarks)
    if needs_software and facts.driver.loaded is None:  # then that is why
        problems = [problem for problem in problems if problem.kind is not Kind.TYPES_UNKNOWN]
    told = tuple(diagnosis.explain(problem, facts) for problem in problems)
    found = Situation(facts, plan, tuple(dict.fromkeys(told)), memory, options, is_due)
    has_reported = memory.has_reported or (options.report_in_placement and "pci" in found.sections)
    return found._replace(memory=memory._replace(has_reported=has_reported))


def _without_failed(plan: Plan, facts: Facts, failures: tuple[Problem, ...]) -> Plan:
    """Offer what the other cards have, where the functions of one could not be enabled.

    Not if guests are defined with those: what was published stays, as it is theirs.
    """
    failed = {problem.subject for problem in failures if problem.kind is Kind.VFS_FAILED}
    failed -= {str(card.gpu.address) for card in facts.cards if card.held}
    lost = [
        problem
        for problem in plan.problems
        if problem.kind is Kind.VFS_DISABLED and problem.subject in failed
    ]
    if not lost or not any(found.cards for found in plan.assignments):
        return plan
    rest = tuple(problem for problem in plan.problems if problem not in lost)
    return plan._replace(problems=rest, remarks=(*plan.remarks, *lost), held=bool(rest))


def _with_wish(memory: Memory, text: str, plan: Plan, options: PciOptions) -> Memory:
    """Keep a wish for the boot service, unless it cannot be; one that waits for the cards can."""
    if not all(problem.kind in WAITING for problem in plan.problems):
        # It may have looked as if it could; what came true before is to stay.
        return memory._replace(wish=memory.fulfilled) if memory.wish == text else memory
    memory = memory._replace(wish=text, reports=options.report_in_placement)
    is_waiting = any(problem.kind in WAITING for problem in (*plan.problems, *plan.remarks))
    return memory if is_waiting or plan.held else memory._replace(fulfilled=text)


def _allowed(options: PciOptions, plan: Plan, facts: Facts) -> tuple[PciOptions, list[Problem]]:
    """Return the options that this host can fulfil, and a remark on those it cannot."""
    if not options.live_migratable or facts.can_migrate_functions:
        return options, []
    is_variant = any(found.framework is Framework.VENDOR_VFIO for found in plan.assignments)
    versions = (_dotted(facts.libvirt), _dotted(facts.qemu))
    remarks = [Problem(Kind.NO_MIGRATION, *versions)] if is_variant else []
    return options._replace(live_migratable=False), remarks


def _dotted(version: tuple[int, ...] | None) -> str:
    return ".".join(map(str, version)) if version else "none"


def _read(memory: Memory, text: str) -> tuple[Memory, tuple[VgpuRequest, ...]]:
    """Read the option; a value that passed the schema before is not held against it again."""
    data = mappings.parse(text)
    if data is not None:
        digest = hashlib.sha256(mappings.SCHEMA.read_bytes() + text.encode()).hexdigest()
        if digest != memory.checked_mapping:
            mappings.check(data)
            memory = memory._replace(checked_mapping=digest)
    requests = mappings.requests(data)
    return memory, requests
