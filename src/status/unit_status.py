# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What operators read in `juju status`; all of its wording stands here, and nowhere else."""

from __future__ import annotations

import enum
from typing import NamedTuple

from gpu.problems import Problem, ProblemKind
from host.facts import HostFacts
from planning.plan import Plan
from status.assessment import Assessment
from system.text import one_line

__all__ = [
    "ENABLING",
    "INSTALLING",
    "REBOOT_NEEDED",
    "REBOOT_NOT_NEEDED",
    "REBOOT_SCHEDULED",
    "TOO_LARGE",
    "Level",
    "Status",
    "format_problem",
    "unit_statuses",
    "why_no_types_listed",
]

_LIMIT = 119  # characters; `juju status` cuts what is longer


class Level(enum.Enum):
    """Juju's words for the state of a unit; the order is that of precedence."""

    BLOCKED = "blocked"
    MAINTENANCE = "maintenance"
    WAITING = "waiting"
    ACTIVE = "active"


class Status(NamedTuple):
    """One line of `juju status`."""

    level: Level
    message: str


ENABLING = "Preparing the cards; this may take minutes"
INSTALLING = "Installing NVIDIA's host software; this takes some minutes"
REBOOT_NEEDED = "needed; run again with i-really-mean-it=true"
REBOOT_NOT_NEEDED = "not needed"
REBOOT_SCHEDULED = "in 30 seconds"
TOO_LARGE = "The answer is larger than Juju takes; run the action again without format=json"

# Each sentence says what is wrong and ends with the mend. {app} is the application's name.
_MESSAGES: dict[ProblemKind, tuple[Level, str]] = {
    ProblemKind.MAPPING_SYNTAX: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject}: {detail}; write {{nvidia-35: ['0000:84:00.0']}}",
    ),
    ProblemKind.MAPPING_INVALID: (Level.BLOCKED, "vgpu-device-mappings: {subject}: {detail}"),
    ProblemKind.DEVICE_MAPPED_TWICE: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} stands in {detail} and {more}; leave it in one",
    ),
    ProblemKind.TYPE_MAPPED_TWICE: (
        Level.BLOCKED,
        "vgpu-device-mappings: {detail} stands twice, by id and by name; join the two",
    ),
    ProblemKind.TYPE_NOT_OFFERED: (
        Level.BLOCKED,
        "{subject} does not offer {detail}; choose from the action list-vgpu-types",
    ),
    ProblemKind.MIXED_SIZES: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} cannot mix the sizes of {detail}; choose one",
    ),
    ProblemKind.TYPES_UNKNOWN: (
        Level.WAITING,
        "Waiting for {subject} to tell its types, {detail} among them: journalctl -u nvidia-vgpud",
    ),
    ProblemKind.VFS_DISABLED: (
        Level.WAITING,
        "Waiting for the virtual functions of {subject}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.TOO_FEW_FUNCTIONS: (
        Level.ACTIVE,
        "{subject} has {detail} virtual functions, fewer than it holds of {more}",
    ),
    ProblemKind.VFS_FAILED: (
        Level.BLOCKED,
        "No virtual functions on {subject}: {detail}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.BOOT_SERVICE_FAILED: (
        Level.BLOCKED,
        "Boot service: {subject}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.VARIANT_DRIVER_UNSUPPORTED: (
        Level.BLOCKED,
        "{subject} needs Nova 31 (kernel variant driver), here is {detail}; upgrade OpenStack",
    ),
    ProblemKind.TYPE_NOT_SET: (
        Level.WAITING,
        "Waiting for {subject} to carry {detail}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.INSTANCES_MISSING: (
        Level.WAITING,
        "Waiting for {subject} to be parted for {detail}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.WAITING_TO_LEAVE_MIG: (
        Level.WAITING,
        "Waiting for {subject} to leave MIG mode for {detail}: "
        "journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.NO_MIG: (
        Level.BLOCKED,
        "{subject} has no MIG, which {detail} needs; choose from the action list-vgpu-types",
    ),
    ProblemKind.MIG_FAILED: (
        Level.BLOCKED,
        "No GPU instances on {subject}: {detail}; mend, then wait an hour or run reboot-install",
    ),
    ProblemKind.MIG_PENDING: (
        Level.BLOCKED,
        "Reboot needed: MIG mode of {subject} changes; run reboot-install i-really-mean-it=true",
    ),
    ProblemKind.MIG_AND_TIME_SLICED: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} is time-sliced ({detail}) or MIG-backed ({more}); "
        "choose one",
    ),
    ProblemKind.CARD_OVERSUBSCRIBED: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} does not hold all of {detail}; name fewer functions",
    ),
    ProblemKind.MIXED_SIZE_PENDING: (
        Level.WAITING,
        "Waiting for mixed-size mode of {subject}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.MIXED_SIZE_GUESTS: (
        Level.WAITING,
        "Waiting for the guests of {subject} to leave, so that it can mix {detail}",
    ),
    ProblemKind.MIXED_SIZE_FAILED: (
        Level.BLOCKED,
        "No mixed-size mode on {subject}: {detail}; mend, then wait an hour or run reboot-install",
    ),
    ProblemKind.MDEV_LOST: (
        Level.BLOCKED,
        "vGPU {subject} of a guest did not come back as {detail} on {more}; free the card",
    ),
    ProblemKind.TYPE_REFUSED: (
        Level.BLOCKED,
        "{subject} refuses {detail}: {more}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    ProblemKind.TWO_TYPES_ON_CARD: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} can carry one type, not {detail} and {more}; choose one",
    ),
    ProblemKind.NEEDS_PLACEMENT: (
        Level.BLOCKED,
        "resource-class of {subject} needs report-in-placement=true, for good; or leave it out",
    ),
    ProblemKind.ALIAS_AMBIGUOUS: (
        Level.BLOCKED,
        "{subject} and {detail} look alike to Nova; set report-in-placement=true, or offer one",
    ),
    ProblemKind.NO_MIGRATION: (
        Level.ACTIVE,
        "live-migratable needs libvirt 10.0 and QEMU 8.2.2, here {subject} and {detail}",
    ),
    ProblemKind.WRONG_PACKAGE: (
        Level.BLOCKED,
        "{subject} lacks {detail}: such types come with NVIDIA's package nvidia-vgpu-ubuntu-aie; "
        "attach it",
    ),
    ProblemKind.NOVA_MISSING: (Level.WAITING, "Waiting for nova-compute to install nova-common"),
    ProblemKind.NOVA_TOO_OLD: (
        Level.BLOCKED,
        "{subject} cannot offer vGPUs; upgrade to 17 (queens) or later",
    ),
    ProblemKind.OPTION_UNSUPPORTED: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} needs Nova {detail}, here is {more}; leave it out",
    ),
    ProblemKind.OPTION_IGNORED: (
        Level.BLOCKED,
        "vgpu-device-mappings: Nova {more} ignores {subject} of a single type (until {detail}); "
        "leave it out",
    ),
    ProblemKind.MAX_INSTANCES_DROPS_CARD: (
        Level.BLOCKED,
        "max-instances {detail}: Nova counts whole cards and drops {subject}; "
        "use a multiple of {more}",
    ),
    ProblemKind.FIRST_TYPE_ONLY: (
        Level.ACTIVE,
        "{subject} uses {detail} alone, on every GPU that has it",
    ),
    ProblemKind.TAKES_ALL_CARDS: (
        Level.ACTIVE,
        "{subject} offers {detail} on every GPU that has it, named or not",
    ),
    ProblemKind.RESOURCE_MISSING: (
        Level.BLOCKED,
        "No host software: juju attach-resource {app} nvidia-vgpu-software=FILE.deb",
    ),
    ProblemKind.RESOURCE_INVALID: (
        Level.BLOCKED,
        "nvidia-vgpu-software: {subject}; attach NVIDIA's vGPU host package",
    ),
    ProblemKind.INSTALL_FAILED: (
        Level.BLOCKED,
        "Host software not installed: {subject}; mend, then run reboot-install",
    ),
    ProblemKind.DPKG_LOCKED: (Level.WAITING, "Waiting for another program to release dpkg's lock"),
    ProblemKind.NOT_INSTALLED: (
        Level.BLOCKED,
        "The host software is not installed; run the action reboot-install",
    ),
    ProblemKind.UPGRADE_PENDING: (
        Level.ACTIVE,
        "host software {subject} waits for the guests",
    ),
    ProblemKind.NOT_LOADED: (
        Level.BLOCKED,
        "Driver not loaded: {subject}; mend, then run reboot-install",
    ),
    ProblemKind.SECURE_BOOT: (
        Level.BLOCKED,
        "Secure Boot refuses the driver: "
        "mokutil --import /var/lib/shim-signed/mok/MOK.der, then reboot",
    ),
    ProblemKind.OPEN_MODULE: (
        Level.BLOCKED,
        "{subject} needs NVIDIA's closed module: dkms remove nvidia/{detail}-open --all, "
        "install nvidia/{detail}, reboot",
    ),
    ProblemKind.NOUVEAU: (
        Level.BLOCKED,
        "Reboot needed: nouveau holds {subject}; run reboot-install i-really-mean-it=true",
    ),
    ProblemKind.OTHER_VERSION_LOADED: (
        Level.BLOCKED,
        "Reboot needed: driver {subject} is loaded, {detail} installed; "
        "run reboot-install i-really-mean-it=true",
    ),
    ProblemKind.SERVICE_DOWN: (
        Level.BLOCKED,
        "{subject} is not running; see journalctl -u {subject}, then run reboot-install",
    ),
    ProblemKind.STILL_RUNNING: (
        Level.BLOCKED,
        "{subject} does not stop; see journalctl -u {subject}, then pause again",
    ),
    ProblemKind.VGPUS_IN_USE: (
        Level.BLOCKED,
        "vGPU {subject} is in use; stop or migrate its guest first",
    ),
    ProblemKind.VGPUS_IN_USE_OR_FORCE: (
        Level.BLOCKED,
        "vGPU {subject} is in use; stop or migrate its guest first, or go on with force=true",
    ),
    ProblemKind.REBOOT_REFUSED: (
        Level.BLOCKED,
        "systemd does not schedule a reboot; reboot the host",
    ),
    ProblemKind.PAUSED: (
        Level.MAINTENANCE,
        "Paused. Use 'resume' action to resume normal service.",
    ),
    ProblemKind.PAUSED_BY_PRINCIPAL: (
        Level.MAINTENANCE,
        "Paused by nova-compute. Use its 'resume' action to resume normal service.",
    ),
    ProblemKind.RESTART_PENDING: (Level.ACTIVE, "restart of {subject} waits for the guests"),
    ProblemKind.DISK_WRITE_FAILED: (
        Level.BLOCKED,
        "Cannot write {subject}: {detail}; make room on the disk",
    ),
    ProblemKind.CARD_UNREADABLE: (
        Level.BLOCKED,
        "{subject} cannot be read, its mapping is kept; see dmesg, then reboot the host",
    ),
    ProblemKind.OTHER_DRIVER: (
        Level.ACTIVE,
        "{subject} is held by the driver {detail}; unbind it to offer vGPUs",
    ),
    ProblemKind.VFS_NOT_ENABLED: (
        Level.ACTIVE,
        "{subject} has its virtual functions off; the mapping that names it enables them",
    ),
    ProblemKind.NO_TYPES_REPORTED: (
        Level.ACTIVE,
        "{subject} tells no types; see journalctl -u nvidia-vgpud",
    ),
    ProblemKind.GUESTS_USE_OTHER_TYPE: (
        Level.WAITING,
        "Waiting for the guests of {subject} to leave {detail}; or keep it in the mapping",
    ),
    ProblemKind.MIXED_SIZE_NEEDED: (
        Level.ACTIVE,
        "the sizes of {detail} need mixed-size mode on {subject}",
    ),
    ProblemKind.NOT_RELATED: (
        Level.BLOCKED,
        "No relation to nova-compute: juju integrate {app}:nova-vgpu nova-compute:nova-vgpu",
    ),
}


def unit_statuses(situation: Assessment, app: str) -> tuple[Status, ...]:
    """Return what holds for a unit, the gravest first; of a paused one, only that it is paused."""
    if situation.state.paused:
        return (Status(*format_problem(Problem(ProblemKind.PAUSED), app)),)
    if situation.facts.is_paused_by_mask:
        return (Status(*format_problem(Problem(ProblemKind.PAUSED_BY_PRINCIPAL), app)),)
    found = [format_problem(problem, app) for problem in situation.problems]
    remarks = [text for level, text in found if level is Level.ACTIVE]
    graver = [Status(level, text) for level, text in found if level is not Level.ACTIVE]
    graver.sort(key=lambda status: list(Level).index(status.level))
    ready = "; ".join([f"Unit is ready: {_summary(situation.facts, situation.plan)}", *remarks])
    return (*graver, Status(Level.ACTIVE, _truncate(ready)))


def why_no_types_listed(facts: HostFacts) -> str:
    """Say why there is no vGPU type to list."""
    if not facts.cards:
        return "No vGPU types: no supported NVIDIA GPU on this host"
    if facts.driver.loaded is None:
        return "No vGPU types: NVIDIA's driver is not loaded; see what the unit's status says"
    return "No vGPU types: the cards tell none; see journalctl -u nvidia-vgpud"


def format_problem(problem: Problem, app: str) -> tuple[Level, str]:
    """Return how grave a problem is and what is said of it."""
    level, template = _MESSAGES[problem.kind]
    said = {"subject": problem.subject, "detail": problem.detail, "more": problem.more}
    words = {
        name: one_line(text, 2 * _LIMIT)
        for name, text in said.items()
        if f"{{{name}}}" in template
    }
    text = template.format(app=app, **words)
    for _ in words:  # the mend at the end matters more than all of a long word
        if len(text) > _LIMIT:
            longest = max(words, key=lambda word: len(words[word]))
            room = max(len(words[longest]) - (len(text) - _LIMIT), 11)
            words[longest] = _truncate(words[longest], room)
            text = template.format(app=app, **words)
    return level, _truncate(text)


def _summary(facts: HostFacts, plan: Plan) -> str:
    if not facts.cards:
        return "no supported NVIDIA GPU found"
    cards = _counted(len(facts.cards), "NVIDIA GPU")
    offered = [assignment for assignment in plan.assignments if assignment.cards]
    if facts.nova is not None and not facts.nova.supports_several_types:
        offered = offered[:1]
    if not offered:
        named = "named in" if plan.for_other_hosts else "set in"
        return f"{cards}, none {named} vgpu-device-mappings"
    return f"{cards}, {_counted(len(offered), 'vGPU type')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _truncate(text: str, room: int = _LIMIT) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."
