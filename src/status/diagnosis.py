# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The root cause of a problem, by what the host shows; pure."""

from __future__ import annotations

import re
from typing import Iterator

from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host.facts import HostFacts
from planning.plan import Plan

__all__ = ["root_cause", "unsupported_by_open_module", "why_no_types"]

# What the kernel reports for a module signed with an unknown key; modprobe repeats it.
_UNKNOWN_KEY = re.compile(r"Key was rejected by service|Required key not available", re.IGNORECASE)
_COMPUTE_TYPE = re.compile(r"-[0-9]{1,4}C[A-Z0-9]*$", re.ASCII | re.IGNORECASE)


def root_cause(problem: Problem, facts: HostFacts) -> Problem:
    """Return the cause of a problem if the host shows it, otherwise the problem itself."""
    if problem.kind is ProblemKind.NOT_LOADED and _UNKNOWN_KEY.search(problem.argument("reason")):
        return Problem(ProblemKind.SECURE_BOOT)
    card = next((card for card in facts.cards if card.address == problem.address), None)
    if card is None:
        return problem
    if problem.kind is ProblemKind.TYPE_NOT_OFFERED:
        requested = problem.argument("vgpu_type")
        if _is_in_other_package(requested, card, facts):
            return Problem(ProblemKind.WRONG_PACKAGE, card.address, vgpu_type=requested)
    if problem.kind is ProblemKind.TYPES_UNKNOWN and _needs_closed_module(card, facts):
        return _open_module(card, facts)
    return problem


def unsupported_by_open_module(plan: Plan, facts: HostFacts) -> Iterator[Problem]:
    """Find cards in a plan that offer nothing with NVIDIA's open module.

    A plain request is published as it is written, whether the cards offer the type or not.
    """
    mapped = {address for assignment in plan.assignments for address in assignment.cards}
    for card in facts.cards:
        if card.address in mapped and _needs_closed_module(card, facts):
            yield _open_module(card, facts)


def why_no_types(card: Card, facts: HostFacts) -> Problem | None:
    """Return why a card offers nothing; None if it does, or if no driver is loaded at all."""
    driver = card.gpu.driver
    if card.framework is not None or facts.driver.loaded is None:
        return None
    if driver is not None and driver != "nvidia":
        return Problem(ProblemKind.OTHER_DRIVER, card.address, driver=driver)
    if card.is_sriov and not card.gpu.virtual_functions:
        return Problem(ProblemKind.VFS_NOT_ENABLED, card.address)
    if _needs_closed_module(card, facts):
        return _open_module(card, facts)
    return Problem(ProblemKind.NO_TYPES_REPORTED, card.address)


def _open_module(card: Card, facts: HostFacts) -> Problem:
    return Problem(ProblemKind.OPEN_MODULE, card.address, version=facts.driver.loaded or "")


def _is_in_other_package(requested: str, card: Card, facts: HostFacts) -> bool:
    """Whether a type is of a kind that only NVIDIA's AI Enterprise package has.

    These are the C types of newer cards and all MIG-backed ones. A card that shows another type
    of that kind has the right package.
    https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
    """
    installed = facts.driver.installed
    if installed is None or "-aie-" in installed.name or not card.is_sriov:
        return False
    names = [vgpu_type.name for vgpu_type in (*card.types, *card.known_types)]
    return bool(_COMPUTE_TYPE.search(requested)) and not any(map(_COMPUTE_TYPE.search, names))


def _needs_closed_module(card: Card, facts: HostFacts) -> bool:
    """Whether NVIDIA's open module is why a card offers nothing.

    Cards without SR-IOV (Turing and older) offer vGPUs only with the closed module.
    """
    offers_nothing = card.framework is None and not card.is_sriov
    return offers_nothing and card.gpu.driver == "nvidia" and facts.driver.is_open
