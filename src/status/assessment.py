# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What an event finds and decides: facts, mapping and state, put together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from driver import software
from gpu.card import Framework
from gpu.problems import (
    GUEST_PENDING,
    OBSTACLES,
    PREPARATION_PENDING,
    SOFTWARE_BROKEN,
    Problem,
    ProblemKind,
)
from host.facts import HostFacts
from nova_compute import nova_conf
from nova_compute.compatibility import plan_for_nova
from nova_compute.nova_conf import DEFAULT_OPTIONS, PciOptions
from nova_compute.release import NovaVersion
from planning.mappings import VgpuRequest
from planning.plan import Plan
from planning.preparation import Preparation
from planning.whole_card_plan import WholeCardPlan
from state import boot_result
from state.backoff import Backoff
from state.charm_state import CharmState
from status import diagnosis
from status.inputs import Inputs, last_valid_vgpus, needs_software
from system.text import digest

__all__ = [
    "Assessment",
    "assess",
    "withdrawn",
    "withdrawn_sections",
]


# What guests have, not what was requested for them.
_TYPES_OF_GUESTS = (ProblemKind.GUESTS_USE_OTHER_TYPE, ProblemKind.GUESTS_KEEP_TYPE)


class Assessment(NamedTuple):
    """The state of a host, from which the published data and the unit status follow.

    Attributes:
        facts: the host as it is.
        plan: the vGPUs that it is to offer.
        problems: all problems, including those of the plans.
        state: the charm's state to be saved.
        options: the options for PCI devices that this host supports.
        whole_cards: the whole cards that it is to offer.
        needs_preparation: whether the boot service has something to do now.
    """

    facts: HostFacts
    plan: Plan
    problems: tuple[Problem, ...]
    state: CharmState
    options: PciOptions = DEFAULT_OPTIONS
    whole_cards: WholeCardPlan = WholeCardPlan()
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

        What Nova is offered stays as it is, since a boot restores what the state says.
        """
        problems = tuple(dict.fromkeys((problem, *self.problems)))
        state, plan = self.state, self.plan
        keeps = plan.keeps_published or state.has_published or state.reported_in_placement
        return self._replace(
            problems=problems,
            plan=plan._replace(keeps_published=keeps),
            whole_cards=self.whole_cards._replace(keeps_published=True),
        )

    def with_nothing_to_keep(self, published: nova_conf.Sections) -> Assessment:
        """Return the assessment if what is published was to stay, but nothing is published.

        Then the other cards are offered, unless the mapping is wrong; the whole cards of the last
        valid value; and what Nova must not be without is published in any case.
        """
        plan, whole_cards = self.plan, self.whole_cards
        if self._would_keep_no_vgpus(published):
            offered = () if plan.problems else plan.assignments
            plan = plan._replace(keeps_published=False, assignments=offered)
        if self._would_keep_no_whole_cards(published):
            whole_cards = whole_cards._replace(problems=())
        return _record_placement(self._replace(plan=plan, whole_cards=whole_cards))

    def retry_at(self, problem: Problem, now: float) -> int | None:
        """Return when a step that failed is tried again, in seconds since 1970; None: now."""
        is_software = self.is_software_broken(problem)
        failed = self.state.installation if is_software else self.state.preparation
        return failed.retry_at(now)

    @property
    def software_problem(self) -> Problem | None:
        """The first problem because of which the host software is not as it should be."""
        return next((item for item in self.problems if self.is_software_broken(item)), None)

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
        whole_cards: tuple[object, ...] = ()
        if self.whole_cards.is_pending:
            plan, passthrough = self.whole_cards, self.state.requested_passthrough
            drivers = [item.driver for card in facts.whole_cards for item in card.functions]
            whole_cards = (passthrough, plan.to_bind, plan.to_return, drivers)
        return digest(repr((requested, keeps, pending, rows, to_restore, loaded, whole_cards)))

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
        facts = self.facts
        has_cards = bool(facts.own_cards) and self.has_driver
        has_whole_cards = bool(facts.whole_cards or facts.functions_to_return)
        is_possible = not facts.is_container and not self.is_paused
        return is_possible and (has_cards or has_whole_cards)

    @property
    def keeps_vgpus(self) -> bool:
        """Whether what is published for vGPUs stays."""
        return self.plan.keeps_published or self.facts.nova is None

    @property
    def keeps_whole_cards(self) -> bool:
        """Whether what is published for whole cards stays."""
        plan = self.whole_cards
        return bool(plan.problems) or plan.keeps_published or self.facts.nova is None

    @property
    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """The sections of nova.conf, without what stays as it is published."""
        if self.facts.nova is None:
            return {}
        assignments = () if self.keeps_vgpus else self.plan.assignments
        offers = () if self.keeps_whole_cards else self.whole_cards.offers
        sections = nova_conf.render(assignments, self.facts.nova, self.options, offers)
        if self.state.reported_in_placement and not (self.keeps_vgpus and self.keeps_whole_cards):
            sections.setdefault("pci", [nova_conf.REPORT_IN_PLACEMENT])
        return sections

    @property
    def must_be_recorded_first(self) -> bool:
        """Whether nothing may be published before the state is saved.

        Nova must never be without report_in_placement again, and a boot binds the whole cards
        that the state says.
        """
        facts = self.facts
        has_whole_cards = bool(facts.whole_cards or facts.functions_to_return)
        return self.state.reported_in_placement or has_whole_cards

    def sections_beside(self, published: nova_conf.Sections) -> nova_conf.Sections:
        """Return the sections of nova.conf, with what stays of those that are published."""
        return nova_conf.with_kept(
            self.sections,
            published,
            keeps_vgpus=self.keeps_vgpus,
            keeps_whole_cards=self.keeps_whole_cards,
        )

    @staticmethod
    def has_vgpus(published: nova_conf.Sections) -> bool:
        """Whether vGPUs are published."""
        return nova_conf.has_vgpus(published)

    def would_keep_nothing(self, published: nova_conf.Sections) -> bool:
        """Whether vGPUs or whole cards stay for guests, or for Nova, but none are published."""
        return self._would_keep_no_vgpus(published) or self._would_keep_no_whole_cards(published)

    def _would_keep_no_vgpus(self, published: nova_conf.Sections) -> bool:
        plan = self.plan
        is_wrong = bool(plan.problems) and not self.state.reported_in_placement
        return plan.keeps_published and not is_wrong and not nova_conf.has_vgpus(published)

    def _would_keep_no_whole_cards(self, published: nova_conf.Sections) -> bool:
        plan = self.whole_cards
        stays = plan.is_last_valid and bool(plan.offers)
        return stays and not nova_conf.has_whole_cards(published)


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
    state = state._replace(
        validated_mapping_digest=inputs.mapping_digest,
        validated_passthrough_digest=inputs.passthrough_digest,
    )
    problems = [*inputs.problems]
    if needs_software(inputs, facts):
        problems += software.find_problems(facts, state)
    if facts.is_container and (facts.cards or facts.whole_cards):
        problems.append(Problem(ProblemKind.IN_CONTAINER))
    if facts.nova is None:
        problems.append(Problem(ProblemKind.NOVA_MISSING))
        return Assessment(facts, Plan(keeps_published=True), tuple(problems), state)
    plan, whole_cards = _plans(facts, facts.nova, state, inputs)
    is_pending = any(problem.kind in PREPARATION_PENDING for problem in plan.problems)
    is_pending |= plan.preparation.is_pending or whole_cards.is_pending
    if is_pending or facts.has_vgpus_to_restore:
        failures = boot_result.failures(root)
        problems += [failure for failure in failures if not _is_explained(failure, plan)]
        plan = _without_failed_cards(plan, facts, failures, state)
        whole_cards = whole_cards.without_notes_on(failure.address for failure in failures)
    if facts.unreadable_devices and inputs.vgpus:
        problems.append(Problem(ProblemKind.CARD_UNREADABLE, facts.unreadable_devices[0]))
        is_offered = any(assignment.cards for assignment in plan.assignments)
        if facts.has_unreadable_vgpus or not is_offered:
            plan = plan._replace(keeps_published=True)
    state = _record_requests(state, inputs, plan, whole_cards)
    if plan.keeps_published and not plan.problems and state.mapping.is_new:
        problems += _why_withheld(plan, facts)
    options, notes = _supported_options(inputs.pci, plan, facts)
    problems += notes
    is_applied = state.mapping.requested == inputs.mapping
    problems += _of_vgpus(plan, whole_cards, is_applied=is_applied)
    problems += [*whole_cards.problems, *whole_cards.notes, *inputs.notes]
    assessment = Assessment(
        facts=facts,
        plan=plan,
        problems=_root_causes(problems, facts, inputs),
        state=state,
        options=options,
        whole_cards=whole_cards,
        needs_preparation=facts.has_vgpus_to_restore
        or (plan.preparation.is_pending and is_applied)
        or (whole_cards.is_pending and state.requested_passthrough == inputs.passthrough),
    )
    return _record_placement(assessment).with_last_failure()


def _plans(
    facts: HostFacts, nova: NovaVersion, state: CharmState, inputs: Inputs
) -> tuple[Plan, WholeCardPlan]:
    """Plan vGPUs and whole cards; an option that is not valid leaves its own as they are."""
    plan = Plan(keeps_published=True)
    if inputs.mapping_problem is None:
        has_others = any(item.card is not None for item in facts.whole_cards)
        plan = plan_for_nova(
            inputs.vgpus, facts.cards, nova, inputs.pci, has_other_cards=has_others
        )
    if not state.has_published:
        plan = _without_vgpus_of_others(plan)
    if facts.unreadable_devices and facts.has_unreadable_vgpus and inputs.vgpus:
        plan = plan._replace(keeps_published=True)
    whole_cards = _plan_whole_cards(facts, inputs, plan, state)
    is_valid = inputs.passthrough_problem is None
    if is_valid and any(
        problem.kind is ProblemKind.DEVICE_IN_BOTH_OPTIONS for problem in whole_cards.problems
    ):
        return plan._replace(keeps_published=True, preparation=Preparation()), whole_cards
    if whole_cards.later_offers:
        whole_cards = _for_nova(whole_cards, plan, facts, nova, inputs)
    if inputs.passthrough_problem is not None:
        is_usable = not whole_cards.problems
        whole_cards = whole_cards.with_problems([inputs.passthrough_problem])
        whole_cards = whole_cards._replace(notes=(), is_last_valid=is_usable)
    return plan, whole_cards


def _without_vgpus_of_others(plan: Plan) -> Plan:
    """Ignore vGPUs of unselected cards if nothing was published: Nova did not create them."""
    kind = ProblemKind.GUESTS_USE_OTHER_TYPE
    if plan.assignments or any(problem.kind is not kind for problem in plan.problems):
        return plan
    return plan._replace(problems=(), keeps_published=plan.keeps_published and not plan.problems)


def _plan_whole_cards(
    facts: HostFacts, inputs: Inputs, plan: Plan, state: CharmState
) -> WholeCardPlan:
    if not (inputs.whole_cards or facts.functions_to_return):
        return WholeCardPlan()
    from planning.whole_cards import plan_whole_cards  # for whole cards only

    in_force = _vgpus_in_force(inputs, plan, state) if plan.keeps_published else ()
    return plan_whole_cards(
        inputs.whole_cards, facts.whole_cards, inputs.vgpus, facts.functions_to_return, in_force
    )


def _vgpus_in_force(inputs: Inputs, plan: Plan, state: CharmState) -> tuple[VgpuRequest, ...]:
    """Return the requests for vGPUs that apply as long as what is published stays."""
    values = [state.mapping.published] if state.has_published else []
    if any(problem.kind not in PREPARATION_PENDING for problem in plan.problems):
        values.append(state.mapping.withdraw(inputs.mapping).requested)
    return tuple(request for value in values for request in last_valid_vgpus(value))


def _for_nova(
    whole_cards: WholeCardPlan, plan: Plan, facts: HostFacts, nova: NovaVersion, inputs: Inputs
) -> WholeCardPlan:
    """Return the whole cards with what the installed Nova makes of them."""
    from nova_compute.pci_aliases import apply_release_to_whole_cards  # for whole cards only

    aliases = [
        nova_conf.alias(assignment, inputs.pci)
        for assignment in plan.assignments
        if assignment.framework is Framework.VENDOR_VFIO
    ]
    return apply_release_to_whole_cards(
        whole_cards, nova, inputs.pci, aliases, facts.operator_pci_options
    )


def _of_vgpus(plan: Plan, whole_cards: WholeCardPlan, *, is_applied: bool) -> list[Problem]:
    """Return the problems and notes of a plan that say something of their own.

    Not those of guests on a card that is to be given away whole, and not what a mapping waits for
    that is not applied because of another problem.
    """
    kind, of_guests = ProblemKind.VGPUS_ON_CARD, _TYPES_OF_GUESTS
    cards = {note.address for note in whole_cards.notes if note.kind is kind}
    return [
        problem
        for problem in (*plan.problems, *plan.notes)
        if problem.kind not in of_guests or problem.address not in cards
        if is_applied or problem.kind not in PREPARATION_PENDING - GUEST_PENDING
    ]


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


def _without_failed_cards(
    plan: Plan, facts: HostFacts, failures: tuple[Problem, ...], state: CharmState
) -> Plan:
    """Offer what the other cards have if the preparation of one has failed.

    What the others have may have changed, and Nova must not be left with what they had before.
    Not if guests have vGPUs of the failed card, and something is published: that stays for them,
    and the boot service does not change the other cards either.
    """
    if any(failure.kind is ProblemKind.MAPPING_WITHHELD for failure in failures):
        return plan  # the last run has tried nothing of this mapping
    failed = {problem.address for problem in failures}
    if state.has_published:
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


def _record_requests(
    state: CharmState, inputs: Inputs, plan: Plan, whole_cards: WholeCardPlan
) -> CharmState:
    """Request from the boot service what the options say, unless that is wrong."""
    if not whole_cards.problems:
        state = state._replace(requested_passthrough=inputs.passthrough)
    mapping = state.mapping
    is_in_both = any(
        problem.kind is ProblemKind.DEVICE_IN_BOTH_OPTIONS for problem in whole_cards.problems
    )
    if inputs.mapping_problem is not None:
        return state
    if is_in_both or any(problem.kind not in PREPARATION_PENDING for problem in plan.problems):
        # It may have looked right before the cards reported more.
        return state._replace(mapping=mapping.withdraw(inputs.mapping))
    mapping = mapping.request(inputs.mapping, report_in_placement=inputs.pci.report_in_placement)
    return state._replace(mapping=mapping)


def _supported_options(
    options: PciOptions, plan: Plan, facts: HostFacts
) -> tuple[PciOptions, list[Problem]]:
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
    if needs_software(inputs, facts) and facts.driver.loaded is None:
        # A driver that is not loaded is the reason for unknown types, and reported itself.
        problems = [
            problem for problem in problems if problem.kind is not ProblemKind.TYPES_UNKNOWN
        ]
    return tuple(dict.fromkeys(diagnosis.root_cause(problem, facts) for problem in problems))


def _record_placement(assessment: Assessment) -> Assessment:
    """Note that nova.conf gets report_in_placement, which cannot be undone."""
    is_reported = assessment.options.report_in_placement and "pci" in assessment.sections
    if not (is_reported and assessment.state.is_related):
        return assessment
    return assessment._replace(state=assessment.state._replace(reported_in_placement=True))
