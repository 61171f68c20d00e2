# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Plans for the cards of recorded hosts, for tests."""

from __future__ import annotations

from typing import Callable, Sequence

import recorded
from gpu.card import Card, CardMode, VgpuType
from gpu.problems import Problem
from nova_compute.compatibility import apply_release
from nova_compute.release import NovaVersion
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import Plan, make_plan

CARACAL = "29.2.0"  # the first release that supports all options
YOGA = "25.2.1"

A40_FUNCTIONS = [f"0000:41:{number // 8:02x}.{number % 8}" for number in range(4, 36)]

MIG_TYPES = (
    VgpuType("nvidia-474", "GRID A100-1-5C", max_instances=7, gpu_instance_profile=19),
    VgpuType("nvidia-476", "GRID A100-3-20C", max_instances=2, gpu_instance_profile=9),
    VgpuType("nvidia-706", "GRID A100-1-5CME", max_instances=1, gpu_instance_profile=20),
)


def requests(text: str) -> tuple[VgpuRequest, ...]:
    """Return the requests of a valid mapping."""
    data = mappings.OPTION.parse(text)
    mappings.OPTION.check(data)
    return mappings.requests(data)


def planned(text: str, cards: tuple[Card, ...], nova: str = CARACAL) -> Plan:
    """Return the plan of a mapping for cards and a release of Nova."""
    return apply_release(make_plan(requests(text), cards), cards, NovaVersion.parse(nova))


def offered(plan: Plan) -> list[tuple[str, list[str]]]:
    """Return the type IDs of a plan with their addresses."""
    return [
        (assignment.type_id, [str(address) for address in assignment.addresses])
        for assignment in plan.assignments
    ]


def problems_of(text: str, cards: tuple[Card, ...], nova: str = CARACAL) -> tuple[Problem, ...]:
    """Return the problems of a plan that keeps the published data unchanged."""
    plan = planned(text, cards, nova)
    assert plan.keeps_published
    return plan.problems


def with_mode(cards: Sequence[Card], mode: CardMode) -> tuple[Card, ...]:
    """Return the cards with a cached mode."""
    return tuple(card._replace(mode=mode) for card in cards)


def a100(
    cards: Callable[..., tuple[Card, ...]], instances: list[int], enabled: int = 16
) -> tuple[Card, ...]:
    """Return an A100 with GPU instances of some profiles, as the boot service prepares it."""
    (data,) = recorded.host("a100-sriov-off")["functions"]
    mig = {"enabled": bool(instances), "instances": instances}
    changed = {**data, "mig": mig, "sriov": {**data["sriov"], "enabled": enabled}}
    (card,) = cards("a100-sriov-off", functions=[changed])
    return (
        card._replace(
            known_types=MIG_TYPES, mode=CardMode(tuple(sorted(instances)), types_queried=True)
        ),
    )
