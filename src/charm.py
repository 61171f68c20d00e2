#!/usr/bin/env python3
# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm: Juju's events on one side, the host and its plan on the other.

Every event goes the same way: gather facts, plan, ensure, render, publish, status.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import ops

import boot
from cards import guest_mdevs
from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import NovaVgpuProvides, ProviderData
from driver import daemon, legacy_charm, software
from gpu.card import Card
from gpu.problems import REBOOT, HostError, Problem, ProblemKind
from host import facts as host
from host.facts import HostFacts
from nova_compute import nova_conf
from planning.plan import Plan, VariantDriverOptions
from planning.preparation import Preparation
from state import charm_state as memories
from state.charm_state import CharmState
from status import unit_status
from status.assessment import Assessment, assess
from system import commands

RESOURCE = "nvidia-vgpu-software"

logger = logging.getLogger(__name__)
# ops would log each status that is added, in a process of its own, on every host every 5 minutes.
logging.getLogger("ops.charm").setLevel(logging.INFO)


class NovaComputeNvidiaVgpuCharm(ops.CharmBase):
    """Offers the NVIDIA GPUs of a compute host to its guests."""

    root = Path("/")
    # The predecessor's; nothing of ours is kept there.
    _stored = ops.StoredState()  # type: ignore[no-untyped-call]  # ops does not type it

    @staticmethod
    def run(*argv: str, timeout: float = 60.0, check: bool = True) -> commands.Result:
        """Start a program on the host; see `commands.run`."""
        return commands.run(*argv, timeout=timeout, check=check)

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        self.nova_vgpu = NovaVgpuProvides(self)
        self._situation: Assessment | None = None
        relation = self.on["nova-vgpu"]
        for event, handler in (
            (self.on.install, self._on_install),
            (self.on.upgrade_charm, self._on_upgrade_charm),
            (self.on.start, self._on_start),
            (self.on.config_changed, self._on_config_or_update),
            (self.on.update_status, self._on_config_or_update),
            (relation.relation_created, self._on_relation_event),
            (relation.relation_joined, self._on_relation_event),
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
        ):
            framework.observe(event, handler)

    def _on_install(self, _: ops.InstallEvent) -> None:
        """Begin without the memory of a unit that was here before."""
        legacy_charm.take_over(self.root, self.run)
        memories.adopt_card_records(self.root)
        has_reported = memories.load(self.root).reported_in_placement
        self._reconcile(
            CharmState(reported_in_placement=has_reported), ensure=True, look_again=True
        )

    def _on_upgrade_charm(self, _: ops.UpgradeCharmEvent) -> None:
        """Take over, too, what the charm that was here before us left, and its pause."""
        legacy_charm.take_over(self.root, self.run)
        memory = memories.load(self.root)
        if memory == CharmState() and getattr(self._stored, "is_paused", False) is True:
            memory = memory._replace(paused=True)
        self._reconcile(memory, ensure=True, look_again=True)

    def _on_start(self, _: ops.StartEvent) -> None:
        """Look again, also after a boot, which restarted all daemons by itself."""
        memory = memories.load(self.root)._replace(restart_pending=False)
        self._reconcile(memory, ensure=True, look_again=True)

    def _on_config_or_update(self, _: ops.EventBase) -> None:
        self._reconcile(memories.load(self.root), ensure=True, trust_published=True)

    def _on_relation_event(self, _: ops.RelationEvent) -> None:
        self._reconcile(memories.load(self.root)._replace(is_related=True))

    def _on_relation_broken(self, _: ops.RelationBrokenEvent) -> None:
        self._save(memories.load(self.root)._replace(is_related=False, published_digest=""))

    def _on_relation_changed(self, event: ops.RelationChangedEvent) -> None:
        memory = memories.load(self.root)._replace(is_related=True)
        trigger = self.nova_vgpu.restart_trigger(event.relation)[:200]
        if trigger and trigger != memory.handled_restart_trigger:
            memory = memory._replace(handled_restart_trigger=trigger, restart_pending=True)
        self._reconcile(memory, trust_published=True)

    def _on_departing(self, _: ops.EventBase) -> None:
        """Take back what nova.conf would otherwise keep: the principal does not see us go."""
        sections = (
            {"pci": [nova_conf.REPORT_IN_PLACEMENT]}
            if memories.load(self.root).reported_in_placement
            else {}
        )
        self.nova_vgpu.publish(ProviderData(sections=sections))
        memory = self._save(memories.load(self.root)._replace(published_digest=""))
        self._situation = Assessment(host.gather(self.root), Plan(), (), memory)

    def _on_remove(self, _: ops.RemoveEvent) -> None:
        """Leave the driver, which guests may need; take along what is ours."""
        boot.remove_unit(self.root, self.run)
        memories.delete(self.root)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        situation = self._situation or self._assess(
            host.gather(self.root), memories.load(self.root)
        )
        gravest = unit_status.unit_statuses(situation, self.app.name)[0]
        event.add_status(ops.StatusBase.from_name(gravest.level.value, gravest.message))

    def _on_pause(self, event: ops.ActionEvent) -> None:
        memory, facts = memories.load(self.root), host.gather(self.root)
        try:
            if facts.in_use:
                raise HostError(Problem(ProblemKind.VGPUS_IN_USE, facts.in_use[0]))
            # Remembered first: a mask of ours must never look like the principal's.
            memories.save(self.root, memory._replace(paused=True))
            if facts.has_vgpu_daemon:
                daemon.pause(self.run)
        except HostError as error:
            self._save(memory)
            event.fail(unit_status.format_problem(error.problem, self.app.name)[1])
            return
        self._reconcile(memory._replace(paused=True))

    def _on_resume(self, event: ops.ActionEvent) -> None:
        memory, facts = memories.load(self.root), host.gather(self.root)
        try:
            is_ours = memory.paused or facts.is_principal_paused is False
            if facts.is_principal_paused or (facts.is_paused_by_mask and not is_ours):
                raise HostError(Problem(ProblemKind.PAUSED_BY_PRINCIPAL))
            if facts.has_vgpu_daemon:
                daemon.resume(self.run)
        except HostError as error:
            event.fail(unit_status.format_problem(error.problem, self.app.name)[1])
            return
        situation = self._reconcile(memory._replace(paused=False), ensure=True)
        for problem in situation.problems:
            if problem.kind is ProblemKind.SERVICE_DOWN:
                event.fail(unit_status.format_problem(problem, self.app.name)[1])

    def _on_reboot_install(self, event: ops.ActionEvent) -> None:
        memory = memories.load(self.root)
        force = event.params.get("force") is True
        if self._is_refused(event, memory, force):
            return
        situation = self._reconcile(memory, ensure=True, look_again=True, force=force)
        is_due = any(problem.kind in REBOOT for problem in situation.problems)
        wording = unit_status.REBOOT_NEEDED if is_due else unit_status.REBOOT_NOT_NEEDED
        is_asked = event.params.get("i-really-mean-it") is True
        if is_due and is_asked and not software.is_broken(situation.problems):
            if self._is_refused(event, situation.state, force):  # a guest may have come meanwhile
                return
            try:
                daemon.schedule_reboot(self.run)
            except HostError as error:
                event.fail(unit_status.format_problem(error.problem, self.app.name)[1])
                return
            wording = unit_status.REBOOT_SCHEDULED
        message = unit_status.unit_statuses(situation, self.app.name)[0].message
        event.set_results({"reboot": wording, "output": message})
        if software.is_broken(situation.problems):
            event.fail(message)

    def _is_refused(self, event: ops.ActionEvent, memory: CharmState, force: bool) -> bool:
        """Fail an action if the host must not be touched now."""
        refusal = software.why_refused(host.gather(self.root), memory, force=force)
        if refusal is not None:
            event.fail(unit_status.format_problem(refusal, self.app.name)[1])
        return refusal is not None

    def _on_list_vgpu_types(self, event: ops.ActionEvent) -> None:
        from actions import list_vgpu_types  # not needed by any hook
        from actions.detailed_facts import gather_detailed

        facts = gather_detailed(self.root, self.run)
        if event.params.get("format") == "json":
            answer = list_vgpu_types.types_json(facts.cards)
        else:
            answer = list_vgpu_types.types_text(facts.cards) or unit_status.why_no_types_listed(
                facts
            )
        _answer(event, answer)

    def _on_show_plan(self, event: ops.ActionEvent) -> None:
        from actions import show_plan  # not needed by any hook
        from actions.detailed_facts import gather_detailed
        from actions.dry_run import cards_after

        facts, memory = gather_detailed(self.root, self.run), memories.load(self.root)
        wish = event.params.get("mappings")
        situation = outlook = self._assess(facts, memory, wish)
        if situation.needs_preparation:

            def planned(cards: tuple[Card, ...]) -> Preparation:
                return self._assess(facts._replace(cards=cards), memory, wish).plan.preparation

            later = facts._replace(cards=cards_after(facts.cards, planned))
            outlook = self._assess(later, memory, wish)
        show = show_plan.plan_json if event.params.get("format") == "json" else show_plan.plan_text
        published = self.nova_vgpu.published().sections
        _answer(event, show(situation, outlook, published, self.app.name))

    def _reconcile(
        self,
        memory: CharmState,
        *,
        ensure: bool = False,
        look_again: bool = False,
        trust_published: bool = False,
        force: bool = False,
    ) -> Assessment:
        """Make what the option asks for true on this host and known to the principal.

        Args:
            memory: what is remembered, with the event's own change to it.
            ensure: whether to install and repair the host software, and to prepare the cards.
            look_again: whether to ask lspci and Juju's store again, not only sysfs and memory.
            trust_published: whether the relation need not be read if nothing changed.
            force: whether vGPUs in use do not hold the host software back.
        """
        if look_again:
            software.refresh_detection(self.root, self.run)
        facts = host.gather(self.root, self.run if look_again else None)
        if look_again:
            software.ensure_mdevctl(self.root, self.run, facts)
        if ensure and self._needs_software(facts):
            facts, memory = self._ensure_software(facts, memory, look_again, force)
        if facts.driver.loaded and facts.driver.loaded != memory.workload_version:
            self.unit.set_workload_version(facts.driver.loaded)
            memory = memory._replace(workload_version=facts.driver.loaded)
        memory = software.handle_restart_trigger(self.root, self.run, facts, memory)
        situation = self._assess(facts, memory)
        is_driven = facts.driver.installed is not None or facts.driver.loaded is not None
        if ensure and facts.cards and is_driven and not situation.is_paused:
            situation = self._ensure_devices(situation, look_again)
        self._situation = situation = self._publish(situation, trust_published)
        self._save(situation.state)
        return situation

    def _save(self, memory: CharmState) -> CharmState:
        """Keep the memory; a disk that takes nothing costs the next event some work."""
        try:
            memories.save(self.root, memory)
        except HostError as error:
            logger.error("%s", error)
        return memory

    def _ensure_software(
        self, facts: HostFacts, memory: CharmState, look_again: bool, force: bool
    ) -> tuple[HostFacts, CharmState]:
        if look_again or not memory.resource_path:
            memory = memory._replace(resource_path=self._fetch())
        memory, resource = software.inspect_resource(self.run, memory)
        if facts.is_paused_by_mask or memory.paused:
            return facts, memory
        if software.will_install(facts, resource, force=force):
            self.unit.status = ops.MaintenanceStatus(unit_status.INSTALLING)
        memory, changed = software.ensure(
            self.root, self.run, facts, resource, memory, force=force
        )
        return (host.gather(self.root) if changed else facts), memory

    def _ensure_devices(self, situation: Assessment, look_again: bool) -> Assessment:
        """Let the boot service do now what it will do at each boot."""
        try:
            memories.save(self.root, situation.state)  # it goes by the wish that stands there
            boot.ensure_unit(self.root, self.run, self.charm_dir)
            guest_mdevs.record_guest_mdevs(self.root, situation.facts.cards)
            if boot.has_run(self.root):
                was_vain = (
                    situation.failed_recently(time.time())
                    and not situation.facts.has_vgpus_to_restore
                )
                if not situation.needs_preparation or (was_vain and not look_again):
                    return situation
            self.unit.status = ops.MaintenanceStatus(unit_status.ENABLING)
            boot.start(self.root, self.run)
        except HostError as error:
            if not boot.failures(self.root):
                problems = (error.problem, *situation.problems)
                return situation._replace(problems=problems)
        found = self._assess(host.gather(self.root), situation.state)
        is_vain = boot.is_permanent(self.root, risks_published=bool(found.state.applied_mapping))
        return found.with_failed_attempt(time.time()) if is_vain else found

    def _assess(self, facts: HostFacts, memory: CharmState, wish: object = None) -> Assessment:
        text = self.config.get("vgpu-device-mappings", "") if wish is None else wish
        needs_software = self._needs_software(facts)
        found = assess(
            self.root,
            facts,
            memory,
            str(text),
            needs_software=needs_software,
            options=VariantDriverOptions(
                report_in_placement=memory.reported_in_placement
                or self.config.get("report-in-placement") is True,
                live_migratable=self.config.get("live-migratable") is True,
            ),
        )
        if memory.is_related or self.nova_vgpu.is_related:
            return found._replace(state=found.state._replace(is_related=True))
        return found._replace(problems=(*found.problems, Problem(ProblemKind.NOT_RELATED)))

    def _publish(self, situation: Assessment, trust_published: bool) -> Assessment:
        """Tell the principal what differs from what it was told last."""
        facts, memory = situation.facts, situation.state
        if facts.nova is None:  # which words it will understand is not known yet
            return situation
        installed = facts.driver.installed
        is_served = facts.has_vgpu_daemon and installed is not None and not memory.paused
        data = ProviderData(
            sections=situation.sections,
            services=[daemon.DAEMON] if is_served else [],
            release=facts.nova.codename,
            packages=[installed.name] if installed else [],
        )
        held = situation.plan.keeps_published
        digest = hashlib.sha256(f"{held}{data.to_databag()}".encode()).hexdigest()
        if trust_published and digest == memory.published_digest:
            return situation
        if not memory.is_related:
            return situation._replace(state=memory._replace(published_digest=""))
        # Only data that was read back counts as published: Juju drops what a hook wrote if it
        # is killed.
        was_there = not self.nova_vgpu.publish(data, keep_sections=held)
        return situation._replace(
            state=memory._replace(published_digest=digest if was_there else "")
        )

    def _needs_software(self, facts: HostFacts) -> bool:
        return bool(facts.cards) or self.config.get("force-install-nvidia-vgpu") is True

    def _fetch(self) -> str:
        """Return the path of the resource's file; empty if none is attached."""
        try:
            return str(self.model.resources.fetch(RESOURCE))
        except (ops.ModelError, NameError) as error:
            logger.info("no resource %s: %s", RESOURCE, error)
            return ""


def _answer(event: ops.ActionEvent, text: str) -> None:
    """Give an action's answer; one that is too large and has no end to leave out is refused."""
    from actions import output

    if output.fits_result(text):
        event.set_results({"output": text})
    else:
        event.fail(unit_status.TOO_LARGE)


if __name__ == "__main__":
    ops.main(NovaComputeNvidiaVgpuCharm)
