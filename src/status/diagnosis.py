# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Why something is as it is, by what the host shows; pure."""

from __future__ import annotations

import re
from typing import Iterator

from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host.facts import HostFacts
from planning.plan import Plan

__all__ = ["root_cause", "unsupported_by_open_module", "why_no_types"]

# What the kernel says to a module that its keys do not know; modprobe repeats it.
_NO_KEY = re.compile(r"Key was rejected by service|Required key not available", re.IGNORECASE)
_COMPUTE = re.compile(r"-[0-9]{1,4}C[A-Z0-9]*$", re.ASCII | re.IGNORECASE)


def root_cause(problem: Problem, facts: HostFacts) -> Problem:
    """Return the cause of a problem where the host shows it, else the problem itself."""
    if problem.kind is ProblemKind.NOT_LOADED and _NO_KEY.search(problem.subject):
        return Problem(ProblemKind.SECURE_BOOT)
    card = next((card for card in facts.cards if str(card.gpu.address) == problem.subject), None)
    if card is None:
        return problem
    if problem.kind is ProblemKind.TYPE_NOT_OFFERED and _is_other_flavour(
        problem.detail, card, facts
    ):
        return problem._replace(kind=ProblemKind.WRONG_PACKAGE)
    if problem.kind is ProblemKind.TYPES_UNKNOWN and _needs_closed_module(card, facts):
        return Problem(ProblemKind.OPEN_MODULE, problem.subject, facts.driver.loaded or "")
    return problem


def unsupported_by_open_module(plan: Plan, facts: HostFacts) -> Iterator[Problem]:
    """Find cards that a plan offers although they cannot offer a thing.

    What is written as ids and addresses is published 1:1, whatever the card says to it.
    """
    named = {address for found in plan.assignments for address in found.cards}
    for card in facts.cards:
        if card.gpu.address in named and _needs_closed_module(card, facts):
            yield Problem(
                ProblemKind.OPEN_MODULE, str(card.gpu.address), facts.driver.loaded or ""
            )


def why_no_types(card: Card, facts: HostFacts) -> Problem | None:
    """Say why a card offers nothing; None if it does, or if the driver is not there at all."""
    address, driver = str(card.gpu.address), card.gpu.driver
    if card.framework is not None or facts.driver.loaded is None:
        return None
    if driver is not None and driver != "nvidia":
        return Problem(ProblemKind.OTHER_DRIVER, address, driver)
    if card.is_sriov and not card.gpu.virtual_functions:
        return Problem(ProblemKind.VFS_NOT_ENABLED, address)
    if _needs_closed_module(card, facts):
        return Problem(ProblemKind.OPEN_MODULE, address, facts.driver.loaded)
    return Problem(ProblemKind.NO_TYPES_REPORTED, address)


def _is_other_flavour(wanted: str, card: Card, facts: HostFacts) -> bool:
    """Whether a type is of a kind that only NVIDIA's AI Enterprise package brings.

    C types of modern cards and all MIG-backed ones; a card that shows another of that kind has
    the right package. https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
    """
    installed = facts.driver.installed
    if installed is None or "-aie-" in installed.name or not card.is_sriov:
        return False
    names = [known.name for known in (*card.types, *card.known_types)]
    return bool(_COMPUTE.search(wanted)) and not any(map(_COMPUTE.search, names))


def _needs_closed_module(card: Card, facts: HostFacts) -> bool:
    """Whether NVIDIA's open module is why a card is silent.

    On cards without SR-IOV (Turing and older) only the closed one offers vGPUs.
    """
    is_silent = card.framework is None and not card.is_sriov
    return is_silent and card.gpu.driver == "nvidia" and facts.driver.is_open
