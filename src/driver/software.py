# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The host software as a step of each event: inspect the resource, install, load, report."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Iterable, Iterator

from driver import kept_package, nouveau
from driver.resource import Resource, inspected
from gpu.card import Framework
from gpu.pci import NO_WHOLE_DEVICES, WholeDevices
from gpu.problems import NEEDS_REBOOT, HostError, Problem, ProblemKind
from host import driver_state, libvirt_guests
from host.driver_state import DAEMON
from host.facts import HostFacts, gather
from state import driver_cache
from state.backoff import Backoff
from state.charm_state import CharmState
from system import dpkg, systemd
from system.commands import Runner
from system.text import digest

__all__ = [
    "ensure",
    "find_problems",
    "handle_restart_trigger",
    "keep_nouveau_away",
    "may_reboot",
    "may_succeed",
    "needs_reboot",
    "pause",
    "reboot_obstacle",
    "refresh_detection",
    "refuse_in_use",
    "refuse_running_guests",
    "resume",
    "why_refused",
    "will_install",
]

logger = logging.getLogger(__name__)


def refresh_detection(
    root: Path, run: Runner, passthrough: WholeDevices = NO_WHOLE_DEVICES
) -> HostFacts:
    """Read the host again, without what the driver answered earlier, and compare it with lspci.

    lspci is installed only on a host that has a card for vGPUs.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        passthrough: the devices that guests are to get as a whole.
    """
    from host import lspci  # only a refresh compares it

    try:
        driver_cache.clear_queries(root)
    except HostError as error:
        logger.warning("%s", error)
    facts = gather(root, passthrough)
    packages = list(_missing_tools(root, facts, has_lspci=lspci.is_installed(root)))
    if facts.in_use:  # nothing is installed while a vGPU exists
        packages = []
    for package in packages:
        _install_tool(root, run, package)
    if packages:  # that may have taken minutes
        facts = gather(root, passthrough)
    if lspci.is_installed(root):
        lspci.compare(root, run, facts.gpus)
    return facts


def _missing_tools(root: Path, facts: HostFacts, *, has_lspci: bool) -> Iterator[str]:
    """Return the packages of the archive that a host with these cards lacks."""
    if facts.own_cards and not has_lspci:
        yield "pciutils"
    has_mdevs = any(card.framework is Framework.MDEV for card in facts.cards)
    # Nova 30 and later cannot create a device without it.
    if has_mdevs and facts.libvirt_uses_mdevctl and not (root / "usr/sbin/mdevctl").exists():
        yield "mdevctl"


def _install_tool(root: Path, run: Runner, package: str) -> None:
    from system import apt  # most hooks install nothing

    try:
        apt.ensure_available_installed(root, run, package)
    except HostError as error:
        logger.warning("%s cannot be installed: %s", package, error)


def _attached(facts: HostFacts, state: CharmState) -> Resource:
    """Return the resource; without its package if that failed to install on this kernel.

    Another attempt would remove the working driver again.
    """
    resource = inspected(state)
    return resource._replace(package=None) if _is_undone(facts, state) else resource


def will_install(facts: HostFacts, state: CharmState, *, force: bool) -> bool:
    """Whether `ensure` would install a package, which takes minutes."""
    wanted = _attached(facts, state).package
    is_installed = wanted is not None and facts.driver.has(wanted.name, wanted.version)
    return wanted is not None and not is_installed and (force or not facts.in_use)


def may_succeed(root: Path, facts: HostFacts, state: CharmState) -> bool:
    """Whether the host software has not just failed under the same conditions."""
    return state.installation.may_retry(_conditions(root, facts, state), time.time())


def ensure(
    root: Path, run: Runner, facts: HostFacts, state: CharmState, *, force: bool
) -> tuple[CharmState, bool]:
    """Install, repair, load and start the host software.

    On a host without a card the package is only installed: there is nothing to load it for. The
    caller checks `may_succeed` first.

    Args:
        root: the root of the host's file system.
        run: starts programs on the host.
        facts: the host as it is.
        state: the charm's state, with the resource inspected.
        force: whether to go on although vGPUs are in use.

    Returns:
        The state with the failure, if any, and whether anything was done.
    """
    try:
        is_changed = _ensure(root, run, facts, _attached(facts, state), force)
    except HostError as error:
        if error.problem != state.installation.failure:
            is_waiting = error.problem.kind is ProblemKind.UPGRADE_PENDING
            level = logging.INFO if is_waiting else logging.ERROR
            logger.log(level, "%s: %s", error, error.__cause__ or "see above")
        return _with_failure(root, facts, state, error.problem), True
    return state._replace(installation=Backoff()), is_changed


def _with_failure(root: Path, facts: HostFacts, state: CharmState, problem: Problem) -> CharmState:
    """Return the state after a failure, which may itself have changed the host."""
    facts = gather(root, facts.passthrough)
    if problem.kind is ProblemKind.INSTALL_UNDONE:
        undone = Backoff().fail(_undo_conditions(facts, state), time.time(), problem)
        return state._replace(undone=undone, installation=Backoff())
    conditions = _conditions(root, facts, state)
    return state._replace(installation=state.installation.fail(conditions, time.time(), problem))


def _is_undone(facts: HostFacts, state: CharmState) -> bool:
    """Whether the upgrade to the attached package was undone, and it is still not installed."""
    wanted = inspected(state).package
    is_installed = wanted is not None and facts.driver.has(wanted.name, wanted.version)
    return state.undone.conditions == _undo_conditions(facts, state) and not is_installed


def _undo_conditions(facts: HostFacts, state: CharmState) -> str:
    """Return a digest of what decides whether an upgrade that was undone can succeed."""
    return digest(repr((facts.driver.kernel, state.resource_stamp)))


def _conditions(root: Path, facts: HostFacts, state: CharmState) -> str:
    """Return a digest of what decides whether the host software can be ensured."""
    cards = [(card.address, card.gpu.driver) for card in facts.cards]
    is_running = systemd.has_processes(root, DAEMON)
    resource_file = (state.resource_stamp, state.resource_inspection)
    return digest(repr((facts.driver, bool(facts.in_use), is_running, cards, resource_file)))


def _ensure(root: Path, run: Runner, facts: HostFacts, resource: Resource, force: bool) -> bool:
    if _is_installed_and_loaded(root, facts, resource):
        _keep_package(root, facts, resource)
        return _ensure_daemon(root, run, facts)
    from driver import installation  # most hooks install nothing, and it is slow to import

    # Read again at each step: installing takes minutes, in which a guest may start.
    def in_use() -> tuple[str, ...]:
        return () if force else gather(root).in_use

    driver = facts.driver
    is_changed = installation.ensure_installed(root, run, driver, resource.package, in_use)
    if is_changed:
        driver_cache.clear_modes(root)
        driver = driver_state.query(root, [card.gpu for card in facts.cards])
    if facts.own_cards and installation.ensure_loaded(root, run, driver):
        is_changed = True
    return is_changed or _ensure_daemon(root, run, facts)


def _keep_package(root: Path, facts: HostFacts, resource: Resource) -> None:
    """Keep the file of the installed package, which works, for the case of a failed upgrade."""
    package = resource.package
    if package is not None and facts.driver.has(package.name, package.version):
        kept_package.ensure_kept(root, package)


def _is_installed_and_loaded(root: Path, facts: HostFacts, resource: Resource) -> bool:
    """Whether nothing is to be installed, repaired or loaded."""
    driver, wanted = facts.driver, resource.package
    if driver.is_incomplete or (wanted and not driver.has(wanted.name, wanted.version)):
        return False
    is_loaded = driver.loaded is not None and not driver.nouveau
    return not facts.own_cards or (is_loaded and not nouveau.is_half_blocked(root))


def _ensure_daemon(root: Path, run: Runner, facts: HostFacts) -> bool:
    """Start NVIDIA's daemon if it is needed and not running; False: nothing else was done."""
    if _needs_daemon(facts) and not systemd.has_processes(root, DAEMON):
        from driver import daemon

        if not daemon.is_active(root, run):
            daemon.start(root, run, registers_types=not facts.in_use)
    return False


def handle_restart_trigger(
    root: Path, run: Runner, facts: HostFacts, state: CharmState
) -> CharmState:
    """Restart NVIDIA's daemon if the principal asked for it and no vGPU is in use."""
    if not state.restart_pending:
        return state
    if not state.paused and not facts.is_paused_by_mask and _needs_daemon(facts):
        if gather(root).in_use:  # minutes may have passed since the facts were read
            return state
        from driver import daemon

        try:
            daemon.restart(run)
        except HostError as error:
            state = _with_failure(root, facts, state, error.problem)
    return state._replace(restart_pending=False)


def keep_nouveau_away(root: Path, run: Runner, facts: HostFacts) -> None:
    """Blacklist nouveau if it is bound to a card that guests are to get as a whole.

    Not if the host needs the card itself, as its boot display.

    Raises:
        HostError: INSTALL_FAILED if the initramfs cannot be written; DISK_WRITE_FAILED.
    """
    kinds = (ProblemKind.NOUVEAU, ProblemKind.IOMMU_OFF)
    cards = (item for item in facts.whole_cards if item.function.driver == "nouveau")
    if any(item.obstacle is not None and item.obstacle.kind in kinds for item in cards):
        nouveau.ensure_blocked(root, run)


def find_problems(facts: HostFacts, state: CharmState) -> Iterator[Problem]:
    """Return what is wrong with the host software of a host that needs it."""
    driver, resource = facts.driver, inspected(state)
    failure = state.installation.failure
    if _is_undone(facts, state):
        failure = failure or state.undone.failure
    is_from_elsewhere = driver.loaded is not None and not driver.packages
    is_present = driver.installed is not None or (is_from_elsewhere and facts.has_vgpu_daemon)
    if is_from_elsewhere and not is_present and failure is None:
        yield Problem(ProblemKind.NOT_VGPU_DRIVER, version=str(driver.loaded))
    elif resource.problem and (
        resource.problem.kind is not ProblemKind.RESOURCE_MISSING or not is_present
    ):
        yield resource.problem
    if failure is not None:
        yield failure
    elif driver.installed is None and resource.problem is None:
        yield Problem(ProblemKind.NOT_INSTALLED)
    reason = driver.reboot_reason()
    if reason is not None:
        yield reason
    if state.restart_pending:
        yield Problem(ProblemKind.RESTART_PENDING, service=DAEMON)


def refuse_in_use(facts: HostFacts) -> None:
    """Check that no vGPU is in use.

    Raises:
        HostError: VGPUS_IN_USE.
    """
    if facts.in_use:
        raise HostError(Problem(ProblemKind.VGPUS_IN_USE, vgpu=facts.in_use[0]))


def needs_reboot(facts: HostFacts, problems: Iterable[Problem]) -> bool:
    """Whether only a reboot of the host resolves a problem."""
    return not facts.is_container and any(problem.kind in NEEDS_REBOOT for problem in problems)


def may_reboot(
    root: Path, facts: HostFacts, problems: Iterable[Problem], *, is_broken: bool
) -> bool:
    """Whether a reboot resolves a problem now; see `reboot_obstacle`, too.

    Args:
        root: the root of the host's file system.
        facts: the host as it is.
        problems: all problems of the host.
        is_broken: whether the host software is not as it should be. Then only whole cards need a
            reboot, since they do without it.
    """
    resolved = NEEDS_REBOOT if nouveau.is_blocked(root) else NEEDS_REBOOT - {ProblemKind.NOUVEAU}
    whole_cards = {card.address for card in facts.whole_cards}
    return any(
        problem.kind in resolved and (not is_broken or problem.address in whole_cards)
        for problem in problems
    )


def reboot_obstacle(root: Path, facts: HostFacts, problems: Iterable[Problem]) -> Problem | None:
    """Return why a reboot would interrupt an installation; None if it would not."""
    kinds = {problem.kind for problem in problems}
    if ProblemKind.DPKG_LOCKED in kinds or dpkg.is_locked(root):
        return Problem(ProblemKind.DPKG_LOCKED)
    if facts.driver.is_incomplete or dpkg.is_interrupted(root):
        return Problem(ProblemKind.DPKG_INTERRUPTED)
    return None


def refuse_running_guests(root: Path) -> None:
    """Check that no guest is running, which a reboot of the host would end.

    Raises:
        HostError: GUESTS_RUNNING.
    """
    guests = libvirt_guests.running_guests(root)
    if guests:
        names = ", ".join(guests)
        raise HostError(Problem(ProblemKind.GUESTS_RUNNING, guests=names))


def pause(run: Runner, facts: HostFacts) -> None:
    """Stop, disable and mask NVIDIA's daemon, if it is installed.

    Raises:
        HostError: STILL_RUNNING if it does not stop.
    """
    from driver import daemon

    if facts.has_vgpu_daemon:
        daemon.pause(run)


def resume(run: Runner, facts: HostFacts, state: CharmState) -> None:
    """Unmask and enable NVIDIA's daemon, unless the principal has paused it.

    Raises:
        HostError: PAUSED_BY_PRINCIPAL; SERVICE_DOWN if systemd refuses.
    """
    from driver import daemon

    is_own_mask = state.paused or facts.is_principal_paused is False
    if facts.is_principal_paused or (facts.is_paused_by_mask and not is_own_mask):
        raise HostError(Problem(ProblemKind.PAUSED_BY_PRINCIPAL))
    if facts.has_vgpu_daemon:
        daemon.resume(run)


def why_refused(facts: HostFacts, state: CharmState, *, force: bool) -> Problem | None:
    """Return why the host software must not be changed now; None if it may be."""
    if state.paused or facts.is_paused_by_mask:
        by_principal = facts.is_principal_paused or not state.paused
        return Problem(ProblemKind.PAUSED_BY_PRINCIPAL if by_principal else ProblemKind.PAUSED)
    if facts.in_use and not force:
        return Problem(ProblemKind.VGPUS_IN_USE_OR_FORCE, vgpu=facts.in_use[0])
    return None


def _needs_daemon(facts: HostFacts) -> bool:
    """Whether NVIDIA's daemon can run and is needed on this host."""
    driver = facts.driver
    is_ready = driver.loaded is not None and driver.reboot_reason() is None
    return bool(facts.own_cards) and facts.has_vgpu_daemon and is_ready
