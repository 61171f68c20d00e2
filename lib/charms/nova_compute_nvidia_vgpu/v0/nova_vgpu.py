# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Both sides of the relation `nova-vgpu`.

The relation is container-scoped: a subordinate charm that offers vGPUs provides it, and
nova-compute requires it. The provider's unit databag contains three JSON strings:

* `subordinate_configuration`: sections of nova.conf, as
  `{"nova": {"/etc/nova/nova.conf": {"sections": {NAME: [[OPTION, VALUE], ...]}}}}`;
* `services`: a list of systemd units to pause and resume together with nova-compute's own;
* `releases-packages-map`: the packages of each OpenStack release, as
  `{RELEASE: {"deb": {"install": [...], "purge": [...]}}}`.

The requirer's unit databag may contain `restart-trigger`, a value that changes whenever the
provider is to restart its services. The requirer may answer each change of the provider's databag
with a new trigger. Equal data must therefore give equal bytes; `ProviderData.to_databag` ensures
this.

In the provider:

    self.nova_vgpu = NovaVgpuProvides(self)
    ...
    sections = {"devices": [("enabled_mdev_types", "nvidia-35")]}
    self.nova_vgpu.publish(ProviderData(sections=sections))

In the requirer:

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
LIBPATCH = 3
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

# One line of printable text. The principal writes options, values and names into nova.conf without
# escaping, so a line break would inject another option.
_LINE = {"type": "string", "pattern": "^[^\\x00-\\x1f\\x7f]*$(?![\\s\\S])"}
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9@:._+-]*$(?![\\s\\S])"}
_NAMES = {"type": "array", "items": _NAME}

# JSON Schema (draft 7) of the provider's databag, with each text parsed as JSON.
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
        _SERVICES: _NAMES,
        _PACKAGES: {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "deb": {
                        "type": "object",
                        "properties": {"install": _NAMES, "purge": _NAMES},
                        "additionalProperties": False,
                    }
                },
                "additionalProperties": False,
            },
        },
    },
}


class DatabagError(ValueError):
    """A databag does not match the schema; the text names the element at fault."""


@dataclass(frozen=True)
class ProviderData:
    """The data that the provider publishes.

    Attributes:
        sections: the sections of nova.conf, each an ordered sequence of options and values.
        services: systemd units to pause and resume with nova-compute.
        release: codename of the installed OpenStack release, for `packages`.
        packages: packages that belong to that release.
    """

    sections: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    services: Sequence[str] = ()
    release: str | None = None
    packages: Sequence[str] = ()

    def to_databag(self) -> dict[str, str]:
        """Return the content of the databag; equal data gives equal bytes.

        Raises:
            DatabagError: a name or a value is not one line of printable text.
        """
        sections: dict[str, list[list[str]]] = {}
        for name, pairs in self.sections.items():
            sections[name] = [[option, value] for option, value in pairs]
            for text in (name, *(text for pair in pairs for text in pair)):
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
            DatabagError: a text is not JSON, or does not match the schema.
        """
        import jsonschema  # slow to import; only the requirer needs it

        data = cls._load(databag)
        error = next(jsonschema.Draft7Validator(DATABAG_SCHEMA).iter_errors(data), None)
        if error is not None:
            element = ".".join(str(key) for key in error.absolute_path)
            raise DatabagError(f"{element}: {error.message[:200]}")
        return cls._from_json(data)

    @classmethod
    def from_own_databag(cls, databag: Mapping[str, str]) -> ProviderData:
        """Read what this charm or an earlier one has published, without the slow schema.

        Raises:
            DatabagError: this charm would not publish such data.
        """
        try:
            data = cls._from_json(cls._load(databag))
            data.to_databag()
        except (AttributeError, KeyError, TypeError, ValueError) as cause:
            raise DatabagError(f"unexpected data: {cause}") from cause
        return data

    @staticmethod
    def _load(databag: Mapping[str, str]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key in (_CONFIGURATION, _SERVICES, _PACKAGES):
            if databag.get(key):
                try:
                    data[key] = json.loads(databag[key])
                except (ValueError, RecursionError) as cause:
                    raise DatabagError(f"{key}: not valid JSON") from cause
        return data

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> ProviderData:
        configuration = data.get(_CONFIGURATION, {_SERVICE: {_CONFIG_FILE: {"sections": {}}}})
        sections = configuration[_SERVICE][_CONFIG_FILE]["sections"]
        releases: dict[str, Any] = data.get(_PACKAGES, {})
        release = next(iter(releases), None)
        packages = releases[release] if release is not None else {}
        return cls(
            sections={
                name: tuple((option, value) for option, value in pairs)
                for name, pairs in sections.items()
            },
            services=tuple(data.get(_SERVICES, ())),
            release=release,
            packages=tuple(packages.get("deb", {}).get("install", ())),
        )


class NovaVgpuProvides(ops.Object):
    """The subordinate's side of the relation."""

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME) -> None:
        super().__init__(charm, relation_name)
        self._charm = charm
        self._name = relation_name

    @property
    def is_related(self) -> bool:
        """Whether the relation to the principal exists."""
        return bool(self.model.relations[self._name])

    def restart_trigger(self, relation: ops.Relation) -> str:
        """Return the principal's latest restart trigger; empty if it has sent none."""
        triggers = (relation.data[unit].get(_TRIGGER, "") for unit in relation.units)
        return next(filter(None, triggers), "")

    def publish(self, data: ProviderData, *, keep_sections: bool = False) -> bool:
        """Publish the data that differs; return whether any did.

        Args:
            data: the data to publish.
            keep_sections: keep the sections that are published now, and ignore those of `data`.

        Raises:
            DatabagError: a name or a value is not one line of printable text.
        """
        databag = data.to_databag()
        if keep_sections:
            del databag[_CONFIGURATION]
        changed = False
        for relation in self.model.relations[self._name]:
            published = relation.data[self._charm.unit]
            changes = {key: text for key, text in databag.items() if published.get(key) != text}
            if changes:
                published.update(changes)
                changed = True
        return changed

    def published(self) -> ProviderData:
        """Return the data that is published now; empty if it cannot be read."""
        data = ProviderData()
        for relation in self.model.relations[self._name]:
            with contextlib.suppress(DatabagError):
                data = ProviderData.from_own_databag(relation.data[self._charm.unit])
        return data

    def withdraw(self) -> bool:
        """Withdraw all data, including the sections of nova.conf; return whether any changed."""
        return self.publish(ProviderData())


class NovaVgpuRequires(ops.Object):
    """The principal's side of the relation."""

    def __init__(self, charm: ops.CharmBase, relation_name: str = DEFAULT_RELATION_NAME) -> None:
        super().__init__(charm, relation_name)
        self._charm = charm
        self._name = relation_name

    def provided(self) -> tuple[ProviderData, ...]:
        """Return the data of each subordinate.

        Raises:
            DatabagError: the data of a subordinate does not match the schema.
        """
        return tuple(
            ProviderData.from_databag(relation.data[unit])
            for relation in self.model.relations[self._name]
            for unit in relation.units
        )

    def trigger_restart(self, trigger: str) -> None:
        """Ask each subordinate to restart its services; a new value requests a new restart."""
        for relation in self.model.relations[self._name]:
            relation.data[self._charm.unit][_TRIGGER] = trigger
