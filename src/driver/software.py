# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The host software as a step of every event: look at the resource, mend the driver, judge."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from driver import daemon, host_package, installation
from driver.host_package import HostPackage
from gpu.card import Framework
from gpu.problems import HostError, Problem, ProblemKind
from host import facts as host
from host.facts import HostFacts
from state import driver_cache
from state.charm_state import CharmState
from system import apt
from system.commands import Runner

__all__ = [
    "Resource",
    "ensure",
    "ensure_mdevctl",
    "find_problems",
    "handle_restart_trigger",
    "inspect_resource",
    "inspected_resource",
    "is_broken",
    "refresh_detection",
    "why_refused",
    "will_install",
]

logger = logging.getLogger(__name__)


class Resource(NamedTuple):
    """The resource nvidia-vgpu-software: a package, or the problem with it."""

    package: HostPackage | None = None
    problem: Problem | None = None


def refresh_detection(root: Path, run: Runner) -> None:
    """Forget what the driver answered, and install lspci where it is missing.

    sysfs serves without lspci.
    """
    try:
        driver_cache.clear_queries(root)
    except HostError as error:
        logger.warning("%s", error)
    if (root / "usr/bin/lspci").exists() or (root / "usr/sbin/lspci").exists():
        return
    try:
        apt.ensure_available_installed(root, run, "pciutils")
    except HostError as error:
        logger.warning("lspci cannot be installed: %s", error)


def inspect_resource(run: Runner, memory: CharmState) -> tuple[CharmState, Resource]:
    """Look into the resource's file, or repeat what was seen when it is still the same file."""
    path = Path(memory.resource_path)
    stamp = host_package.stamp(path) if memory.resource_path else ""
    is_known = memory.resource_inspection[:1] == ("package",) or _problem(
        memory.resource_inspection
    )
    if memory.resource_path and (not is_known or not stamp or stamp != memory.resource_stamp):
        memory = memory._replace(resource_stamp=stamp, resource_inspection=_look(path, run))
    return memory, inspected_resource(memory)


def _look(path: Path, run: Runner) -> tuple[str, ...]:
    try:
        found = host_package.inspect(path, run)
    except HostError as error:
        return _words(error.problem)
    return ("package", found.name, found.version, found.depends)


def ensure_mdevctl(root: Path, run: Runner, facts: HostFacts) -> None:
    """Install mdevctl where libvirt keeps mediated devices through it (7.3 and later).

    Without it Nova 30 and later cannot make a device.
    """
    needs_it = any(card.framework is Framework.MDEV for card in facts.cards)
    if not needs_it or not facts.libvirt_uses_mdevctl or (root / "usr/sbin/mdevctl").exists():
        return
    try:
        apt.ensure_available_installed(root, run, "mdevctl")
    except HostError as error:
        logger.warning("mdevctl cannot be installed: %s", error)


def inspected_resource(memory: CharmState) -> Resource:
    """Return what the last look into the resource's file gave."""
    if memory.resource_path and memory.resource_inspection[:1] == ("package",):
        name, version, depends, *_ = (*memory.resource_inspection[1:], "", "", "")
        return Resource(HostPackage(memory.resource_path, name, version, depends))
    missing = Problem(ProblemKind.RESOURCE_MISSING)
    problem = _problem(memory.resource_inspection) if memory.resource_path else missing
    return Resource(problem=problem or missing)


def will_install(facts: HostFacts, resource: Resource, *, force: bool) -> bool:
    """Whether `ensure` would install, which takes minutes."""
    wanted = resource.package
    return wanted is not None and not facts.driver.has(wanted) and (force or not facts.in_use)


def ensure(
    root: Path,
    run: Runner,
    facts: HostFacts,
    resource: Resource,
    memory: CharmState,
    *,
    force: bool,
) -> tuple[CharmState, bool]:
    """Make the host software true; return the memory of its failure and whether it did anything.

    A host that has no card only gets the package; there is nothing to load it for.
    """
    state = facts.driver
    changed = False
    try:
        # Asked again at each step: installing takes minutes, in which a guest may start.
        def in_use() -> tuple[str, ...]:
            return () if force else host.gather(root).in_use

        if installation.ensure_installed(root, run, state, resource.package, in_use):
            changed = True
            driver_cache.clear_modes(root)
            state = installation.query(root, [card.gpu for card in facts.cards])
        if facts.cards and installation.ensure_loaded(root, run, state):
            changed = True
        if not changed and _needs_daemon(facts) and not daemon.is_active(root, run):
            daemon.start(root, run)
    except HostError as error:
        logger.error("%s: %s", error, error.__cause__ or "see above")
        return memory._replace(install_failure=_words(error.problem)), True
    return memory._replace(install_failure=()), changed


def handle_restart_trigger(
    root: Path, run: Runner, facts: HostFacts, memory: CharmState
) -> CharmState:
    """Restart NVIDIA's daemon if the principal asked for it and no vGPU is in use."""
    if not memory.restart_pending:
        return memory
    if not memory.paused and not facts.is_paused_by_mask and _needs_daemon(facts):
        if host.gather(root).in_use:  # minutes may have gone by since the facts
            return memory
        try:
            daemon.restart(run)
        except HostError as error:
            memory = memory._replace(install_failure=_words(error.problem))
    return memory._replace(restart_pending=False)


def find_problems(facts: HostFacts, memory: CharmState) -> Iterator[Problem]:
    """Say what is wrong with the host software of a host that needs it."""
    state = facts.driver
    resource = inspected_resource(memory)
    is_there = state.installed is not None or (state.loaded is not None and not state.packages)
    if resource.problem and (
        resource.problem.kind is not ProblemKind.RESOURCE_MISSING or not is_there
    ):
        yield resource.problem
    failure = _problem(memory.install_failure)
    if failure is not None:
        yield failure
    elif state.installed is None and resource.problem is None:
        yield Problem(ProblemKind.NOT_INSTALLED)
    reason = state.reboot_reason()
    if reason is not None:
        yield reason


def why_refused(facts: HostFacts, memory: CharmState, *, force: bool) -> Problem | None:
    """Say why the host software must not be touched now; None if it may be."""
    if memory.paused or facts.is_paused_by_mask:
        is_principals = facts.is_principal_paused or not memory.paused
        return Problem(ProblemKind.PAUSED_BY_PRINCIPAL if is_principals else ProblemKind.PAUSED)
    if facts.in_use and not force:
        return Problem(ProblemKind.VGPUS_IN_USE_OR_FORCE, facts.in_use[0])
    return None


def is_broken(problems: Iterable[Problem]) -> bool:
    """Whether the host software is not as it should be, for a reason that no reboot mends."""
    kinds = {
        ProblemKind.RESOURCE_MISSING,
        ProblemKind.RESOURCE_INVALID,
        ProblemKind.INSTALL_FAILED,
        ProblemKind.DPKG_LOCKED,
        ProblemKind.NOT_INSTALLED,
        ProblemKind.NOT_LOADED,
        ProblemKind.SERVICE_DOWN,
    }
    return any(problem.kind in kinds for problem in problems)


def _needs_daemon(facts: HostFacts) -> bool:
    """Whether NVIDIA's daemon can and should run here."""
    state = facts.driver
    is_ready = state.loaded is not None and state.reboot_reason() is None
    return bool(facts.cards) and facts.has_vgpu_daemon and is_ready


def _words(problem: Problem) -> tuple[str, ...]:
    return (problem.kind.value, problem.subject, problem.detail, problem.more)


def _problem(words: tuple[str, ...]) -> Problem | None:
    """Undo `_words`; None for no problem, or for one that only another revision knows."""
    try:
        return Problem(ProblemKind(words[0]), *words[1:])
    except (IndexError, ValueError, TypeError):
        return None
