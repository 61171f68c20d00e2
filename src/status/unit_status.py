# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What operators read in `juju status`; all of its wording stands here, and nowhere else."""

from __future__ import annotations

import enum
from typing import NamedTuple

from gpu.problems import Kind, Problem
from host.facts import Facts
from planning.plan import Plan
from status.assessment import Situation
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
    "evaluate",
    "no_types",
    "sentence",
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
_WORDING: dict[Kind, tuple[Level, str]] = {
    Kind.MAPPING_SYNTAX: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject}: {detail}; write {{nvidia-35: ['0000:84:00.0']}}",
    ),
    Kind.MAPPING_INVALID: (Level.BLOCKED, "vgpu-device-mappings: {subject}: {detail}"),
    Kind.DEVICE_TWICE: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} stands in {detail} and {more}; leave it in one",
    ),
    Kind.SAME_TYPE: (
        Level.BLOCKED,
        "vgpu-device-mappings: {detail} stands twice, by id and by name; join the two",
    ),
    Kind.TYPE_NOT_OFFERED: (
        Level.BLOCKED,
        "{subject} does not offer {detail}; choose from the action list-vgpu-types",
    ),
    Kind.MIXED_SIZES: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} cannot mix the sizes of {detail}; choose one",
    ),
    Kind.TYPES_UNKNOWN: (
        Level.WAITING,
        "Waiting for {subject} to tell its types, {detail} among them: journalctl -u nvidia-vgpud",
    ),
    Kind.VFS_DISABLED: (
        Level.WAITING,
        "Waiting for the virtual functions of {subject}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.FEW_FUNCTIONS: (
        Level.ACTIVE,
        "{subject} has {detail} virtual functions, fewer than it holds of {more}",
    ),
    Kind.VFS_FAILED: (
        Level.BLOCKED,
        "No virtual functions on {subject}: {detail}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.BOOT_SERVICE: (
        Level.BLOCKED,
        "Boot service: {subject}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.VENDOR_VFIO: (
        Level.BLOCKED,
        "{subject} needs Nova 31 (kernel variant driver), here is {detail}; upgrade OpenStack",
    ),
    Kind.TYPE_NOT_SET: (
        Level.WAITING,
        "Waiting for {subject} to carry {detail}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.INSTANCES_MISSING: (
        Level.WAITING,
        "Waiting for {subject} to be parted for {detail}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.MIG_BACKED_STILL: (
        Level.WAITING,
        "Waiting for {subject} to leave MIG mode for {detail}: "
        "journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.NO_MIG: (
        Level.BLOCKED,
        "{subject} has no MIG, which {detail} needs; choose from the action list-vgpu-types",
    ),
    Kind.MIG_FAILED: (
        Level.BLOCKED,
        "No GPU instances on {subject}: {detail}; mend, then wait an hour or run reboot-install",
    ),
    Kind.MIG_PENDING: (
        Level.BLOCKED,
        "Reboot needed: MIG mode of {subject} changes; run reboot-install i-really-mean-it=true",
    ),
    Kind.TWO_KINDS: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} is time-sliced ({detail}) or MIG-backed ({more}); "
        "choose one",
    ),
    Kind.CARD_OVERFULL: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} does not hold all of {detail}; name fewer functions",
    ),
    Kind.MIXED_SIZE_WAITS: (
        Level.WAITING,
        "Waiting for mixed-size mode of {subject}: journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.MIXED_SIZE_GUESTS: (
        Level.WAITING,
        "Waiting for the guests of {subject} to leave, so that it can mix {detail}",
    ),
    Kind.MIXED_SIZE_FAILED: (
        Level.BLOCKED,
        "No mixed-size mode on {subject}: {detail}; mend, then wait an hour or run reboot-install",
    ),
    Kind.MDEV_LOST: (
        Level.BLOCKED,
        "vGPU {subject} of a guest did not come back as {detail} on {more}; free the card",
    ),
    Kind.TYPE_REFUSED: (
        Level.BLOCKED,
        "{subject} refuses {detail}: {more}; see journalctl -u nova-compute-nvidia-vgpu",
    ),
    Kind.TWO_TYPES_ON_CARD: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} can carry one type, not {detail} and {more}; choose one",
    ),
    Kind.NEEDS_PLACEMENT: (
        Level.BLOCKED,
        "resource-class of {subject} needs report-in-placement=true, for good; or leave it out",
    ),
    Kind.ALIAS_AMBIGUOUS: (
        Level.BLOCKED,
        "{subject} and {detail} look alike to Nova; set report-in-placement=true, or offer one",
    ),
    Kind.NO_MIGRATION: (
        Level.ACTIVE,
        "live-migratable needs libvirt 10.0 and QEMU 8.2.2, here {subject} and {detail}",
    ),
    Kind.WRONG_FLAVOUR: (
        Level.BLOCKED,
        "{subject} lacks {detail}: such types come with NVIDIA's package nvidia-vgpu-ubuntu-aie; "
        "attach it",
    ),
    Kind.NOVA_MISSING: (Level.WAITING, "Waiting for nova-compute to install nova-common"),
    Kind.NOVA_TOO_OLD: (
        Level.BLOCKED,
        "{subject} cannot offer vGPUs; upgrade to 17 (queens) or later",
    ),
    Kind.OPTION_UNSUPPORTED: (
        Level.BLOCKED,
        "vgpu-device-mappings: {subject} needs Nova {detail}, here is {more}; leave it out",
    ),
    Kind.OPTION_IGNORED: (
        Level.BLOCKED,
        "vgpu-device-mappings: Nova {more} ignores {subject} of a single type (until {detail}); "
        "leave it out",
    ),
    Kind.MAX_INSTANCES_DROPS_CARD: (
        Level.BLOCKED,
        "max-instances {detail}: Nova counts whole cards and drops {subject}; "
        "use a multiple of {more}",
    ),
    Kind.FIRST_TYPE_ONLY: (
        Level.ACTIVE,
        "{subject} uses {detail} alone, on every GPU that has it",
    ),
    Kind.TAKES_ALL_CARDS: (
        Level.ACTIVE,
        "{subject} offers {detail} on every GPU that has it, named or not",
    ),
    Kind.RESOURCE_MISSING: (
        Level.BLOCKED,
        "No host software: juju attach-resource {app} nvidia-vgpu-software=FILE.deb",
    ),
    Kind.RESOURCE_INVALID: (
        Level.BLOCKED,
        "nvidia-vgpu-software: {subject}; attach NVIDIA's vGPU host package",
    ),
    Kind.INSTALL_FAILED: (
        Level.BLOCKED,
        "Host software not installed: {subject}; mend, then run reboot-install",
    ),
    Kind.LOCKED: (Level.WAITING, "Waiting for another program to release dpkg's lock"),
    Kind.NOT_INSTALLED: (
        Level.BLOCKED,
        "The host software is not installed; run the action reboot-install",
    ),
    Kind.IN_USE: (
        Level.ACTIVE,
        "host software {subject} waits for the guests",
    ),
    Kind.NOT_LOADED: (
        Level.BLOCKED,
        "Driver not loaded: {subject}; mend, then run reboot-install",
    ),
    Kind.SECURE_BOOT: (
        Level.BLOCKED,
        "Secure Boot refuses the driver: "
        "mokutil --import /var/lib/shim-signed/mok/MOK.der, then reboot",
    ),
    Kind.OPEN_MODULE: (
        Level.BLOCKED,
        "{subject} needs NVIDIA's closed module: dkms remove nvidia/{detail}-open --all, "
        "install nvidia/{detail}, reboot",
    ),
    Kind.NOUVEAU: (
        Level.BLOCKED,
        "Reboot needed: nouveau holds {subject}; run reboot-install i-really-mean-it=true",
    ),
    Kind.OTHER_VERSION_LOADED: (
        Level.BLOCKED,
        "Reboot needed: driver {subject} is loaded, {detail} installed; "
        "run reboot-install i-really-mean-it=true",
    ),
    Kind.SERVICE_DOWN: (
        Level.BLOCKED,
        "{subject} is not running; see journalctl -u {subject}, then run reboot-install",
    ),
    Kind.STILL_RUNNING: (
        Level.BLOCKED,
        "{subject} does not stop; see journalctl -u {subject}, then pause again",
    ),
    Kind.GUESTS: (Level.BLOCKED, "vGPU {subject} is in use; stop or migrate its guest first"),
    Kind.GUESTS_OR_FORCE: (
        Level.BLOCKED,
        "vGPU {subject} is in use; stop or migrate its guest first, or go on with force=true",
    ),
    Kind.REBOOT_REFUSED: (Level.BLOCKED, "systemd does not schedule a reboot; reboot the host"),
    Kind.OUR_PAUSE: (
        Level.MAINTENANCE,
        "Paused. Use 'resume' action to resume normal service.",
    ),
    Kind.PRINCIPAL_PAUSE: (
        Level.MAINTENANCE,
        "Paused by nova-compute. Use its 'resume' action to resume normal service.",
    ),
    Kind.RESTART_WAITS: (Level.ACTIVE, "restart of {subject} waits for the guests"),
    Kind.DISK: (Level.BLOCKED, "Cannot write {subject}: {detail}; make room on the disk"),
    Kind.CARD_UNREADABLE: (
        Level.BLOCKED,
        "{subject} cannot be read, its mapping is kept; see dmesg, then reboot the host",
    ),
    Kind.OTHER_DRIVER: (
        Level.ACTIVE,
        "{subject} is held by the driver {detail}; unbind it to offer vGPUs",
    ),
    Kind.VFS_OFF: (
        Level.ACTIVE,
        "{subject} has its virtual functions off; the mapping that names it enables them",
    ),
    Kind.SILENT: (
        Level.ACTIVE,
        "{subject} tells no types; see journalctl -u nvidia-vgpud",
    ),
    Kind.TYPE_IN_USE: (
        Level.WAITING,
        "Waiting for the guests of {subject} to leave {detail}; or keep it in the mapping",
    ),
    Kind.SIZES_TOLD: (
        Level.ACTIVE,
        "the sizes of {detail} need mixed-size mode on {subject}",
    ),
    Kind.NOT_RELATED: (
        Level.BLOCKED,
        "No relation to nova-compute: juju integrate {app}:nova-vgpu nova-compute:nova-vgpu",
    ),
}


def evaluate(situation: Situation, app: str) -> tuple[Status, ...]:
    """Return what holds for a unit, the gravest first; of a paused one, only that it is paused."""
    if situation.memory.paused:
        return (Status(*sentence(Problem(Kind.OUR_PAUSE), app)),)
    if situation.facts.is_masked:
        return (Status(*sentence(Problem(Kind.PRINCIPAL_PAUSE), app)),)
    found = [sentence(problem, app) for problem in situation.problems]
    remarks = [text for level, text in found if level is Level.ACTIVE]
    graver = [Status(level, text) for level, text in found if level is not Level.ACTIVE]
    graver.sort(key=lambda status: list(Level).index(status.level))
    ready = "; ".join([f"Unit is ready: {_summary(situation.facts, situation.plan)}", *remarks])
    return (*graver, Status(Level.ACTIVE, _cut(ready)))


def no_types(facts: Facts) -> str:
    """Say why there is no vGPU type to list."""
    if not facts.cards:
        return "No vGPU types: no supported NVIDIA GPU on this host"
    if facts.driver.loaded is None:
        return "No vGPU types: NVIDIA's driver is not loaded; see what the unit's status says"
    return "No vGPU types: the cards tell none; see journalctl -u nvidia-vgpud"


def sentence(problem: Problem, app: str) -> tuple[Level, str]:
    """Return how grave a problem is and what is said of it."""
    level, template = _WORDING[problem.kind]
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
            words[longest] = _cut(words[longest], room)
            text = template.format(app=app, **words)
    return level, _cut(text)


def _summary(facts: Facts, plan: Plan) -> str:
    if not facts.cards:
        return "no supported NVIDIA GPU found"
    cards = _counted(len(facts.cards), "NVIDIA GPU")
    offered = [assignment for assignment in plan.assignments if assignment.cards]
    if facts.nova is not None and not facts.nova.honours_several_types:
        offered = offered[:1]
    if not offered:
        named = "named in" if plan.elsewhere else "set in"
        return f"{cards}, none {named} vgpu-device-mappings"
    return f"{cards}, {_counted(len(offered), 'vGPU type')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _cut(text: str, room: int = _LIMIT) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."
