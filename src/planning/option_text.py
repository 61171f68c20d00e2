# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The text of an option that is YAML or JSON: parsed within limits, and validated.

Each step rejects what the next could not handle: the text becomes a YAML document within limits,
the document becomes plain data of text, lists and mappings, and the data is validated with the
option's JSON Schema, whose descriptions operators read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from gpu.problems import HostError, Problem, ProblemKind
from system.text import ascii_line

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["Option", "shown"]

_MAX_BYTES = 64 * 1024  # some 3,000 devices
_MAX_NODES = 10_000  # after aliases are expanded
_MAX_DEPTH = 8  # the schemas need 5


class Option(NamedTuple):
    """An option of the charm whose value is YAML or JSON.

    Attributes:
        name: its name in config.yaml.
        schema: the file with its JSON Schema.
        example: a valid value, for messages.
    """

    name: str
    schema: Path
    example: str

    def parse(self, text: str) -> Any:
        """Return the value of a document whose scalars are all text; None if it is empty.

        YAML 1.1 would read the address 0000:41:00.0 as the number 2460.0, and treat 35 and "35"
        as different keys.

        Raises:
            HostError: OPTION_SYNTAX or OPTION_INVALID if it is not one document within the
                limits.
        """
        if len(text.encode("utf-8", errors="replace")) > _MAX_BYTES:
            raise self.invalid("the value", f"more than {_MAX_BYTES // 1024} KiB")
        try:
            node = _Loader(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = "the value" if mark is None else _position(mark)
            raise self._syntax(place, error.problem or "not YAML") from error
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
            # PyYAML does not catch the errors of chr() and int(), "\\UFFFFFFFF", %YAML 1.999...
            raise self._syntax("the value", "a character that YAML does not allow") from error
        if node is None:
            return None
        if _size(node, {}) > _MAX_NODES:
            reason = f"more than {_MAX_NODES} items once its aliases are expanded"
            raise self.invalid("the value", reason)
        return self._data(node)

    def check(self, data: Any) -> None:
        """Validate the data with the schema.

        Raises:
            HostError: OPTION_INVALID, for the first place that is invalid.
        """
        import jsonschema  # slow to import: a quarter of the start-up of a hook

        schema = json.loads(self.schema.read_text(encoding="utf-8"))
        error = next(jsonschema.Draft7Validator(schema).iter_errors(data), None)
        if error is not None:
            raise self.invalid(_place(error), _reason(error))

    def read(self, text: str) -> Any:
        """Parse and validate a value from a file, which may be damaged.

        Raises:
            HostError: OPTION_SYNTAX or OPTION_INVALID.
        """
        data = self.parse(text)
        if data is not None:
            self.check(data)
        return data

    def invalid(self, place: str, reason: str) -> HostError:
        """Return the error for a value that is invalid at some place."""
        kind = ProblemKind.OPTION_INVALID
        return HostError(Problem(kind, option=self.name, place=place, reason=reason))

    def _syntax(self, place: str, reason: str) -> HostError:
        problem = Problem(
            ProblemKind.OPTION_SYNTAX,
            option=self.name,
            place=place,
            reason=ascii_line(reason, len(reason)),
            example=self.example,
        )
        return HostError(problem)

    def _data(self, node: Any) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self._data(child) for child in node.value]
        if not isinstance(node, yaml.MappingNode):
            return node.value
        data = {}
        for key, value in node.value:
            place = _position(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise self.invalid(place, "expected text as a key")
            if key.value in data:
                reason = f"{shown(key.value)} appears twice; merge the two entries"
                raise self.invalid(place, reason)
            data[key.value] = self._data(value)
        return data


def shown(written: object) -> str:
    """Return a short, printable form of something that an operator wrote."""
    text = ascii_line(str(written), 25)
    return text[:24] + "..." if len(text) > 24 else text or "an empty key"


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


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _reason(error: ValidationError) -> str:
    """Return the description of what is expected, or the key of a long form that is at fault."""
    from difflib import get_close_matches  # only for an error

    schema: Any = error.schema
    written: Any = error.instance
    if error.validator == "additionalProperties":
        known = tuple(schema["properties"])
        unknown = next(key for key in written if key not in known)
        hint = next(iter(get_close_matches(unknown, known, 1, cutoff=0.8)), None)
        expected = f"expected {', '.join(known)}" if hint is None else f"did you mean {hint}?"
        return f"unknown key {shown(unknown)}; {expected}"
    if error.validator == "dependencies":
        key = next(key for key in schema["dependencies"] if key in written)
        return f"{key} needs {' and '.join(schema['dependencies'][key])}"
    return str(schema["description"])


def _place(error: ValidationError) -> str:
    """Return the place of an error as the keys that lead to it, `nvidia-35, device 2`."""
    path = list(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        path.append(str(error.instance))
    names = [f"device {key + 1}" if isinstance(key, int) else shown(key) for key in path]
    return ", ".join(name for name in names if name != "devices") or "the value"
