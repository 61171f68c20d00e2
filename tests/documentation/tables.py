# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of the documents that are made from the code.

A document has each table between two comments, `<!-- table: statuses -->` and
`<!-- end of table -->`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Iterator, Mapping, Sequence

import yaml
from documents import ROOT

import recorded
from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import DATABAG_SCHEMA
from nova_compute.release import NovaVersion
from status.messages import MESSAGES, Level

_TABLE = re.compile(
    r"(?P<start><!-- table: (?P<name>\w+) -->\n).*?(?P<end><!-- end of table -->\n)", re.DOTALL
)
_LEVELS = {
    Level.BLOCKED: "Blocked: the unit needs your action",
    Level.WAITING: "Waiting: the unit continues when the cause is gone",
    Level.MAINTENANCE: "Maintenance: the unit is paused",
    Level.ACTIVE: "Notes on a unit that is ready, and in `show-plan`",
}
# The releases of Nova from the first with vGPUs to the newest known one, each at its last point.
NEWEST = 34
_RELEASES = [NovaVersion(major, 99) for major in range(17, NEWEST + 1)]
_UNNAMED = {34: "2026.2"}  # known, but without a codename yet
ABILITIES: Mapping[str, str] = {
    "several types": "supports_several_types",
    "a single type only on the mapped cards": "restricts_single_type",
    "`resource-class`": "supports_mdev_class",
    "`max-instances`": "supports_max_instances",
    "two vGPUs for one guest": "supports_two_vgpus",
    "vendor-specific VFIO": "supports_variant_driver",
}


def insert(text: str) -> str:
    """Return a document with the present tables."""

    def replace(match: re.Match[str]) -> str:
        return f"{match['start']}\n{TABLES[match['name']]()}\n{match['end']}"

    return _TABLE.sub(replace, text)


def _statuses() -> str:
    blocks = []
    for level, heading in _LEVELS.items():
        rows = [
            (f"`{_shown(message.template)}`", message.cause)
            for message in MESSAGES.values()
            if message.level is level
        ]
        blocks.append(f"## {heading}\n\n" + _table(("status", "cause and correction"), rows))
    return "\n".join(blocks)


def _shown(template: str) -> str:
    """Return a template with its arguments in capitals."""
    text = re.sub(r"\{([a-z_]+)\}", lambda match: match[1].upper(), template)
    return text.replace("{{", "{").replace("}}", "}")


def _options() -> str:
    blocks = []
    for name, option in _read("config.yaml")["options"].items():
        default = _value_or_unset(option["default"])
        about = f"Type: {option['type']}. Default: {default}."
        blocks.append(f"## {name}\n\n{about}\n\n{_with_code(option['description'])}")
    return "\n".join(blocks)


def _value_or_unset(value: object) -> str:
    return "unset" if value == "" else f"`{str(value).lower()}`"


def _actions() -> str:
    blocks = []
    for name, action in _read("actions.yaml").items():
        rows = [
            (
                f"`{param}`",
                ", ".join(f"`{value}`" for value in option.get("enum", [option["type"]])),
                _value_or_unset(option.get("default", "")),
                " ".join(option["description"].split()),
            )
            for param, option in action.get("params", {}).items()
        ]
        table = _table(("parameter", "values", "default", "meaning"), rows) if rows else ""
        blocks.append(f"## {name}\n\n{_with_code(action['description'])}\n{table}".rstrip("\n"))
    return "\n\n".join(blocks) + "\n"


def _with_code(description: str) -> str:
    """Return a description with its indented lines as blocks of YAML."""
    lines: list[str] = []
    for line in description.rstrip("\n").split("\n"):
        is_code, in_code = line.startswith("  "), bool(lines) and lines[-1].startswith("  ")
        if is_code and not in_code:
            lines.append("```yaml")
        if in_code and not is_code:
            lines.append("```")
        lines.append(line)
    lines += ["```"] if lines[-1].startswith("  ") else []
    return "\n".join(line[2:] if line.startswith("  ") else line for line in lines) + "\n"


def _bases() -> str:
    bases: dict[str, list[str]] = {}
    for platform in _read("charmcraft.yaml")["platforms"]:
        base, processor = re.fullmatch(r"ubuntu@([0-9.]+):(\w+)", platform).groups()  # type: ignore[union-attr]  # charmcraft's own form
        bases.setdefault(base, []).append(processor)
    return _table(("Ubuntu", "processors"), [(base, ", ".join(bases[base])) for base in bases])


def _releases() -> str:
    rows = []
    for nova in _RELEASES:
        name = nova.codename or _UNNAMED[nova.major]
        rows.append((f"{nova.major} ({name.title()})", *_marks(nova)))
    return _table(("Nova", *ABILITIES), rows)


def _marks(nova: NovaVersion) -> tuple[str, ...]:
    return tuple("yes" if getattr(nova, ability) else "-" for ability in ABILITIES.values())


def _nova() -> str:
    """Return what the releases support, with one row for like releases."""
    rows: list[list[str]] = []
    last: tuple[str, ...] = ()
    for nova in _RELEASES:
        marks = _marks(nova)
        if marks == last:
            rows[-1][0] = f"{rows[-1][0].split(' ')[0]} to {nova.major}"
        else:
            rows.append([str(nova.major), *marks])
        last = marks
    rows[-1][0] = f"{rows[-1][0].split(' ')[0]} and later"
    return _table(("Nova", *ABILITIES), rows)


def _hosts() -> str:
    rows = []
    for name in recorded.host_names():
        host = recorded.host(name)
        rows.append((f"`{name}`", host["description"], host["kernel"]))
    return _table(("recorded host", "cards and release", "kernel"), rows)


def _databag() -> str:
    return f"```json\n{json.dumps(DATABAG_SCHEMA, indent=1)}\n```\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def names(text: str) -> Iterator[str]:
    """Yield the names of the tables of a document."""
    return (match["name"] for match in _TABLE.finditer(text))


TABLES: Mapping[str, Callable[[], str]] = {
    "statuses": _statuses,
    "options": _options,
    "actions": _actions,
    "bases": _bases,
    "nova": _nova,
    "releases": _releases,
    "hosts": _hosts,
    "databag": _databag,
}
