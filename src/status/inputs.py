# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the operator has set: the charm's options, parsed and validated."""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, TypeVar

from gpu.pci import WholeDevices
from gpu.problems import HostError, Problem, ProblemKind
from host.facts import HostFacts
from nova_compute.nova_conf import PciOptions
from planning import mappings, passthrough
from planning.mappings import VgpuRequest
from planning.option_text import Option
from planning.passthrough import PassthroughRequest
from state.charm_state import CharmState
from system.text import digest

__all__ = ["Inputs", "last_valid_vgpus", "needs_software"]

_Request = TypeVar("_Request")


class Inputs(NamedTuple):
    """The options of the charm.

    Attributes:
        mapping: the value of the option vgpu-device-mappings, or one to try.
        passthrough: the value of the option passthrough-devices, or one to try.
        forces_software: whether NVIDIA's host software is installed in any case.
        pci: the options for PCI devices.
        vgpus: the requests for vGPUs; if the mapping is not valid, those of the last valid one.
        whole_cards: the requests for whole cards; the same applies.
        mapping_problem: what is wrong with the mapping.
        passthrough_problem: what is wrong with passthrough-devices.
        keeps_placement: whether report-in-placement is in effect although it is unset again.
        mapping_digest: digest of the mapping that last passed its schema.
        passthrough_digest: the same of passthrough-devices.
    """

    mapping: str
    passthrough: str
    forces_software: bool
    pci: PciOptions
    vgpus: tuple[VgpuRequest, ...]
    whole_cards: tuple[PassthroughRequest, ...]
    mapping_problem: Problem | None
    passthrough_problem: Problem | None
    keeps_placement: bool
    mapping_digest: str
    passthrough_digest: str

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the values."""
        return tuple(filter(None, (self.mapping_problem, self.passthrough_problem)))

    @property
    def notes(self) -> tuple[Problem, ...]:
        """What has no effect."""
        return (Problem(ProblemKind.PLACEMENT_KEPT),) if self.keeps_placement else ()

    @property
    def whole_devices(self) -> WholeDevices:
        """The devices that guests are to get as a whole."""
        return passthrough.whole_devices(self.whole_cards)

    @classmethod
    def read(cls, config: Mapping[str, object], state: CharmState) -> Inputs:
        """Read the charm's options; a value that has passed its schema is not validated again.

        A compute node that has ever reported devices to placement must keep doing so.
        """
        mapping, whole_cards = (
            str(config.get(option.name, "")) for option in (mappings.OPTION, passthrough.OPTION)
        )
        vgpus = _read(
            mappings.OPTION,
            mappings.requests,
            mapping,
            state.validated_mapping_digest,
            state.mapping.requested,
        )
        passed_through = _read(
            passthrough.OPTION,
            passthrough.requests,
            whole_cards,
            state.validated_passthrough_digest,
            state.requested_passthrough,
        )
        in_placement = config.get("report-in-placement") is True
        return cls(
            mapping=mapping,
            passthrough=whole_cards,
            forces_software=config.get("force-install-nvidia-vgpu") is True,
            pci=PciOptions(
                report_in_placement=in_placement or state.reported_in_placement,
                live_migratable=config.get("live-migratable") is True,
            ),
            vgpus=vgpus[0],
            whole_cards=passed_through[0],
            mapping_problem=vgpus[2],
            passthrough_problem=passed_through[2],
            keeps_placement=state.reported_in_placement and not in_placement,
            mapping_digest=vgpus[1],
            passthrough_digest=passed_through[1],
        )


def needs_software(inputs: Inputs, facts: HostFacts) -> bool:
    """Whether a host needs NVIDIA's host software: it has a card for vGPUs, or it is forced."""
    return not facts.is_container and (bool(facts.own_cards) or inputs.forces_software)


def last_valid_vgpus(mapping: str) -> tuple[VgpuRequest, ...]:
    """Return the requests for vGPUs of an earlier value of the option, from the charm's state."""
    return _last_valid(mappings.OPTION, mappings.requests, mapping)


def _read(
    option: Option,
    requests: Callable[[Any], tuple[_Request, ...]],
    text: str,
    validated: str,
    last_valid: str,
) -> tuple[tuple[_Request, ...], str, Problem | None]:
    """Read one option.

    Args:
        option: the option.
        requests: turns its data into requests.
        text: its value.
        validated: the digest of the value that last passed the schema.
        last_valid: the value to use if this one is not valid.

    Returns:
        The requests, the new digest, and what is wrong with the value.
    """
    if not text.strip():
        return (), validated, None
    try:
        data = option.parse(text)
        new_digest = digest(option.schema.read_text(encoding="utf-8") + text)
        if new_digest != validated and data is not None:
            option.check(data)
        return requests(data), new_digest, None
    except HostError as error:
        return _last_valid(option, requests, last_valid), validated, error.problem


def _last_valid(
    option: Option, requests: Callable[[Any], tuple[_Request, ...]], text: str
) -> tuple[_Request, ...]:
    try:
        return requests(option.read(text))
    except HostError:
        return ()
