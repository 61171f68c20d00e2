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
from gpu.problems import HostError, Kind, Problem
from host import facts as host
from host.facts import Facts
from state import driver_cache
from state.charm_state import Memory
from system import apt
from system.commands import Runner

__all__ = [
    "Resource",
    "answer_restart",
    "ensure",
    "ensure_mdevctl",
    "examine",
    "is_long",
    "is_wanting",
    "judge",
    "look_again",
    "refusal",
    "remembered",
]

logger = logging.getLogger(__name__)


class Resource(NamedTuple):
    """The resource nvidia-vgpu-software: a package, or the problem with it."""

    package: HostPackage | None = None
    problem: Problem | None = None


def look_again(root: Path, run: Runner) -> None:
    """Forget what the driver answered, and install lspci where it is missing.

    sysfs serves without lspci.
    """
    try:
        driver_cache.forget_answers(root)
    except HostError as error:
        logger.warning("%s", error)
    if (root / "usr/bin/lspci").exists() or (root / "usr/sbin/lspci").exists():
        return
    try:
        apt.ensure_known(root, run, "pciutils")
    except HostError as error:
        logger.warning("lspci cannot be installed: %s", error)


def examine(run: Runner, memory: Memory) -> tuple[Memory, Resource]:
    """Look into the resource's file, or repeat what was seen when it is still the same file."""
    path = Path(memory.resource)
    stamp = host_package.stamp(path) if memory.resource else ""
    is_known = memory.resource_package[:1] == ("package",) or _problem(memory.resource_package)
    if memory.resource and (not is_known or not stamp or stamp != memory.resource_stamp):
        memory = memory._replace(resource_stamp=stamp, resource_package=_look(path, run))
    return memory, remembered(memory)


def _look(path: Path, run: Runner) -> tuple[str, ...]:
    try:
        found = host_package.inspect(path, run)
    except HostError as error:
        return _words(error.problem)
    return ("package", found.name, found.version, found.depends)


def ensure_mdevctl(root: Path, run: Runner, facts: Facts) -> None:
    """Install mdevctl where libvirt keeps mediated devices through it (7.3 and later).

    Without it Nova 30 and later cannot make a device.
    """
    needs_it = any(card.framework is Framework.MDEV for card in facts.cards)
    if not needs_it or not facts.has_mdevctl_libvirt or (root / "usr/sbin/mdevctl").exists():
        return
    try:
        apt.ensure_known(root, run, "mdevctl")
    except HostError as error:
        logger.warning("mdevctl cannot be installed: %s", error)


def remembered(memory: Memory) -> Resource:
    """Return what the last look into the resource's file gave."""
    if memory.resource and memory.resource_package[:1] == ("package",):
        name, version, depends, *_ = (*memory.resource_package[1:], "", "", "")
        return Resource(HostPackage(memory.resource, name, version, depends))
    missing = Problem(Kind.RESOURCE_MISSING)
    problem = _problem(memory.resource_package) if memory.resource else missing
    return Resource(problem=problem or missing)


def is_long(facts: Facts, resource: Resource, *, force: bool) -> bool:
    """Whether `ensure` would install, which takes minutes."""
    wanted = resource.package
    return wanted is not None and not facts.driver.has(wanted) and (force or not facts.in_use)


def ensure(
    root: Path, run: Runner, facts: Facts, resource: Resource, memory: Memory, *, force: bool
) -> tuple[Memory, bool]:
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
            driver_cache.forget_modes(root)
            state = installation.query(root, [card.gpu for card in facts.cards])
        if facts.cards and installation.ensure_loaded(root, run, state):
            changed = True
        if not changed and _needs_daemon(facts) and not daemon.is_active(root, run):
            daemon.start(root, run)
    except HostError as error:
        logger.error("%s: %s", error, error.__cause__ or "see above")
        return memory._replace(failure=_words(error.problem)), True
    return memory._replace(failure=()), changed


def answer_restart(root: Path, run: Runner, facts: Facts, memory: Memory) -> Memory:
    """Restart NVIDIA's daemon if the principal asked for it and no vGPU is in use."""
    if not memory.restart_waits:
        return memory
    if not memory.paused and not facts.is_masked and _needs_daemon(facts):
        if host.gather(root).in_use:  # minutes may have gone by since the facts
            return memory
        try:
            daemon.restart(run)
        except HostError as error:
            memory = memory._replace(failure=_words(error.problem))
    return memory._replace(restart_waits=False)


def judge(facts: Facts, memory: Memory) -> Iterator[Problem]:
    """Say what is wrong with the host software of a host that needs it."""
    state = facts.driver
    resource = remembered(memory)
    is_there = state.installed is not None or (state.loaded is not None and not state.packages)
    if resource.problem and (resource.problem.kind is not Kind.RESOURCE_MISSING or not is_there):
        yield resource.problem
    failure = _problem(memory.failure)
    if failure is not None:
        yield failure
    elif state.installed is None and resource.problem is None:
        yield Problem(Kind.NOT_INSTALLED)
    reason = state.reboot_reason()
    if reason is not None:
        yield reason


def refusal(facts: Facts, memory: Memory, *, force: bool) -> Problem | None:
    """Say why the host software must not be touched now; None if it may be."""
    if memory.paused or facts.is_masked:
        is_principals = facts.is_principal_paused or not memory.paused
        return Problem(Kind.PRINCIPAL_PAUSE if is_principals else Kind.OUR_PAUSE)
    if facts.in_use and not force:
        return Problem(Kind.GUESTS_OR_FORCE, facts.in_use[0])
    return None


def is_wanting(problems: Iterable[Problem]) -> bool:
    """Whether the host software is not as it should be, for a reason that no reboot mends."""
    kinds = {
        Kind.RESOURCE_MISSING,
        Kind.RESOURCE_INVALID,
        Kind.INSTALL_FAILED,
        Kind.LOCKED,
        Kind.NOT_INSTALLED,
        Kind.NOT_LOADED,
        Kind.SERVICE_DOWN,
    }
    return any(problem.kind in kinds for problem in problems)


def _needs_daemon(facts: Facts) -> bool:
    """Whether NVIDIA's daemon can and should run here."""
    state = facts.driver
    is_ready = state.loaded is not None and state.reboot_reason() is None
    return bool(facts.cards) and facts.is_shipped and is_ready


def _words(problem: Problem) -> tuple[str, ...]:
    return (problem.kind.value, problem.subject, problem.detail, problem.more)


def _problem(words: tuple[str, ...]) -> Problem | None:
    """Undo `_words`; None for no problem, or for one that only another revision knows."""
    try:
        return Problem(Kind(words[0]), *words[1:])
    except (IndexError, ValueError, TypeError):
        return None
