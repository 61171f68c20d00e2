# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option vgpu-device-mappings: from its text to what is asked for, without any host.

Three steps, each of which refuses what the next could not bear: the text becomes a YAML document
within limits, the document becomes plain data of text, lists and mappings, and the data is held
against the JSON Schema in mappings.schema.json, whose descriptions are what an operator reads.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import yaml

from gpu.problems import HostError, Problem, ProblemKind
from host.gpus import PciAddress, PciId

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["SCHEMA", "Device", "VgpuRequest", "check", "parse", "requests"]

Device = Union[PciAddress, PciId]

SCHEMA = Path(__file__).with_name("mappings.schema.json")

_MAX_BYTES = 64 * 1024  # some 3,000 devices
_MAX_NODES = 10_000  # after aliases are expanded
_MAX_DEPTH = 8  # the schema needs 4
_TYPE_ID = re.compile(r"[a-z][a-z0-9_-]*-[0-9]+", re.ASCII)


class VgpuRequest(NamedTuple):
    """One entry of the option: a vGPU type and the devices that offer it.

    Attributes:
        vgpu_type: an id or a name, as written.
        devices: in the order written, none twice.
        max_instances: at most so many on a host; None for as many as fit.
        resource_class: the class in placement; None for Nova's own, VGPU.
        is_plain: whether it can be published as it stands, on any host: an id, a list of
            addresses, nothing else.
    """

    vgpu_type: str
    devices: tuple[Device, ...]
    max_instances: int | None = None
    resource_class: str | None = None
    is_plain: bool = False


def parse(text: str) -> Any:
    """Return the value of a YAML or JSON document whose scalars are all text; None if empty.

    YAML 1.1 would read the address 0000:41:00.0 as the number 2460.0, and 35 as another key
    than "35".

    Raises:
        HostError: MAPPING_SYNTAX or MAPPING_INVALID, for anything but one document within the
            limits.
    """
    if len(text.encode("utf-8", errors="replace")) > _MAX_BYTES:
        raise _invalid("the value", f"more than {_MAX_BYTES // 1024} KiB")
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "the value" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise _syntax(place, error.problem or "no YAML") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # PyYAML lets through what chr() and int() say to "\\UFFFFFFFF" and %YAML 1.999...
        raise _syntax("the value", "a character that YAML does not allow") from error
    if node is None:
        return None
    if _size(node, {}) > _MAX_NODES:
        raise _invalid("the value", f"more than {_MAX_NODES} items once its aliases are expanded")
    return _data(node)


def check(data: Any) -> None:
    """Hold the data against the schema.

    Raises:
        HostError: MAPPING_INVALID, for the first place that does not fit.
    """
    import jsonschema  # slow to import: a quarter of the start-up of a hook that does

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    error = next(jsonschema.Draft7Validator(schema).iter_errors(data), None)
    if error is not None:
        raise _invalid(_place(error), str(error.schema["description"]))


def requests(data: Any) -> tuple[VgpuRequest, ...]:
    """Turn checked data into requests, in its order; none for an unset option.

    Raises:
        HostError: DEVICE_TWICE, if two types name one device.
    """
    found = []
    owner: dict[Device, str] = {}
    for vgpu_type, value in (data or {}).items():
        long_form = isinstance(value, dict)
        options = value if long_form else {"devices": value}
        devices = tuple(dict.fromkeys(_device(text) for text in options["devices"]))
        for device in devices:
            if owner.setdefault(device, vgpu_type) != vgpu_type:
                raise HostError(
                    Problem(ProblemKind.DEVICE_MAPPED_TWICE, str(device), owner[device], vgpu_type)
                )
        limit = options.get("max-instances")
        is_plain = not long_form and all(isinstance(device, PciAddress) for device in devices)
        found.append(
            VgpuRequest(
                vgpu_type=vgpu_type,
                devices=devices,
                max_instances=None if limit is None else int(limit),
                resource_class=options.get("resource-class"),
                is_plain=is_plain and _TYPE_ID.fullmatch(vgpu_type) is not None,
            )
        )
    return tuple(found)


class _Loader(yaml.BaseLoader):
    """Composes one document and refuses tags and deep nesting on the way."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="a tag", problem_mark=event.start_mark)
        if self.depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _size(node: Any, known: dict[int, int]) -> int:
    """Count the nodes below, aliases expanded, without expanding them."""
    if id(node) not in known:
        known[id(node)] = _MAX_NODES + 1  # a node that holds itself never ends
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _data(node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_data(child) for child in node.value]
    if not isinstance(node, yaml.MappingNode):
        return node.value
    data = {}
    for key, value in node.value:
        place = f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise _invalid(place, "a key that is no text")
        if key.value in data:
            raise _invalid(place, f"{_shown(key.value)} stands twice; join the two")
        data[key.value] = _data(value)
    return data


def _device(text: str) -> Device:
    try:
        return PciAddress.parse(text)
    except ValueError:
        return PciId.parse(text)


def _place(error: ValidationError) -> str:
    """Name the place of an error by the keys that lead to it, `nvidia-35, device 2`."""
    path = list(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        path.append(str(error.instance))
    words = [f"device {word + 1}" if isinstance(word, int) else _shown(word) for word in path]
    return ", ".join(word for word in words if word != "devices") or "the value"


def _shown(word: object) -> str:
    """Return a short, printable form of something an operator wrote."""
    text = _printable(str(word)[:25])
    return text[:24] + "..." if len(text) > 24 else text or "an empty word"


def _printable(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def _syntax(place: str, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.MAPPING_SYNTAX, place, _printable(reason)))


def _invalid(place: str, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.MAPPING_INVALID, place, reason))
