# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What an event finds and decides: facts, mapping and state, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, NamedTuple

from driver import software
from gpu.card import Framework
from gpu.problems import (
    OBSTACLES,
    PREPARATION_PENDING,
    SOFTWARE_BROKEN,
    HostError,
    Problem,
    ProblemKind,
)
from host.facts import HostFacts
from nova_compute import nova_conf
from nova_compute.compatibility import plan_for_nova
from nova_compute.nova_conf import DEFAULT_OPTIONS, VariantDriverOptions
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import Plan
from state import boot_result
from state.backoff import Backoff
from state.charm_state import CharmState
from status import diagnosis
from system.text import digest

__all__ = [
    "Assessment",
    "Inputs",
    "assess",
    "needs_software",
    "withdrawn",
    "withdrawn_sections",
]


class Inputs(NamedTuple):
    """What the operator has set, and what of it applies to this host.

    Attributes:
        mapping: the value of the option vgpu-device-mappings, or one to try.
        needs_software: whether this host needs NVIDIA's host software.
        options: the options for functions under the kernel variant driver.
    """

    mapping: str
    needs_software: bool
    options: VariantDriverOptions

    @classmethod
    def from_config(
        cls, config: Mapping[str, object], facts: HostFacts, state: CharmState
    ) -> Inputs:
        """Read the charm's options.

        A compute node that has ever reported functions to placement must keep doing so.
        """
        in_placement = config.get("report-in-placement") is True or state.reported_in_placement
        return cls(
            mapping=str(config.get("vgpu-device-mappings", "")),
            needs_software=needs_software(config, facts),
            options=VariantDriverOptions(
                report_in_placement=in_placement,
                live_migratable=config.get("live-migratable") is True,
            ),
        )


def needs_software(config: Mapping[str, object], facts: HostFacts) -> bool:
    """Whether a host needs NVIDIA's host software: it has a card for vGPUs, or it is forced."""
    is_forced = config.get("force-install-nvidia-vgpu") is True
    return not facts.is_container and (bool(facts.own_cards) or is_forced)


class Assessment(NamedTuple):
    """The state of a host, from which the published data and the unit status follow.

    Attributes:
        facts: the host as it is.
        plan: what it is to offer.
        problems: all problems, including those of the plan.
        state: the charm's state to be saved.
        options: the options for functions under the kernel variant driver that this host
            supports.
        needs_preparation: whether the boot service has something to do now.
    """

    facts: HostFacts
    plan: Plan
    problems: tuple[Problem, ...]
    state: CharmState
    options: VariantDriverOptions = DEFAULT_OPTIONS
    needs_preparation: bool = False

    def may_prepare(self, now: float) -> bool:
        """Whether the boot service has not just failed under the same conditions."""
        return self.state.preparation.may_retry(self._conditions, now)

    def with_preparation(self) -> Assessment:
        """Return the assessment after the boot service has succeeded, or had nothing to do."""
        failure = self.state.preparation.failure
        problems = tuple(problem for problem in self.problems if problem != failure)
        state = self.state._replace(preparation=Backoff())
        return self._replace(state=state, problems=problems)

    def with_failed_preparation(
        self, now: float, problem: Problem | None, first_delay: int
    ) -> Assessment:
        """Return the assessment after the boot service has failed.

        Args:
            now: seconds since 1970.
            problem: why it could not run to its end; None if its result says what failed.
            first_delay: see `Backoff.fail`.
        """
        failed = self.state.preparation.fail(self._conditions, now, problem, first_delay)
        return self._replace(state=self.state._replace(preparation=failed)).with_last_failure()

    def with_last_failure(self) -> Assessment:
        """Return the assessment with why the boot service could not run, while that holds."""
        failed = self.state.preparation
        if failed.failure is None or failed.conditions != self._conditions:
            return self
        return self._replace(problems=tuple(dict.fromkeys((failed.failure, *self.problems))))

    def with_unwritable_state(self, problem: Problem) -> Assessment:
        """Return the assessment if the charm's state cannot be saved.

        What Nova is offered stays as it is if it depends on the state.
        """
        problems = tuple(dict.fromkeys((problem, *self.problems)))
        keeps = self.plan.keeps_published or self.state.reported_in_placement
        return self._replace(problems=problems, plan=self.plan._replace(keeps_published=keeps))

    def with_nothing_to_keep(self) -> Assessment:
        """Return the assessment if what is published was to stay, but nothing is published.

        Then the other cards are offered, unless the mapping is wrong, and what Nova must not be
        without is published in any case.
        """
        plan, state = self.plan, self.state
        offered = () if plan.problems else plan.assignments
        plan = plan._replace(keeps_published=False, assignments=offered)
        return _record_placement(self._replace(plan=plan, state=state))

    def retry_at(self, problem: Problem, now: float) -> int | None:
        """Return when a step that failed is tried again, in seconds since 1970; None: now."""
        is_software = self.is_software_broken(problem)
        failed = self.state.installation if is_software else self.state.preparation
        return failed.retry_at(now)

    def is_software_broken(self, problem: Problem) -> bool:
        """Whether the host software is not as it should be, because of this problem."""
        return problem.kind in SOFTWARE_BROKEN or (
            problem == self.state.installation.failure
            and problem.kind is not ProblemKind.UPGRADE_PENDING
        )

    @property
    def _conditions(self) -> str:
        """A digest of everything that decides whether the boot service succeeds."""
        pending, facts = self.plan.preparation.pending, self.facts
        rows = [
            (card._replace(creatable=frozenset()), *sorted(card.creatable))
            for card in facts.cards
            if card.address in pending or card.lost_types
        ]
        to_restore = (facts.mdevs_to_restore, facts.types_to_restore)
        requested, keeps = self.state.mapping.requested, self.plan.keeps_published
        loaded = facts.driver.loaded
        return digest(repr((requested, keeps, pending, rows, to_restore, loaded)))

    @property
    def is_paused(self) -> bool:
        """Whether this unit or the principal has paused NVIDIA's daemon."""
        return self.state.paused or self.facts.is_paused_by_mask

    @property
    def has_driver(self) -> bool:
        """Whether NVIDIA's driver is installed or loaded."""
        driver = self.facts.driver
        return driver.installed is not None or driver.loaded is not None

    @property
    def may_change_cards(self) -> bool:
        """Whether the boot service has anything to work on here."""
        has_cards = bool(self.facts.own_cards) and not self.facts.is_container
        return has_cards and self.has_driver and not self.is_paused

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The sections of nova.conf; empty also if what is published stays."""
        if self.plan.keeps_published or self.facts.nova is None:
            return {}
        sections = nova_conf.render(self.plan.assignments, self.facts.nova, self.options)
        if self.state.reported_in_placement:
            sections.setdefault("pci", [nova_conf.REPORT_IN_PLACEMENT])
        return sections


def withdrawn(facts: HostFacts, state: CharmState) -> Assessment:
    """Return the assessment of a unit that is about to be removed, and offers nothing."""
    return Assessment(facts, Plan(), (), state)


def withdrawn_sections(state: CharmState) -> dict[str, list[tuple[str, str]]]:
    """Return the sections of nova.conf that must stay when the unit is removed."""
    return {"pci": [nova_conf.REPORT_IN_PLACEMENT]} if state.reported_in_placement else {}


def assess(root: Path, facts: HostFacts, state: CharmState, inputs: Inputs) -> Assessment:
    """Determine the state of a host and what it is to offer; change nothing.

    Args:
        root: the root of the host's file system.
        facts: the host as it is.
        state: the charm's state.
        inputs: what the operator has set.
    """
    problems = list(software.find_problems(facts, state)) if inputs.needs_software else []
    if facts.is_container and facts.cards:
        problems.append(Problem(ProblemKind.IN_CONTAINER))
    try:
        state, requests = _parse_mapping(state, inputs.mapping)
    except HostError as error:
        return Assessment(facts, Plan(keeps_published=True), (error.problem, *problems), state)
    if facts.nova is None:
        problems.append(Problem(ProblemKind.NOVA_MISSING))
        return Assessment(facts, Plan(keeps_published=True), tuple(problems), state)
    plan = plan_for_nova(requests, facts.cards, facts.nova, inputs.options)
    is_pending = any(problem.kind in PREPARATION_PENDING for problem in plan.problems)
    if plan.preparation.is_pending or is_pending or facts.has_vgpus_to_restore:
        failures = boot_result.failures(root)
        problems += [failure for failure in failures if not _is_explained(failure, plan)]
        plan = _without_failed_cards(plan, facts, failures)
    if facts.unreadable_devices and requests:
        problems.append(Problem(ProblemKind.CARD_UNREADABLE, facts.unreadable_devices[0]))
        is_offered = any(assignment.cards for assignment in plan.assignments)
        if facts.has_unreadable_vgpus or not is_offered:
            plan = plan._replace(keeps_published=True)
    state = _record_mapping(state, inputs, plan)
    if plan.keeps_published and not plan.problems and state.mapping.is_new:
        problems += _why_withheld(plan, facts)
    options, notes = _supported_options(inputs.options, plan, facts)
    problems += notes
    problems += [*plan.problems, *plan.notes]
    assessment = Assessment(
        facts=facts,
        plan=plan,
        problems=_root_causes(problems, facts, inputs),
        state=state,
        options=options,
        needs_preparation=facts.has_vgpus_to_restore
        or (plan.preparation.is_pending and state.mapping.requested == inputs.mapping),
    )
    return _record_placement(assessment).with_last_failure()


def _parse_mapping(state: CharmState, text: str) -> tuple[CharmState, tuple[VgpuRequest, ...]]:
    """Parse the option; a value that has passed the schema is not validated again."""
    data = mappings.OPTION.parse(text)
    if data is not None:
        schema_digest = digest(mappings.OPTION.schema.read_text(encoding="utf-8") + text)
        if schema_digest != state.validated_mapping_digest:
            mappings.OPTION.check(data)
            state = state._replace(validated_mapping_digest=schema_digest)
    return state, mappings.requests(data)


def _is_explained(failure: Problem, plan: Plan) -> bool:
    """Whether a note of the plan says why the card of a failure cannot serve at all."""
    cards = [note.address for note in plan.notes if note.address and note.kind in OBSTACLES]
    address = failure.address
    return address is not None and any(address.is_on_bus_of(card) for card in cards)


def _why_withheld(plan: Plan, facts: HostFacts) -> list[Problem]:
    """Return which card keeps a new mapping from being applied, because of its guests."""
    left_out = {note.address for note in plan.notes if note.kind in OBSTACLES}
    cards = [card for card in facts.cards if card.address in left_out and card.guest_vgpus]
    return [Problem(ProblemKind.MAPPING_WITHHELD, card.address) for card in cards[:1]]


def _without_failed_cards(plan: Plan, facts: HostFacts, failures: tuple[Problem, ...]) -> Plan:
    """Offer what the other cards have if the preparation of one has failed.

    What the others have may have changed, and Nova must not be left with what they had before.
    Not if guests have vGPUs of the failed card: what is published stays for them, and the boot
    service does not change the other cards either.
    """
    if any(failure.kind is ProblemKind.MAPPING_WITHHELD for failure in failures):
        return plan  # the last run has tried nothing of this mapping
    failed = {problem.address for problem in failures}
    failed.difference_update(card.address for card in facts.cards if card.guest_vgpus)
    excluded = [
        problem
        for problem in plan.problems
        if problem.kind in PREPARATION_PENDING and problem.address in failed
    ]
    if not excluded or not any(assignment.cards for assignment in plan.assignments):
        return plan
    problems = tuple(problem for problem in plan.problems if problem not in excluded)
    return plan._replace(
        problems=problems, notes=(*plan.notes, *excluded), keeps_published=bool(problems)
    )


def _record_mapping(state: CharmState, inputs: Inputs, plan: Plan) -> CharmState:
    """Request a mapping from the boot service unless it is wrong."""
    mapping = state.mapping
    if any(problem.kind not in PREPARATION_PENDING for problem in plan.problems):
        # It may have looked right before the cards reported more.
        return state._replace(mapping=mapping.withdraw(inputs.mapping))
    mapping = mapping.request(
        inputs.mapping, report_in_placement=inputs.options.report_in_placement
    )
    return state._replace(mapping=mapping)


def _supported_options(
    options: VariantDriverOptions, plan: Plan, facts: HostFacts
) -> tuple[VariantDriverOptions, list[Problem]]:
    """Return the options that this host supports, and a note on the others."""
    if not options.live_migratable or facts.can_migrate_functions:
        return options, []
    notes = []
    if any(assignment.framework is Framework.VENDOR_VFIO for assignment in plan.assignments):
        libvirt, qemu = _dotted(facts.libvirt), _dotted(facts.qemu)
        notes.append(Problem(ProblemKind.NO_MIGRATION, libvirt=libvirt, qemu=qemu))
    return options._replace(live_migratable=False), notes


def _dotted(version: tuple[int, ...] | None) -> str:
    return ".".join(map(str, version)) if version else "none"


def _root_causes(problems: list[Problem], facts: HostFacts, inputs: Inputs) -> tuple[Problem, ...]:
    """Replace problems with their causes, without duplicates."""
    if inputs.needs_software and facts.driver.loaded is None:
        # A driver that is not loaded is the reason for unknown types, and reported itself.
        problems = [
            problem for problem in problems if problem.kind is not ProblemKind.TYPES_UNKNOWN
        ]
    return tuple(dict.fromkeys(diagnosis.root_cause(problem, facts) for problem in problems))


def _record_placement(assessment: Assessment) -> Assessment:
    """Note that nova.conf gets report_in_placement, which cannot be undone."""
    is_reported = assessment.options.report_in_placement and "pci" in assessment.sections
    if not is_reported:
        return assessment
    return assessment._replace(state=assessment.state._replace(reported_in_placement=True))
