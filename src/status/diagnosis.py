# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The root cause of a problem, by what the host shows; pure."""

from __future__ import annotations

import re

from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host.facts import HostFacts

__all__ = ["root_cause", "why_no_types"]

# What the kernel reports if it refuses a module; modprobe repeats it.
_REFUSALS = (
    # Signed with an unknown key.
    (ProblemKind.SECURE_BOOT, "Key was rejected by service|Required key not available"),
    # The message of an `install` line comes with one that would match the next pattern.
    (ProblemKind.MODULE_DISABLED, "install command|nothing was loaded"),
    (ProblemKind.MODULES_LOCKED, "Operation not permitted"),
    (ProblemKind.NO_USABLE_CARD, "No such device"),
    (
        ProblemKind.MODULE_NOT_BUILT,
        "not found in directory|Exec format error|Invalid module format",
    ),
)
_COMPUTE_TYPE = re.compile(r"-[0-9]{1,4}C[A-Z0-9]*$", re.ASCII | re.IGNORECASE)


def root_cause(problem: Problem, facts: HostFacts) -> Problem:
    """Return the cause of a problem if the host shows it, otherwise the problem itself."""
    if problem.kind is ProblemKind.NOT_LOADED:
        return _why_not_loaded(problem, facts)
    card = next((card for card in facts.cards if card.address == problem.address), None)
    if card is None:
        return problem
    if problem.kind is ProblemKind.MIG_FAILED and _reports_nothing(card, facts):
        return Problem(ProblemKind.WRONG_PACKAGE, card.address, vgpu_type="Every type")
    if problem.kind in (ProblemKind.TYPE_NOT_OFFERED, ProblemKind.TYPES_UNKNOWN):
        requested = problem.argument("vgpu_type")
        if _is_in_other_package(requested, card, facts):
            return Problem(ProblemKind.WRONG_PACKAGE, card.address, vgpu_type=requested)
    return problem


def _why_not_loaded(problem: Problem, facts: HostFacts) -> Problem:
    reason = problem.argument("reason")
    for kind, pattern in _REFUSALS:
        if re.search(pattern, reason, re.IGNORECASE):
            if kind is ProblemKind.MODULE_NOT_BUILT:
                return Problem(ProblemKind.MODULE_NOT_BUILT, kernel=facts.driver.kernel)
            return Problem(kind)
    return problem


def why_no_types(card: Card, facts: HostFacts) -> Problem | None:
    """Return why a card offers nothing; None if it does, or if no driver is loaded at all."""
    if card.obstacle is not None or card.framework is not None or facts.driver.loaded is None:
        return card.obstacle
    if card.is_sriov and not card.gpu.virtual_functions:
        return Problem(ProblemKind.VFS_NOT_ENABLED, card.address)
    if _reports_nothing(card, facts):
        return Problem(ProblemKind.WRONG_PACKAGE, card.address, vgpu_type="Every type")
    return Problem(ProblemKind.NO_TYPES_REPORTED, card.address)


def _is_in_other_package(requested: str, card: Card, facts: HostFacts) -> bool:
    """Whether a type is of a kind that only NVIDIA's AI Enterprise package has.

    These are the C types of newer cards and all MIG-backed ones. A card that shows another type
    of that kind has the right package.
    https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
    """
    if _reports_nothing(card, facts):
        return True
    installed = facts.driver.installed
    if installed is None or "-aie-" in installed.name or not card.is_sriov:
        return False
    names = [vgpu_type.name for vgpu_type in (*card.types, *card.known_types)]
    return bool(_COMPUTE_TYPE.search(requested)) and not any(map(_COMPUTE_TYPE.search, names))


def _reports_nothing(card: Card, facts: HostFacts) -> bool:
    """Whether a card has virtual functions, but no type with the package without AI Enterprise.

    All types of compute cards come with AI Enterprise.
    """
    installed = facts.driver.installed
    has_types = bool(card.types or card.known_types)
    is_plain = installed is not None and "-aie-" not in installed.name
    has_functions = card.gpu.is_compute_only and bool(card.gpu.virtual_functions)
    return is_plain and has_functions and not has_types
