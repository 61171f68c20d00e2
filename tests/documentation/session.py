# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The juju commands of the documents, run on one unit of the charm.

The unit is on a simulated or on a booted host. What `juju run` and `juju status` print is written
here as Juju 3 prints it to a pipe.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Callable, Protocol

import yaml

ROOT = Path(__file__).parents[2]
APP = "nova-compute-nvidia-vgpu"
PRINCIPAL = "nova-compute"
RESOURCE = "nvidia-vgpu-software"

_PACKAGE = re.compile(r"\./(?P<name>[a-z0-9-]+)_(?P<version>[0-9.]+)_(?P<architecture>\w+)\.deb")


class ActionError(Exception):
    """An action failed."""


class Host(Protocol):
    """A host with one unit of the charm."""

    def deploy(self) -> None:
        """Run the hooks of a new unit."""

    def integrate(self) -> None:
        """Relate the unit to nova-compute."""

    def attach(self, name: str, version: str, architecture: str) -> None:
        """Attach a package that has these fields."""

    def configure(self, **options: Any) -> None:
        """Set options, with _ for -; None resets one."""

    def action(self, name: str, **params: Any) -> dict[str, Any]:
        """Run an action; raise ActionError if it fails."""

    def refresh(self) -> None:
        """Upgrade the charm."""

    def remove(self) -> None:
        """Remove the unit."""

    def reboot(self) -> None:
        """Reboot the host."""

    def install(self, name: str, version: str) -> None:
        """Install a package of Ubuntu's archive."""

    def start_guest(self, parent: str, vgpu_type: str) -> None:
        """Start a guest that has a mediated device."""

    def end_guest(self) -> None:
        """Delete that guest."""

    @property
    def status(self) -> tuple[str, str]:
        """Level and message of the unit's status."""


class Session:
    """The commands of a document, one after another.

    Args:
        host: where they run.
        run_program: runs `sudo ...` and returns what it prints; None on a simulated host.
    """

    def __init__(self, host: Host, run_program: Callable[..., str] | None = None) -> None:
        self.host = host
        self._run_program = run_program
        self.files: dict[str, str] = {}
        self._options = yaml.safe_load((ROOT / "config.yaml").read_text())["options"]
        self._actions = yaml.safe_load((ROOT / "actions.yaml").read_text())

    def start(self) -> None:
        """Deploy the unit and relate it, for documents that do not show this."""
        self.host.deploy()
        self.host.integrate()

    def change_host(self, change: str) -> None:
        """Change the host in a way for which a document has no command: `reboot`."""
        name, *options = change.split()
        arguments = dict(option.split("=") for option in options)
        getattr(self.host, name.replace("-", "_"))(**arguments)

    @staticmethod
    def is_juju(command: str) -> bool:
        """Tell whether a command concerns the charm; Juju's other commands need a cloud."""
        words = command.split(" | ")[0].split()
        return words[0] == "juju" and len(words) > 2 and re.split("[/:]", words[2])[0] == APP

    def understands(self, command: str) -> bool:
        """Tell whether a command can be run here."""
        is_sudo = self._run_program is not None and command.startswith("sudo ")
        return is_sudo or self.is_juju(command)

    def run(self, command: str) -> str:
        """Run `juju ...` or `sudo ...`, and return what it prints."""
        command, *filters = command.split(" | grep ")
        words = [
            re.sub(r"\$\(cat (\S+)\)", lambda match: self.files[match[1]], word)
            for word in shlex.split(command)
        ]
        if words[0] == "sudo":
            assert self._run_program is not None, command
            lines = self._run_program(*words[1:]).splitlines()
        else:
            name = "_" + words[1].replace("-", "_")
            lines = getattr(self, name)(*words[2:]).splitlines()
        for text in filters:
            (pattern,) = shlex.split(text)
            lines = [line for line in lines if re.search(pattern, line)]
        return "\n".join(lines)

    def _deploy(self, app: str) -> str:
        assert app == APP
        self.host.deploy()
        return ""

    def _integrate(self, *endpoints: str) -> str:
        assert endpoints == (f"{APP}:nova-vgpu", f"{PRINCIPAL}:nova-vgpu"), endpoints
        self.host.integrate()
        return ""

    def _attach_resource(self, app: str, resource: str) -> str:
        name, _, path = resource.partition("=")
        match = _PACKAGE.fullmatch(path)
        assert (app, name) == (APP, RESOURCE), resource
        assert match is not None, path
        self.host.attach(**match.groupdict())
        return ""

    def _config(self, app: str, *settings: str) -> str:
        assert app == APP, app
        values: dict[str, Any] = {}
        if settings[0] == "--reset":
            values = dict.fromkeys(settings[1].split(","))
            settings = settings[2:]
        for setting in settings:
            name, _, value = setting.partition("=")
            if value.startswith("@"):
                value = self.files[value[1:]]
            is_boolean = self._options[name]["type"] == "boolean"
            values[name] = {"true": True, "false": False}[value] if is_boolean else value
        assert set(values) <= set(self._options), values
        self.host.configure(**{name.replace("-", "_"): value for name, value in values.items()})
        return ""

    def _run(self, unit: str, name: str, *params: str) -> str:
        assert unit == f"{APP}/0", unit
        values: dict[str, Any] = {}
        is_text = "--string-args" in params
        for param in (each for each in params if each != "--string-args"):
            key, _, value = param.partition("=")
            assert key in self._actions[name]["params"], param
            parsed = value if is_text else yaml.safe_load(value)
            values[key.replace("-", "_")] = parsed
        try:
            results = self.host.action(name, **values)
        except ActionError as error:
            return f"Action id 2 failed: {error}"
        if results.get("reboot", "").startswith("in "):
            self.host.reboot()
        return "\n".join(_shown(key, str(results[key])) for key in sorted(results))

    def _refresh(self, app: str) -> str:
        assert app == APP
        self.host.refresh()
        return ""

    def _remove_application(self, app: str) -> str:
        assert app == APP
        self.host.remove()
        return ""

    def _status(self, app: str) -> str:
        assert app == APP, app
        level, message = self.host.status
        rows = [
            ("Unit", "Workload", "Agent", "Machine", "Public address", "Ports", "Message"),
            (f"{PRINCIPAL}/0*", "active", "idle", "0", "10.0.0.11", "", "Unit is ready"),
            (f"  {APP}/0*", level, "idle", "", "10.0.0.11", "", message),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        return "\n".join(
            "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths)), row[6]])
            for row in rows
        )


def _shown(key: str, text: str) -> str:
    """Return a result of an action as juju prints it."""
    lines = text.splitlines()
    if len(lines) == 1:
        return yaml.safe_dump({key: text}, width=1000).rstrip("\n")
    return "\n".join([f"{key}: |-", *(f"  {line}".rstrip() for line in lines)])
