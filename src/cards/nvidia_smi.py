# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What only nvidia-smi reports about a card, or changes on it; the only module that runs it.

Cards are identified by PCI address, which all its commands accept in place of an index.
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/ and
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import re
from typing import Iterable

from gpu.card import COUNT_LIMIT, NAME_LIMIT, VgpuType
from gpu.pci import PciAddress
from system.commands import CommandError, Result, Runner
from system.text import one_line

__all__ = [
    "create_instance",
    "destroy_instances",
    "instances",
    "is_on_functions",
    "mig_mode",
    "mixed_size",
    "reason",
    "reset",
    "set_mig_mode",
    "set_mixed_size",
    "supported_types",
]

_MODES = {
    "Enabled": True,
    "Disabled": False,
    "[N/A]": None,
    "N/A": None,
    "[Not Supported]": None,
}
_MAX_DIGITS = 6  # of a type, a profile or a count, with its 0x
_TIMEOUT = 60.0  # seconds; a card that fell off the bus delays the answer
# |   0  MIG 1g.5gb          19        7          4:1     |: name, profile, instance, placement
_NO_INSTANCES = re.compile(r"No (?:MIG-enabled|GPU instances)", re.IGNORECASE)
_INSTANCE = re.compile(
    r"^\|\s+[0-9]+\s+MIG\s+\S+\s+([0-9]{1,6})\s+[0-9]+\s+[0-9]+:[0-9]+\s+\|",
    re.ASCII | re.MULTILINE,
)


def supported_types(run: Runner, card: PciAddress) -> tuple[VgpuType, ...]:
    """Return all vGPU types of a card, however it is used now; their IDs are hexadecimal here.

    Raises:
        CommandError: the driver does not answer.
    """
    types = []
    text = _smi(run, card, "vgpu", "-s", "-v").stdout
    for block in re.split(r"(?=vGPU Type ID)", text)[1:]:
        fields = _fields(block)
        number = _number(fields.get("vGPU Type ID", ""), 16)
        name = one_line(fields.get("Name", ""), NAME_LIMIT)
        if number is not None and name:
            types.append(
                VgpuType(
                    id=f"nvidia-{number}",
                    name=name,
                    description=_description(fields),
                    max_instances=_count(fields.get("Max Instances", "")),
                    gpu_instance_profile=_number(fields.get("GPU Instance Profile ID", "")),
                    vgpus_per_gpu_instance=_count(fields.get("Max Instances Per GI", "")) or 1,
                )
            )
    return tuple(types)


def _description(fields: dict[str, str]) -> str:
    """Return a description in the form that mediated devices have in sysfs."""
    memory = _number(fields.get("FB Memory", "").split(" ")[0])
    limit = _count(fields.get("Max Instances", ""))
    items = (("framebuffer={}M", memory), ("max_instance={}", limit))
    return ", ".join(text.format(number) for text, number in items if number is not None)


def mig_mode(run: Runner, card: PciAddress) -> tuple[bool | None, bool | None]:
    """Return whether MIG mode is on, and whether it will be after a reset; None: no MIG support.

    Raises:
        CommandError: the driver does not answer.
    """
    query = "--query-gpu=mig.mode.current,mig.mode.pending"
    text = _smi(run, card, query, "--format=csv,noheader").stdout
    modes = [mode.strip() for mode in text.strip().split(",")]
    if len(modes) == 2 and all(mode in _MODES for mode in modes):
        return _MODES[modes[0]], _MODES[modes[1]]
    raise CommandError(("nvidia-smi", query), f"unknown answer: {text.strip()[:60]}")


def set_mig_mode(run: Runner, card: PciAddress, on: bool) -> None:
    """Switch MIG mode; it may be pending afterwards.

    Raises:
        CommandError: the driver refuses, as it does while the card has virtual functions.
    """
    _smi(run, card, "-mig", "1" if on else "0")


def reset(run: Runner, card: PciAddress) -> None:
    """Reset a card.

    Raises:
        CommandError: a program uses the card, or it cannot be reset alone.
    """
    _smi(run, card, "--gpu-reset")


def instances(run: Runner, card: PciAddress) -> tuple[int, ...]:
    """Return the profiles of a card's GPU instances, sorted.

    Raises:
        CommandError: the driver does not answer.
    """
    try:
        text = _smi(run, card, "mig", "-lgi").stdout
    except CommandError as error:
        if _NO_INSTANCES.search(error.output):
            return ()
        raise
    return tuple(sorted(int(profile) for profile in _INSTANCE.findall(text)))


def create_instance(run: Runner, card: PciAddress, profile: int) -> None:
    """Create a GPU instance and the compute instance that fills it.

    Raises:
        CommandError: there is no room for it, or MIG mode is off.
    """
    _smi(run, card, "mig", "-cgi", str(profile), "-C")


def destroy_instances(run: Runner, card: PciAddress) -> None:
    """Destroy all GPU instances of a card and the compute instances in them.

    Raises:
        CommandError: one is in use.
    """
    if instances(run, card):  # the command fails if there is none
        _smi(run, card, "mig", "-dci", check=False)
        _smi(run, card, "mig", "-dgi")


def mixed_size(run: Runner, card: PciAddress) -> bool | None:
    """Return whether a card is in mixed-size mode; None: it does not support it.

    Raises:
        CommandError: the driver does not answer.
    """
    fields = _fields(_smi(run, card, "-q").stdout)
    return _MODES.get(fields.get("vGPU Heterogeneous Mode", ""))


def is_on_functions(run: Runner, card: PciAddress) -> bool | None:
    """Return whether a card's vGPUs are on virtual functions; None: the driver does not report it.

    Raises:
        CommandError: the driver does not answer.
    """
    fields = _fields(_smi(run, card, "-q").stdout)
    return {"SR-IOV": True, "Non SR-IOV": False}.get(fields.get("Host VGPU Mode", ""))


def set_mixed_size(run: Runner, card: PciAddress, on: bool) -> None:
    """Switch mixed-size mode.

    Raises:
        CommandError: the card has vGPUs (19, "In use by another client"), or does not support it.
    """
    _smi(run, card, "vgpu", "-shm", "1" if on else "0")


def reason(error: CommandError) -> str:
    """Return why a command failed: the end of its last line."""
    return error.reason.rsplit(": ", 1)[-1]


def _smi(run: Runner, card: PciAddress, *arguments: str, check: bool = True) -> Result:
    # A subcommand, `vgpu` or `mig`, comes before the card.
    subcommand = [argument for argument in arguments[:1] if not argument.startswith("-")]
    options: Iterable[str] = arguments[len(subcommand) :]
    return run("nvidia-smi", *subcommand, "-i", str(card), *options, timeout=_TIMEOUT, check=check)


def _fields(text: str) -> dict[str, str]:
    """Read `Name : value` lines; of repeated names, the last."""
    parts = (line.partition(":") for line in text.split("\n"))
    return {name.strip(): value.strip() for name, _, value in parts}


def _count(text: str) -> int | None:
    number = _number(text)
    return number if number is not None and 0 <= number <= COUNT_LIMIT else None


def _number(text: str, base: int = 10) -> int | None:
    try:
        return int(text, base) if len(text) <= _MAX_DIGITS else None
    except ValueError:  # N/A
        return None
