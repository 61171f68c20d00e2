#!/usr/bin/env python3
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm: Juju's events and actions on one side, the host on the other.

Every event takes the same steps: gather facts, ensure the host software, assess, prepare the
cards, publish, set the status.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import time
from pathlib import Path
from typing import Mapping, Sequence

import ops

from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import NovaVgpuProvides, ProviderData
from driver import resource, software
from gpu.problems import HostError, Problem, ProblemKind
from host.driver_state import DAEMON
from host.facts import HostFacts, gather
from state import backoff, boot_result, bound_functions, charm_state, folders, host_owner
from state.backoff import Backoff
from state.charm_state import CharmState
from state.host_owner import Owner
from status import messages
from status.assessment import Assessment, assess, withdrawn, withdrawn_sections
from status.inputs import Inputs, needs_software
from status.unit_status import (
    format_problem,
    problem_status,
    unit_statuses,
    why_no_reboot,
    why_no_types_listed,
)
from system import commands, systemd
from system.text import digest

RESOURCE = "nvidia-vgpu-software"
# The parameters of show-plan that replace options.
_VALUES_TO_TRY = {"mappings": "vgpu-device-mappings", "passthrough": "passthrough-devices"}
_NO_VALUES: Mapping[str, object] = {}

logger = logging.getLogger(__name__)
# At DEBUG, ops logs each added status: one more process on every host every 5 minutes.
logging.getLogger("ops.charm").setLevel(logging.INFO)


class NovaComputeNvidiaVgpuCharm(ops.CharmBase):
    """Offers the NVIDIA GPUs of a compute host to its guests."""

    root = Path("/")
    run = staticmethod(commands.run)  # starts programs on the host
    # Written by the charm that had this name before; this charm keeps nothing there.
    _stored = ops.StoredState()  # type: ignore[no-untyped-call]  # ops does not type it

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        self.nova_vgpu = NovaVgpuProvides(self)
        self._assessment: Assessment | None = None
        self._inputs_read: dict[object, Inputs] = {}
        other_unit = self._other_owner()
        if other_unit is not None:
            self._not_owner = Problem(ProblemKind.OTHER_UNIT, unit=other_unit)
            framework.observe(self.on.collect_unit_status, self._on_collect_other_status)
            for event in (self.on.start, self.on.upgrade_charm, self.on.update_status):
                framework.observe(event, self._on_other_hook)
            for name in self.meta.actions:
                framework.observe(self.on[name].action, self._on_other_action)
            return
        relation = self.on["nova-vgpu"]
        for event, handler in (
            (self.on.install, self._on_install),
            (self.on.upgrade_charm, self._on_upgrade_charm),
            (self.on.start, self._on_start),
            (self.on.config_changed, self._on_config_or_update),
            (self.on.update_status, self._on_config_or_update),
            (relation.relation_created, self._on_relation_joined),
            (relation.relation_joined, self._on_relation_joined),
            (relation.relation_changed, self._on_relation_changed),
            (relation.relation_departed, self._on_departing),
            (relation.relation_broken, self._on_relation_broken),
            (self.on.stop, self._on_departing),
            (self.on.remove, self._on_remove),
            (self.on.collect_unit_status, self._on_collect_status),
            (self.on["pause"].action, self._on_pause),
            (self.on["resume"].action, self._on_resume),
            (self.on["reboot-install"].action, self._on_reboot_install),
            (self.on["list-vgpu-types"].action, self._on_list_vgpu_types),
            (self.on["show-plan"].action, self._on_show_plan),
            (self.on["show-requests"].action, self._on_show_requests),
        ):
            framework.observe(event, handler)

    def _other_owner(self) -> str | None:
        """Return the other unit that manages this host; if there is none, record this one."""
        this = Owner(self.unit.name, str(self.charm_dir))
        other = host_owner.other_owner(self.root, this)
        if other is not None:
            # Of two units, the one with the relation can publish.
            is_useful = charm_state.load(self.root).is_related or not self.nova_vgpu.is_related
            if is_useful:
                return other
        if "JUJU_ACTION_NAME" not in os.environ:  # show-plan changes nothing
            try:
                host_owner.take_over(self.root, this)
            except HostError as error:
                logger.error("%s", error)
        return None

    # Events of a unit on a host that another unit manages

    def _on_collect_other_status(self, event: ops.CollectStatusEvent) -> None:
        status = problem_status(self._not_owner, self.app.name)
        event.add_status(ops.StatusBase.from_name(status.level.value, status.message))

    def _on_other_hook(self, _: ops.EventBase) -> None:
        """Withdraw what this unit may have published before the other one took over."""
        if self.nova_vgpu.published() != ProviderData():
            self.nova_vgpu.withdraw()

    def _on_other_action(self, event: ops.ActionEvent) -> None:
        self._fail(event, self._not_owner)

    # Events

    def _on_install(self, _: ops.InstallEvent) -> None:
        """Start without the state of an earlier unit, but with its records of the cards."""
        from driver import legacy_charm

        legacy_charm.take_over(self.root, self.run)
        in_placement = charm_state.load(self.root).reported_in_placement
        self._refresh(CharmState(reported_in_placement=in_placement))

    def _on_upgrade_charm(self, _: ops.UpgradeCharmEvent) -> None:
        """Take over the files and the pause of the charm that had this name before."""
        from driver import legacy_charm

        legacy_charm.take_over(self.root, self.run)
        state = charm_state.load(self.root)
        if state == CharmState() and getattr(self._stored, "is_paused", False) is True:
            state = state._replace(paused=True)
        self._refresh(state)

    def _on_start(self, _: ops.StartEvent) -> None:
        """Refresh after a boot too; the boot has restarted all daemons."""
        self._refresh(charm_state.load(self.root)._replace(restart_pending=False))

    def _on_config_or_update(self, _: ops.EventBase) -> None:
        state = charm_state.load(self.root)
        self._reconcile(state, self._gather(state))

    def _on_relation_joined(self, _: ops.RelationEvent) -> None:
        state = charm_state.load(self.root)
        state = state._replace(is_related=True, published_digest="", preparation=Backoff())
        self._report(state)

    def _on_relation_changed(self, event: ops.RelationChangedEvent) -> None:
        trigger = self.nova_vgpu.restart_trigger(event.relation)[:200]
        state = charm_state.load(self.root).with_restart_trigger(trigger)
        self._report(state._replace(is_related=True))

    def _on_relation_broken(self, _: ops.RelationBrokenEvent) -> None:
        state = charm_state.load(self.root)
        state = state._replace(is_related=False, published_digest="", has_published=False)
        self._save(state)

    def _on_departing(self, _: ops.EventBase) -> None:
        """Withdraw what nova.conf would otherwise keep: the principal gets no event for this."""
        state = charm_state.load(self.root)
        self.nova_vgpu.publish(ProviderData(sections=withdrawn_sections(state)))
        state = self._save(state._replace(published_digest=""))
        self._assessment = withdrawn(self._gather(state), state)

    def _on_remove(self, _: ops.RemoveEvent) -> None:
        """Remove the charm's own files, but not the driver, which guests may need."""
        from cards import boot_service

        boot_service.remove(self.root, self.run)
        folders.delete(self.root)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        assessment = self._assessment
        if assessment is None:
            state = self._with_published(charm_state.load(self.root))
            assessment = self._assess(self._gather(state), state)
        status = unit_statuses(assessment, self.app.name, time.time())[0]
        event.add_status(ops.StatusBase.from_name(status.level.value, status.message))

    # Actions

    def _on_pause(self, event: ops.ActionEvent) -> None:
        state = charm_state.load(self.root)
        facts = self._gather(state)
        try:
            software.refuse_in_use(facts)
            # Saved first: this unit's mask must never be mistaken for the principal's.
            charm_state.save(self.root, state._replace(paused=True))
            software.pause(self.run, facts)
        except HostError as error:
            self._save(state)
            self._fail(event, error.problem)
            return
        self._report(state._replace(paused=True, published_digest=""))

    def _on_resume(self, event: ops.ActionEvent) -> None:
        state = charm_state.load(self.root)
        facts = self._gather(state)
        try:
            software.resume(self.run, facts, state)
        except HostError as error:
            self._fail(event, error.problem)
            return
        state = state._replace(paused=False, published_digest="")
        assessment = self._reconcile(state, self._gather(state))
        for problem in assessment.problems:
            if problem.kind is ProblemKind.SERVICE_DOWN:
                self._fail(event, problem)

    def _on_reboot_install(self, event: ops.ActionEvent) -> None:
        force = event.params.get("force") is True
        may_reboot = event.params.get("i-really-mean-it") is True
        if self._fail_if_refused(event, force):
            return
        state = charm_state.load(self.root)
        state = state._replace(undone=Backoff(), resource_inspection=())
        assessment = self._refresh(state, force=force)
        obstacle = software.reboot_obstacle(self.root, assessment.facts, assessment.problems)
        reboot = self._reboot_text(assessment, obstacle)
        message = unit_statuses(assessment, self.app.name, time.time())[0].message
        if reboot == messages.REBOOT_NEEDED and may_reboot:
            if self._schedule_reboot(event, force):
                output = message.partition("; run reboot-install")[0]
                event.set_results({"reboot": messages.REBOOT_SCHEDULED, "output": output})
            return
        if reboot == messages.REBOOT_LATER:
            message = why_no_reboot(assessment, obstacle, self.app.name, time.time())
        event.set_results({"reboot": reboot, "output": message})
        if reboot == messages.REBOOT_LATER or assessment.software_problem is not None:
            event.fail(message)

    def _reboot_text(self, assessment: Assessment, obstacle: Problem | None) -> str:
        """Return whether the host needs a reboot, and whether that would help now."""
        facts, problems = assessment.facts, assessment.problems
        if not software.needs_reboot(facts, problems):
            return messages.REBOOT_NOT_NEEDED
        is_broken = assessment.software_problem is not None
        helps = software.may_reboot(self.root, facts, problems, is_broken=is_broken)
        return messages.REBOOT_NEEDED if helps and obstacle is None else messages.REBOOT_LATER

    def _schedule_reboot(self, event: ops.ActionEvent, force: bool) -> bool:
        """Schedule a reboot; return whether that was possible, and fail the action if not."""
        if self._fail_if_refused(event, force):  # a guest may have started since
            return False
        try:
            if not force:
                software.refuse_running_guests(self.root)
            systemd.schedule_reboot(self.run)
        except HostError as error:
            self._fail(event, error.problem)
            return False
        return True

    def _fail_if_refused(self, event: ops.ActionEvent, force: bool) -> bool:
        """Fail an action if the host must not be changed now; return whether it was failed."""
        state = charm_state.load(self.root)
        problem = software.why_refused(self._gather(state), state, force=force)
        if problem is not None:
            self._fail(event, problem)
        return problem is not None

    def _on_list_vgpu_types(self, event: ops.ActionEvent) -> None:
        from actions import list_vgpu_types  # no hook needs the actions
        from actions.detailed_facts import gather_detailed

        devices = self._inputs(charm_state.load(self.root)).whole_devices
        facts = gather_detailed(self.root, self.run, devices)
        if event.params.get("format") == "json":
            result = list_vgpu_types.types_json(facts.cards)
        else:
            result = list_vgpu_types.types_text(facts.cards) or why_no_types_listed(facts)
        self._set_output(event, result)

    def _on_show_plan(self, event: ops.ActionEvent) -> None:
        from actions import dry_run, gpudirect, show_plan
        from actions.detailed_facts import gather_detailed

        state = self._with_published(charm_state.load(self.root))
        values = {
            option: event.params[name]
            for name, option in _VALUES_TO_TRY.items()
            if name in event.params
        }
        devices = self._inputs(state, values).whole_devices
        facts = gather_detailed(self.root, self.run, devices)

        def assess_facts(facts: HostFacts) -> Assessment:
            return self._assess(facts, state, values)

        assessment = assess_facts(facts)
        predicted = dry_run.predict(assessment, assess_facts)
        is_json = event.params.get("format") == "json"
        show = show_plan.plan_json if is_json else show_plan.plan_text
        published = self.nova_vgpu.published().sections
        advice = gpudirect.advice(self.root, self.run, facts.whole_cards)
        text = show(assessment, predicted, published, self.app.name, advice, is_trial=bool(values))
        self._set_output(event, text)

    def _on_show_requests(self, event: ops.ActionEvent) -> None:
        from actions import show_requests
        from actions.detailed_facts import gather_detailed

        state = self._with_published(charm_state.load(self.root))
        facts = gather_detailed(self.root, self.run, self._inputs(state).whole_devices)
        consumer = str(event.params.get("consumer", "all"))
        text = show_requests.requests_text(self._assess(facts, state), consumer)
        self._set_output(event, text)

    def _set_output(self, event: ops.ActionEvent, text: str) -> None:
        """Return an action's result; one that is too large and cannot be truncated fails."""
        from actions import output

        if output.fits_result(text):
            event.set_results({"output": text})
        else:
            event.fail(messages.TOO_LARGE)

    def _fail(self, event: ops.ActionEvent, problem: Problem) -> None:
        event.fail(format_problem(problem, self.app.name))

    # Steps of the events

    def _refresh(self, state: CharmState, *, force: bool = False) -> Assessment:
        """Reconcile from scratch, without cached answers and earlier failures."""
        facts = software.refresh_detection(self.root, self.run, self._inputs(state).whole_devices)
        return self._reconcile(state.without_cached_answers(), facts, force=force)

    def _reconcile(
        self, state: CharmState, facts: HostFacts, *, force: bool = False
    ) -> Assessment:
        """Ensure the host software and the cards, and report the result.

        Args:
            state: the charm's state, with the event's own change.
            facts: the host as it is.
            force: whether to change the host software even if vGPUs are in use.
        """
        if needs_software(self._inputs(state), facts):
            facts, state = self._ensure_software(facts, state, force)
        assessment = self._assess_host(facts, state)
        if assessment.may_change_cards:
            assessment = self._prepare_cards(assessment)
        return self._publish(assessment)

    def _report(self, state: CharmState) -> Assessment:
        """Report the state of the host without changing it."""
        return self._publish(self._assess_host(self._gather(state), state))

    def _ensure_software(
        self, facts: HostFacts, state: CharmState, force: bool
    ) -> tuple[HostFacts, CharmState]:
        if not state.resource_path:
            state = state._replace(resource_path=self._fetch_resource())
        state = resource.ensure_inspected(self.run, state)
        if facts.is_paused_by_mask or state.paused:
            return facts, state
        if not software.may_succeed(self.root, facts, state):
            return facts, state
        if software.will_install(facts, state, force=force):
            self.unit.status = ops.MaintenanceStatus(messages.INSTALLING)
        state, is_changed = software.ensure(self.root, self.run, facts, state, force=force)
        return (self._gather(state) if is_changed else facts), state

    def _fetch_resource(self) -> str:
        """Return the path of the resource's file; empty if none is attached."""
        try:
            return str(self.model.resources.fetch(RESOURCE))
        except (ops.ModelError, NameError) as error:
            logger.info("no resource %s: %s", RESOURCE, error)
            return ""

    def _assess_host(self, facts: HostFacts, state: CharmState) -> Assessment:
        """Assess the host after a requested restart, and report the driver's version to Juju."""
        version = facts.driver.loaded
        if version and version != state.workload_version:
            self.unit.set_workload_version(version)
            state = state._replace(workload_version=version)
        state = software.handle_restart_trigger(self.root, self.run, facts, state)
        return self._assess(facts, self._with_published(state))

    def _inputs(self, state: CharmState, values: Mapping[str, object] = _NO_VALUES) -> Inputs:
        """Return the options, some with other values."""
        # An event needs them several times.
        depends_on = (state.mapping.requested, state.requested_passthrough)
        key = (depends_on, state.reported_in_placement, tuple(values.items()))
        if key not in self._inputs_read:
            self._inputs_read[key] = Inputs.read({**self.config, **values}, state)
        return self._inputs_read[key]

    def _gather(self, state: CharmState) -> HostFacts:
        return gather(self.root, self._inputs(state).whole_devices)

    def _assess(
        self, facts: HostFacts, state: CharmState, values: Mapping[str, object] = _NO_VALUES
    ) -> Assessment:
        """Assess the host with the options, or with other values of some."""
        inputs = self._inputs(state, values)
        if state.is_related or self.nova_vgpu.is_related:
            return assess(self.root, facts, state._replace(is_related=True), inputs)
        assessment = assess(self.root, facts, state, inputs)
        not_related = Problem(ProblemKind.NOT_RELATED)
        return assessment._replace(problems=(*assessment.problems, not_related))

    def _prepare_cards(self, assessment: Assessment) -> Assessment:
        """Let the boot service do now what it will do at each boot."""
        from cards import boot_service, guest_mdevs  # hosts without a card do without

        problem = None
        try:
            charm_state.save(self.root, assessment.state)  # the boot service reads the mapping
            guest_mdevs.record_guest_mdevs(self.root, assessment.facts.cards)
            off = boot_service.why_off(self.root)
            if off is not None:
                return assessment._replace(problems=(off, *assessment.problems))
            if not assessment.may_prepare(time.time()):
                return assessment
            self._keep_nouveau_away(assessment)
            boot_service.ensure_installed(self.root, self.run, self.charm_dir)
            if boot_result.has_run(self.root) and not assessment.needs_preparation:
                return assessment.with_preparation()
            self.unit.status = ops.MaintenanceStatus(messages.PREPARING)
            self._approve_whole_cards(assessment)
            boot_service.run_now(self.root, self.run)
        except HostError as error:
            if not boot_result.failures(self.root):
                problem = error.problem
        prepared = self._assess(self._gather(assessment.state), assessment.state)
        if problem is None and not boot_result.failures(self.root):
            return prepared.with_preparation()
        delay = backoff.AT_ONCE if problem else backoff.AFTER_MINUTES  # it may have been killed
        risks_published = prepared.state.has_published
        if boot_result.is_permanent(self.root, risks_published=risks_published):
            delay = backoff.AFTER_AN_HOUR
        return prepared.with_failed_preparation(time.time(), problem, delay)

    def _keep_nouveau_away(self, assessment: Assessment) -> None:
        """Blacklist nouveau for whole cards, unless something is wrong with their option."""
        if not assessment.whole_cards.problems:
            software.keep_nouveau_away(self.root, self.run, assessment.facts)

    def _approve_whole_cards(self, assessment: Assessment) -> None:
        """Allow the boot service to bind the whole cards; most hosts have none."""
        if assessment.facts.whole_cards:
            from cards import whole_cards

            whole_cards.approve(self.root, assessment.facts, assessment.whole_cards)

    def _revoke_whole_cards(self, assessment: Assessment) -> None:
        """Keep the next boot from taking what the host uses again, also while paused."""
        if not bound_functions.load(self.root):
            return
        from cards import whole_cards

        try:
            whole_cards.revoke(self.root, assessment.whole_cards)
        except HostError as error:
            logger.error("%s", error)

    def _with_published(self, state: CharmState) -> CharmState:
        """Note whether vGPUs are published, if that is not known from the last event."""
        if state.published_digest:
            return state
        sections = self.nova_vgpu.published().sections
        return state._replace(has_published=Assessment.has_vgpus(sections))

    def _publish(self, assessment: Assessment) -> Assessment:
        """Publish to the principal what has changed, and save the state."""
        self._revoke_whole_cards(assessment)
        if assessment.must_be_recorded_first:
            assessment = self._saved(assessment)
        state = assessment.state
        if assessment.facts.nova is not None:  # otherwise its option names are not known yet
            if not state.is_related:
                state = state._replace(published_digest="")
            elif self._digest(assessment) != state.published_digest:
                published = self._published_sections(assessment)
                if assessment.would_keep_nothing(published):
                    assessment = self._saved(assessment.with_nothing_to_keep(published))
                assessment = self._with_publication(assessment)
                state = self._publish_changes(assessment, self._published_sections(assessment))
            else:
                state = self._with_publication(assessment).state
        self._assessment = self._saved(assessment._replace(state=state))
        return self._assessment

    def _with_publication(self, assessment: Assessment) -> Assessment:
        """Record the mapping that is published; what cannot be recorded is not published."""
        mapping = assessment.state.mapping
        if assessment.plan.problems or assessment.keeps_vgpus or not mapping.is_new:
            return assessment
        state = assessment.state._replace(mapping=mapping.publish())
        try:
            charm_state.save(self.root, state)
        except HostError as error:
            logger.error("%s", error)
            return assessment.with_unwritable_state(error.problem)
        return assessment._replace(state=state)

    def _published_sections(
        self, assessment: Assessment
    ) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the sections that are published, if any of them stays; reading them is slow."""
        is_kept = assessment.keeps_vgpus or assessment.keeps_whole_cards
        return self.nova_vgpu.published().sections if is_kept else {}

    def _digest(self, assessment: Assessment) -> str:
        """Return a digest of what is published, and of what stays as it is published."""
        keeps = (assessment.keeps_vgpus, assessment.keeps_whole_cards)
        return digest(f"{keeps}{self._provider_data(assessment).to_databag()}")

    def _publish_changes(
        self, assessment: Assessment, published: Mapping[str, Sequence[tuple[str, str]]]
    ) -> CharmState:
        """Publish what differs from what is published; return the state after that."""
        sections = assessment.sections_beside(published)
        data = dataclasses.replace(self._provider_data(assessment), sections=sections)
        is_kept = assessment.keeps_vgpus or assessment.keeps_whole_cards
        is_same = {name: list(pairs) for name, pairs in published.items()} == sections
        # Only data that was read back counts as published: if a hook is killed, Juju drops what
        # it wrote.
        is_changed = self.nova_vgpu.publish(data, keep_sections=is_kept and is_same)
        is_related = self.nova_vgpu.is_related
        is_published = is_related and not is_changed
        return assessment.state._replace(
            is_related=is_related,
            published_digest=self._digest(assessment) if is_published else "",
            has_published=assessment.has_vgpus(sections),
        )

    def _saved(self, assessment: Assessment) -> Assessment:
        """Save the state; if that is impossible, say so and publish nothing that needs it."""
        try:
            charm_state.save(self.root, assessment.state)
        except HostError as error:
            logger.error("%s", error)
            return assessment.with_unwritable_state(error.problem)
        return assessment

    def _provider_data(self, assessment: Assessment) -> ProviderData:
        facts, installed = assessment.facts, assessment.facts.driver.installed
        has_daemon = facts.has_vgpu_daemon and installed is not None
        return ProviderData(
            sections=assessment.sections,
            services=[DAEMON] if has_daemon and not assessment.state.paused else [],
            release=facts.nova.codename if facts.nova else None,
            packages=[installed.name] if installed else [],
        )

    def _save(self, state: CharmState) -> CharmState:
        """Save the state; if the disk is full, the next event repeats some work."""
        try:
            charm_state.save(self.root, state)
        except HostError as error:
            logger.error("%s", error)
        return state


if __name__ == "__main__":
    ops.main(NovaComputeNvidiaVgpuCharm)
    # Every object is freed when the process ends. Without this, Python first searches all of them
    # for reference cycles, which takes a seventh of a hook.
    gc.freeze()
