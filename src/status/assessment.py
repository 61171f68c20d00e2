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
from gpu.problems import HostError, Problem, ProblemKind
from host.facts import HostFacts
from nova_compute import nova_conf
from nova_compute.compatibility import apply_release
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import DEFAULTS, Plan, VariantDriverOptions, make_plan
from state.charm_state import CharmState
from status import diagnosis

__all__ = ["WAITING", "Assessment", "assess"]

_RETRY = 3600  # seconds
# What the work on the cards is to end.
WAITING = frozenset(
    {
        ProblemKind.VFS_DISABLED,
        ProblemKind.TYPES_UNKNOWN,
        ProblemKind.TYPE_NOT_SET,
        ProblemKind.INSTANCES_MISSING,
        ProblemKind.WAITING_TO_LEAVE_MIG,
        ProblemKind.MIXED_SIZE_PENDING,
        ProblemKind.MIXED_SIZE_GUESTS,
    }
)


class Assessment(NamedTuple):
    """What an event found and decided; what is published and the status follow from it.

    Attributes:
        facts: the host as it is.
        plan: what it is to offer.
        problems: all that is in the way, the plan's own among them.
        state: what is to be remembered.
        options: what is wanted of functions under the kernel variant driver.
        needs_preparation: whether there is something for the boot service to do now.
    """

    facts: HostFacts
    plan: Plan
    problems: tuple[Problem, ...]
    state: CharmState
    options: VariantDriverOptions = DEFAULTS
    needs_preparation: bool = False

    def failed_recently(self, now: float) -> bool:
        """Whether the boot service failed in this situation within the hour.

        Another try may take from Nova what it is offered.
        """
        age = now - self.state.failed_at
        return self.state.failed_attempt == self._fingerprint and 0 <= age < _RETRY

    def with_failed_attempt(self, now: float) -> Assessment:
        """Return the situation, with the note that the boot service has just failed in it."""
        memory = self.state._replace(failed_attempt=self._fingerprint, failed_at=int(now))
        return self._replace(state=memory)

    @property
    def _fingerprint(self) -> str:
        """A digest of all that decides what comes of the boot service."""
        work = self.plan.preparation
        rows = [
            (card._replace(creatable=frozenset()), *sorted(card.creatable))
            for card in self.facts.cards
            if card.gpu.address in work.pending
        ]
        text = repr((self.state.requested_mapping, work.pending, rows, self.facts.driver.loaded))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_paused(self) -> bool:
        """Whether we or the principal hold NVIDIA's services."""
        return self.state.paused or self.facts.is_paused_by_mask

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The sections of nova.conf; empty if the plan is held, too."""
        if self.plan.keeps_published or self.facts.nova is None:
            return {}
        found = nova_conf.render(
            self.plan.assignments,
            self.facts.nova,
            self.options,
        )
        if self.state.reported_in_placement:
            found.setdefault("pci", [nova_conf.REPORT_IN_PLACEMENT])
        return found


def assess(
    root: Path,
    facts: HostFacts,
    memory: CharmState,
    text: str,
    *,
    needs_software: bool,
    options: VariantDriverOptions,
) -> Assessment:
    """Say what holds and what is to be offered; change nothing.

    Args:
        root: the root of the host's file system.
        facts: what was read from it.
        memory: what is remembered; the situation's own knows the value if it is good.
        text: a value of the option.
        needs_software: whether NVIDIA's host software belongs on this host.
        options: see `Assessment`.
    """
    problems: list[Problem] = []
    if needs_software:
        problems += software.find_problems(facts, memory)
    if memory.restart_pending:
        problems.append(Problem(ProblemKind.RESTART_PENDING, daemon.DAEMON))
    try:
        memory, requests = _parse_mapping(memory, text)
    except HostError as error:
        return Assessment(facts, Plan(keeps_published=True), (error.problem, *problems), memory)
    if facts.nova is None:
        problems.append(Problem(ProblemKind.NOVA_MISSING))
        return Assessment(facts, Plan(keeps_published=True), tuple(problems), memory)
    plan = apply_release(make_plan(requests, facts.cards), facts.cards, facts.nova, options)
    failures = (
        boot.failures(root) if plan.preparation.is_pending or facts.has_vgpus_to_restore else ()
    )
    problems += failures
    plan = _without_failed(plan, facts, failures)
    if facts.unreadable and requests:
        problems.append(Problem(ProblemKind.CARD_UNREADABLE, str(facts.unreadable[0])))
        plan = plan._replace(keeps_published=True)
    memory = _record_mapping(memory, text, plan, options)
    is_due = (
        plan.preparation.is_pending and memory.requested_mapping == text
    ) or facts.has_vgpus_to_restore
    options, remarks = _supported_options(options, plan, facts)
    problems += remarks
    problems += diagnosis.unsupported_by_open_module(plan, facts)
    problems += (*plan.problems, *plan.notes)
    if needs_software and facts.driver.loaded is None:  # then that is why
        problems = [
            problem for problem in problems if problem.kind is not ProblemKind.TYPES_UNKNOWN
        ]
    told = tuple(diagnosis.root_cause(problem, facts) for problem in problems)
    found = Assessment(facts, plan, tuple(dict.fromkeys(told)), memory, options, is_due)
    has_reported = memory.reported_in_placement or (
        options.report_in_placement and "pci" in found.sections
    )
    return found._replace(state=memory._replace(reported_in_placement=has_reported))


def _without_failed(plan: Plan, facts: HostFacts, failures: tuple[Problem, ...]) -> Plan:
    """Offer what the other cards have, where the functions of one could not be enabled.

    Not if guests are defined with those: what was published stays, as it is theirs.
    """
    failed = {problem.subject for problem in failures if problem.kind is ProblemKind.VFS_FAILED}
    failed -= {str(card.gpu.address) for card in facts.cards if card.guest_vgpus}
    lost = [
        problem
        for problem in plan.problems
        if problem.kind is ProblemKind.VFS_DISABLED and problem.subject in failed
    ]
    if not lost or not any(found.cards for found in plan.assignments):
        return plan
    rest = tuple(problem for problem in plan.problems if problem not in lost)
    return plan._replace(problems=rest, notes=(*plan.notes, *lost), keeps_published=bool(rest))


def _record_mapping(
    memory: CharmState, text: str, plan: Plan, options: VariantDriverOptions
) -> CharmState:
    """Keep a wish for the boot service, unless it cannot be; one that waits for the cards can."""
    if not all(problem.kind in WAITING for problem in plan.problems):
        # It may have looked as if it could; what came true before is to stay.
        return (
            memory._replace(requested_mapping=memory.applied_mapping)
            if memory.requested_mapping == text
            else memory
        )
    memory = memory._replace(
        requested_mapping=text, requested_report_in_placement=options.report_in_placement
    )
    is_waiting = any(problem.kind in WAITING for problem in (*plan.problems, *plan.notes))
    return memory if is_waiting or plan.keeps_published else memory._replace(applied_mapping=text)


def _supported_options(
    options: VariantDriverOptions, plan: Plan, facts: HostFacts
) -> tuple[VariantDriverOptions, list[Problem]]:
    """Return the options that this host can fulfil, and a remark on those it cannot."""
    if not options.live_migratable or facts.can_migrate_functions:
        return options, []
    is_variant = any(found.framework is Framework.VENDOR_VFIO for found in plan.assignments)
    versions = (_dotted(facts.libvirt), _dotted(facts.qemu))
    remarks = [Problem(ProblemKind.NO_MIGRATION, *versions)] if is_variant else []
    return options._replace(live_migratable=False), remarks


def _dotted(version: tuple[int, ...] | None) -> str:
    return ".".join(map(str, version)) if version else "none"


def _parse_mapping(memory: CharmState, text: str) -> tuple[CharmState, tuple[VgpuRequest, ...]]:
    """Read the option; a value that passed the schema before is not held against it again."""
    data = mappings.parse(text)
    if data is not None:
        digest = hashlib.sha256(mappings.SCHEMA.read_bytes() + text.encode()).hexdigest()
        if digest != memory.validated_mapping_digest:
            mappings.check(data)
            memory = memory._replace(validated_mapping_digest=digest)
    requests = mappings.requests(data)
    return memory, requests
