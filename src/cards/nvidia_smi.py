# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What only nvidia-smi tells of a card, or does to it; the only place that starts it.

Cards are named by their PCI address, which all its commands take for an index.
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/ and
https://docs.nvidia.com/vgpu/latest/grid-vgpu-user-guide/index.html
"""

from __future__ import annotations

import re
from typing import Iterable

from gpu.card import COUNT_LIMIT, NAME_LIMIT, VgpuType
from host.gpus import PciAddress
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
_DIGITS = 6  # of a type, a profile or a count, with its 0x
_TIMEOUT = 60.0  # seconds; a card that fell off the bus answers late
# |   0  MIG 1g.5gb          19        7          4:1     |: name, profile, instance, placement
_NO_INSTANCES = re.compile(r"No (?:MIG-enabled|GPU instances)", re.IGNORECASE)
_INSTANCE = re.compile(
    r"^\|\s+[0-9]+\s+MIG\s+\S+\s+([0-9]{1,6})\s+[0-9]+\s+[0-9]+:[0-9]+\s+\|",
    re.ASCII | re.MULTILINE,
)


def supported_types(run: Runner, card: PciAddress) -> tuple[VgpuType, ...]:
    """Return all vGPU types of a card, whatever it carries now; their ids are hexadecimal here.

    Raises:
        CommandError: the driver does not answer.
    """
    found = []
    text = _smi(run, card, "vgpu", "-s", "-v").stdout
    for block in re.split(r"(?=vGPU Type ID)", text)[1:]:
        fields = _fields(block)
        number = _number(fields.get("vGPU Type ID", ""), 16)
        name = one_line(fields.get("Name", ""), NAME_LIMIT)
        if number is not None and name:
            found.append(
                VgpuType(
                    id=f"nvidia-{number}",
                    name=name,
                    description=_description(fields),
                    max_instances=_count(fields.get("Max Instances", "")),
                    gpu_instance_profile=_number(fields.get("GPU Instance Profile ID", "")),
                    vgpus_per_gpu_instance=_count(fields.get("Max Instances Per GI", "")) or 1,
                )
            )
    return tuple(found)


def _description(fields: dict[str, str]) -> str:
    """Say in the words of a mediated device's description what is told of it here."""
    memory = _number(fields.get("FB Memory", "").split(" ")[0])
    maximum = _count(fields.get("Max Instances", ""))
    told = (("framebuffer={}M", memory), ("max_instance={}", maximum))
    return ", ".join(text.format(number) for text, number in told if number is not None)


def mig_mode(run: Runner, card: PciAddress) -> tuple[bool | None, bool | None]:
    """Return whether MIG mode is on, and whether it will be after a reset; None: has no MIG.

    Raises:
        CommandError: the driver does not answer.
    """
    query = "--query-gpu=mig.mode.current,mig.mode.pending"
    text = _smi(run, card, query, "--format=csv,noheader").stdout
    words = [word.strip() for word in text.strip().split(",")]
    if len(words) == 2 and all(word in _MODES for word in words):
        return _MODES[words[0]], _MODES[words[1]]
    raise CommandError(("nvidia-smi", query), f"unknown answer: {text.strip()[:60]}")


def set_mig_mode(run: Runner, card: PciAddress, on: bool) -> None:
    """Switch MIG mode; it may be pending afterwards.

    Raises:
        CommandError: the driver refuses, as it does while the card has virtual functions.
    """
    _smi(run, card, "-mig", "1" if on else "0")


def reset(run: Runner, card: PciAddress) -> None:
    """Reset a card; only while nothing uses it.

    Raises:
        CommandError: something does, or the card cannot be reset alone.
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
    if instances(run, card):  # the command fails where there is none
        _smi(run, card, "mig", "-dci", check=False)
        _smi(run, card, "mig", "-dgi")


def mixed_size(run: Runner, card: PciAddress) -> bool | None:
    """Return whether a card is in mixed-size mode; None: it has none.

    Raises:
        CommandError: the driver does not answer.
    """
    fields = _fields(_smi(run, card, "-q").stdout)
    return _MODES.get(fields.get("vGPU Heterogeneous Mode", ""))


def is_on_functions(run: Runner, card: PciAddress) -> bool | None:
    """Return whether the driver puts a card's vGPUs on virtual functions; None: it does not say.

    Raises:
        CommandError: the driver does not answer.
    """
    fields = _fields(_smi(run, card, "-q").stdout)
    return {"SR-IOV": True, "Non SR-IOV": False}.get(fields.get("Host VGPU Mode", ""))


def set_mixed_size(run: Runner, card: PciAddress, on: bool) -> None:
    """Switch mixed-size mode.

    Raises:
        CommandError: the card carries vGPUs (19, "In use by another client"), or cannot do that.
    """
    _smi(run, card, "vgpu", "-shm", "1" if on else "0")


def reason(error: CommandError) -> str:
    """Return why a command failed: the end of the last line that it left."""
    lines = [line.strip() for line in error.output.splitlines() if line.strip()]
    return one_line((lines[-1] if lines else str(error)).rsplit(": ", 1)[-1], 200)


def _smi(run: Runner, card: PciAddress, *words: str, check: bool = True) -> Result:
    # A command of its own, `vgpu` or `mig`, comes before the card.
    command = [word for word in words[:1] if not word.startswith("-")]
    options: Iterable[str] = words[len(command) :]
    return run("nvidia-smi", *command, "-i", str(card), *options, timeout=_TIMEOUT, check=check)


def _fields(text: str) -> dict[str, str]:
    """Read `Name : value` lines; of those that stand twice, the last."""
    parts = (line.partition(":") for line in text.split("\n"))
    return {name.strip(): value.strip() for name, _, value in parts}


def _count(text: str) -> int | None:
    number = _number(text)
    return number if number is not None and 0 <= number <= COUNT_LIMIT else None


def _number(text: str, base: int = 10) -> int | None:
    try:
        return int(text, base) if len(text) <= _DIGITS else None
    except ValueError:  # N/A
        return None
