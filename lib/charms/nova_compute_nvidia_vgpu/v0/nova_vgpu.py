# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Both sides of the relation `nova-vgpu`.

The relation is container-scoped: a subordinate that offers vGPUs provides it, nova-compute
requires it. The provider's unit databag holds three JSON texts:

* `subordinate_configuration`: sections of nova.conf, as
  `{"nova": {"/etc/nova/nova.conf": {"sections": {NAME: [[OPTION, VALUE], ...]}}}}`;
* `services`: a list of systemd units that are paused and resumed with nova-compute's own;
* `releases-packages-map`: packages by OpenStack release, as
  `{RELEASE: {"deb": {"install": [...], "purge": [...]}}}`.

The requirer's unit databag may hold `restart-trigger`, a text that changes whenever the
provider's services are to be restarted. As each change of the provider's databag may be answered
by a new trigger, equal wishes must give equal bytes: `ProviderData.to_databag` sees to that.

Providing:

    self.nova_vgpu = NovaVgpuProvides(self)
    ...
    sections = {"devices": [("enabled_mdev_types", "nvidia-35")]}
    self.nova_vgpu.publish(ProviderData(sections=sections))

Requiring:

    self.nova_vgpu = NovaVgpuRequires(self)
    ...
    for data in self.nova_vgpu.provided():
        render(data.sections)
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import ops

LIBID = "6d2f4c0f3f7f4b6cb6b1a4a0c9f1d7e2"
LIBAPI = 0
LIBPATCH = 2
PYDEPS = ["jsonschema"]

__all__ = [
    "DATABAG_SCHEMA",
    "DEFAULT_RELATION_NAME",
    "DatabagError",
    "NovaVgpuProvides",
    "NovaVgpuRequires",
    "ProviderData",
]

DEFAULT_RELATION_NAME = "nova-vgpu"

_SERVICE = "nova"
_CONFIG_FILE = "/etc/nova/nova.conf"
_CONFIGURATION = "subordinate_configuration"
_SERVICES = "services"
_PACKAGES = "releases-packages-map"
_TRIGGER = "restart-trigger"

# One line of printable text: the principal prints options, values and names as they are, so that
# a line break would start an option of the writer's choice.
_LINE = {"type": "string", "pattern": "^[^\\x00-\\x1f\\x7f]*$(?![\\s\\S])"}
_WORD = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9@:._+-]*$(?![\\s\\S])"}
_WORDS = {"type": "array", "items": _WORD}

# JSON Schema (draft 7) of the provider's databag, each text read as JSON.
DATABAG_SCHEMA: Mapping[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        _CONFIGURATION: {
            "type": "object",
            "maxProperties": 1,
            "properties": {
                _SERVICE: {
                    "type": "object",
                    "properties": {
                        _CONFIG_FILE: {
                            "type": "object",
                            "properties": {
                                "sections": {
                                    "type": "object",
                                    "propertyNames": {"pattern": "^[A-Za-z0-9_-]+$(?![\\s\\S])"},
                                    "additionalProperties": {
                                        "type": "array",
                                        "items": {
                                            "type": "array",
                                            "minItems": 2,
                                            "maxItems": 2,
                                            "items": [
                                                {
                                                    "type": "string",
                                                    "pattern": "^[a-z][a-z0-9_]*$(?![\\s\\S])",
                                                },
                                                _LINE,
                                            ],
                                        },
                                    },
                                }
                            },
                            "required": ["sections"],
                            "additionalProperties": False,
                        }
                    },
                    "required": [_CONFIG_FILE],
                    "additionalProperties": False,
                }
            },
            "required": [_SERVICE],
        },
        _SERVICES: _WORDS,
        _PACKAGES: {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "deb": {
                        "type": "object",
                        "properties": {"install": _WORDS, "purge": _WORDS},
                        "additionalProperties": False,
                    }
                },
                "additionalProperties": False,
            },
        },
    },
}


class DatabagError(ValueError):
    """A databag does not hold what the schema asks for; the text names the place."""


@dataclass(frozen=True)
class ProviderData:
    """What the provider says.

    Attributes:
        sections: nova.conf's sections, each a sequence of option and value, in their order.
        services: systemd units to pause and resume with nova-compute.
        release: codename of the installed OpenStack release, for `packages`.
        packages: packages that belong to that release.
    """

    sections: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    services: Sequence[str] = ()
    release: str | None = None
    packages: Sequence[str] = ()

    def to_databag(self) -> dict[str, str]:
        """Return the texts of the databag; equal data gives equal bytes.

        Raises:
            DatabagError: an option or a value would break out of its line.
        """
        sections: dict[str, list[list[str]]] = {}
        for name, pairs in self.sections.items():
            sections[name] = [[option, value] for option, value in pairs]
            for text in (name, *(word for pair in pairs for word in pair)):
                if not text.isprintable():
                    raise DatabagError(f"section {name!r}: not one line of text: {text!r}")
        packages = {}
        if self.release is not None:
            packages[self.release] = {"deb": {"install": sorted(self.packages), "purge": []}}
        configuration = {_SERVICE: {_CONFIG_FILE: {"sections": sections}}}
        return {
            _CONFIGURATION: json.dumps(configuration),
            _SERVICES: json.dumps(sorted(self.services)),
            _PACKAGES: json.dumps(packages, sort_keys=True),
        }

    @classmethod
    def from_databag(cls, databag: Mapping[str, str]) -> ProviderData:
        """Read a provider's databag, which may be empty.

        Raises:
            DatabagError: a text is no JSON, or not what the schema asks for.
        """
        import jsonschema  # slow to import, and only the requirer needs it

        data: dict[str, Any] = {}
        for key in (_CONFIGURATION, _SERVICES, _PACKAGES):
            if databag.get(key):
                try:
                    data[key] = json.loads(databag[key])
                except (ValueError, RecursionError) as error:
                    raise DatabagError(f"{key}: no JSON") from error
        fault = next(jsonschema.Draft7Validator(DATABAG_SCHEMA).iter_errors(data), None)
        if fault is not None:
            place = ".".join(str(word) for word in fault.absolute_path)
            raise DatabagError(f"{place}: {fault.message[:200]}")
        configuration = data.get(_CONFIGURATION, {_SERVICE: {_CONFIG_FILE: {"sections": {}}}})
        sections = configuration[_SERVICE][_CONFIG_FILE]["sections"]
        releases: dict[str, Any] = data.get(_PACKAGES, {})
        release = next(iter(releases), None)
        packages = releases[release] if release is not None else {}
        return cls(
            sections={name: tuple((a, b) for a, b in pairs) for name, pairs in sections.items()},
            services=tuple(data.get(_SERVICES, ())),
            release=release,
            packages=tuple(packages.get("deb", {}).get("install", ())),
        )


class NovaVgpuProvides(ops.Object):
    """The subordinate's side."""

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME) -> None:
        super().__init__(charm, relation_name)
        self._charm = charm
        self._name = relation_name

    @property
    def is_related(self) -> bool:
        """Whether there is a principal to speak to."""
        return bool(self.model.relations[self._name])

    def restart_trigger(self, relation: ops.Relation) -> str:
        """Return the principal's latest trigger; empty if it has sent none."""
        triggers = (relation.data[unit].get(_TRIGGER, "") for unit in relation.units)
        return next(filter(None, triggers), "")

    def publish(self, data: ProviderData, *, keep_sections: bool = False) -> bool:
        """Write what differs; return whether anything did.

        Args:
            data: what to say.
            keep_sections: leave the sections that are published now, whatever `data` has.

        Raises:
            DatabagError: an option or a value would break out of its line.
        """
        databag = data.to_databag()
        if keep_sections:
            del databag[_CONFIGURATION]
        changed = False
        for relation in self.model.relations[self._name]:
            mine = relation.data[self._charm.unit]
            difference = {key: text for key, text in databag.items() if mine.get(key) != text}
            if difference:
                mine.update(difference)
                changed = True
        return changed

    def published(self) -> ProviderData:
        """Return what is published now; nothing if that cannot be read."""
        found = ProviderData()
        for relation in self.model.relations[self._name]:
            with contextlib.suppress(DatabagError):
                found = ProviderData.from_databag(relation.data[self._charm.unit])
        return found

    def withdraw(self) -> bool:
        """Take everything back, and nova.conf with it; return whether anything changed."""
        return self.publish(ProviderData())


class NovaVgpuRequires(ops.Object):
    """The principal's side."""

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME) -> None:
        super().__init__(charm, relation_name)
        self._charm = charm
        self._name = relation_name

    def provided(self) -> tuple[ProviderData, ...]:
        """Return what each subordinate says.

        Raises:
            DatabagError: one of them does not keep to the schema.
        """
        return tuple(
            ProviderData.from_databag(relation.data[unit])
            for relation in self.model.relations[self._name]
            for unit in relation.units
        )

    def trigger_restart(self, trigger: str) -> None:
        """Ask each subordinate to restart its services, once for each new text."""
        for relation in self.model.relations[self._name]:
            relation.data[self._charm.unit][_TRIGGER] = trigger
