# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option vgpu-device-mappings: from its text to requests, independent of any host.

Three steps, each of which rejects what the next could not handle: the text becomes a YAML document
within limits, the document becomes plain data of text, lists and mappings, and the data is
validated with the JSON Schema in mappings.schema.json, whose descriptions operators read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import yaml

from gpu.pci import NOVA_MAX_DOMAIN, PciAddress, PciId
from gpu.problems import HostError, Problem, ProblemKind
from system.text import ascii_line

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["SCHEMA", "Device", "VgpuRequest", "check", "parse", "requests"]

Device = Union[PciAddress, PciId]

SCHEMA = Path(__file__).with_name("mappings.schema.json")

_MAX_BYTES = 64 * 1024  # some 3,000 devices
_MAX_NODES = 10_000  # after aliases are expanded
_MAX_DEPTH = 8  # the schema needs 4
# Stricter than `gpu.card.is_type_id`: what is published without a look at any card.
_PLAIN_TYPE_ID = re.compile(r"[a-z][a-z0-9_-]*-[0-9]{1,9}", re.ASCII)


class VgpuRequest(NamedTuple):
    """One entry of the option: a vGPU type and the devices that offer it.

    Attributes:
        vgpu_type: an ID or a name, as written.
        devices: in the order written, without duplicates.
        max_instances: the limit on each host; None for as many as fit.
        resource_class: the class in placement; None for Nova's default, VGPU.
        is_plain: whether it can be published on any host as it is written: an ID and a list of
            addresses, nothing else.
    """

    vgpu_type: str
    devices: tuple[Device, ...]
    max_instances: int | None = None
    resource_class: str | None = None
    is_plain: bool = False


def parse(text: str) -> Any:
    """Return the value of a YAML or JSON document whose scalars are all text; None if empty.

    YAML 1.1 would read the address 0000:41:00.0 as the number 2460.0, and treat 35 and "35" as
    different keys.

    Raises:
        HostError: MAPPING_SYNTAX or MAPPING_INVALID if it is not one document within the limits.
    """
    if len(text.encode("utf-8", errors="replace")) > _MAX_BYTES:
        raise _invalid("the value", f"more than {_MAX_BYTES // 1024} KiB")
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "the value" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise _syntax(place, error.problem or "not YAML") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # PyYAML does not catch the errors of chr() and int() for "\\UFFFFFFFF" and %YAML 1.999...
        raise _syntax("the value", "a character that YAML does not allow") from error
    if node is None:
        return None
    if _size(node, {}) > _MAX_NODES:
        raise _invalid("the value", f"more than {_MAX_NODES} items once its aliases are expanded")
    return _data(node)


def check(data: Any) -> None:
    """Validate the data with the schema.

    Raises:
        HostError: MAPPING_INVALID, for the first place that is invalid.
    """
    import jsonschema  # slow to import: a quarter of the start-up of a hook

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    error = next(jsonschema.Draft7Validator(schema).iter_errors(data), None)
    if error is not None:
        raise _invalid(_place(error), str(error.schema["description"]))


def requests(data: Any) -> tuple[VgpuRequest, ...]:
    """Turn valid data into requests, in its order; none for an unset option.

    Raises:
        HostError: DEVICE_MAPPED_TWICE if two types have the same device; MAPPING_INVALID if
            Nova does not support an address.
    """
    parsed = []
    first: dict[Device, str] = {}
    for vgpu_type, value in (data or {}).items():
        is_long_form = isinstance(value, dict)
        options = value if is_long_form else {"devices": value}
        devices = tuple(dict.fromkeys(_device(text) for text in options["devices"]))
        for device in devices:
            if isinstance(device, PciAddress) and device.domain > NOVA_MAX_DOMAIN:
                raise _invalid(
                    f"{_shown(vgpu_type)}, {device}", "Nova supports domains up to ffff"
                )
            if first.setdefault(device, vgpu_type) != vgpu_type:
                raise _mapped_twice(device, first[device], vgpu_type)
        limit = options.get("max-instances")
        is_plain = not is_long_form and all(isinstance(device, PciAddress) for device in devices)
        parsed.append(
            VgpuRequest(
                vgpu_type=vgpu_type,
                devices=devices,
                max_instances=None if limit is None else int(limit),
                resource_class=options.get("resource-class"),
                is_plain=is_plain and _PLAIN_TYPE_ID.fullmatch(vgpu_type) is not None,
            )
        )
    return tuple(parsed)


class _Loader(yaml.BaseLoader):
    """Composes one document, and rejects tags and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # missing from the stubs
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="a tag", problem_mark=event.start_mark)
        if self.depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _size(node: Any, sizes: dict[int, int]) -> int:
    """Count a node and those below as if aliases were expanded, without expanding them."""
    if id(node) not in sizes:
        sizes[id(node)] = _MAX_NODES + 1  # a node that contains itself never ends
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _data(node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_data(child) for child in node.value]
    if not isinstance(node, yaml.MappingNode):
        return node.value
    data = {}
    for key, value in node.value:
        place = f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise _invalid(place, "expected text as a key")
        if key.value in data:
            raise _invalid(place, f"{_shown(key.value)} appears twice; merge the two entries")
        data[key.value] = _data(value)
    return data


def _device(text: str) -> Device:
    try:
        return PciAddress.parse(text)
    except ValueError:
        return PciId.parse(text)


def _place(error: ValidationError) -> str:
    """Return the place of an error as the keys that lead to it, `nvidia-35, device 2`."""
    path = list(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        path.append(str(error.instance))
    names = [f"device {key + 1}" if isinstance(key, int) else _shown(key) for key in path]
    return ", ".join(name for name in names if name != "devices") or "the value"


def _shown(written: object) -> str:
    """Return a short, printable form of something that an operator wrote."""
    text = ascii_line(str(written), 25)
    return text[:24] + "..." if len(text) > 24 else text or "an empty key"


def _syntax(place: str, reason: str) -> HostError:
    reason = ascii_line(reason, len(reason))
    return HostError(Problem(ProblemKind.MAPPING_SYNTAX, place=place, reason=reason))


def _invalid(place: str, reason: str) -> HostError:
    return HostError(Problem(ProblemKind.MAPPING_INVALID, place=place, reason=reason))


def _mapped_twice(device: Device, first: str, second: str) -> HostError:
    kind = ProblemKind.DEVICE_MAPPED_TWICE
    return HostError(Problem(kind, device=str(device), first=first, second=second))
