# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Juju as one unit of the charm sees it: the hook tools, and a dispatch for each event."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .machine import CHARM, CHARM_BASE, HERE, REPOSITORY, Machine, ensure_dependencies

UNIT = "nova-compute-nvidia-vgpu/0"
PRINCIPAL = "nova-compute/0"
RELATION = "nova-vgpu:1"
TOOLS = (
    *("action-fail", "action-get", "action-log", "action-set", "application-version-set"),
    *("config-get", "is-leader", "juju-log", "relation-get", "relation-ids", "relation-list"),
    *("relation-set", "resource-get", "status-get", "status-set"),
)


@dataclass
class Outcome:
    """The outcome of one event.

    Attributes:
        returncode: the exit code of the dispatch; 0 unless the unit is in error.
        calls: the calls of hook tools.
        log: the text that the event wrote to Juju's log.
        failed: the message of an action that failed.
        results: the results of an action.
    """

    returncode: int
    calls: list[str]
    log: str
    failed: str | None = None
    results: dict[str, str] = field(default_factory=dict)


class Juju:
    """One unit on one machine. Juju's state is a folder of small files that `hook-tool` reads."""

    def __init__(self, machine: Machine, repository: Path, **config: Any) -> None:
        self._machine = machine
        self._folder = machine.bed / "juju"
        tools = machine.bed / "tools"
        tools.mkdir()
        for name in ("hook-tool", "hook-write"):
            shutil.copy(HERE / name, tools / name)
        for name in TOOLS:
            (tools / name).symlink_to("hook-tool")
        options = yaml.safe_load((repository / "config.yaml").read_text())["options"]
        self._defaults = {name: option["default"] for name, option in options.items()}
        self._actions = yaml.safe_load((repository / "actions.yaml").read_text())
        if not (self._folder / "config.json").exists():  # the machine's image may have one
            for name in ("relations", "resources", "action"):
                (self._folder / name).mkdir()
            self._write("config.json", json.dumps({**self._defaults, **config}))

    def configure(self, **config: Any) -> Outcome:
        """Set options, with _ for -, and run config-changed; None resets an option."""
        options = json.loads(self._read("config.json"))
        for name, value in config.items():
            key = name.replace("_", "-")
            options[key] = self._defaults[key] if value is None else value
        self._write("config.json", json.dumps(options))
        return self.hook("config-changed")

    def attach(self, package: Path | None) -> Outcome:
        """Attach a file as the resource, and run upgrade-charm as Juju does."""
        self.store(package)
        return self.hook("upgrade-charm")

    def store(self, package: Path | None, name: str = "nvidia-vgpu.deb") -> None:
        """Put a file into Juju's store under a name; None removes it."""
        inside = "var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/resources"
        target = self._machine.root / inside / "nvidia-vgpu-software" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if package is not None:
            shutil.copyfile(package, target)
        path = "/" + str(target.relative_to(self._machine.root))
        self._write("resources/nvidia-vgpu-software", path if package is not None else "")

    def integrate(self) -> Outcome:
        """Relate to nova-compute and run the relation's hooks."""
        (self._folder / "relations" / RELATION).mkdir()
        self._write(f"relations/{RELATION}/remote", PRINCIPAL + "\n")
        self.hook("nova-vgpu-relation-created")
        self.hook("nova-vgpu-relation-joined")
        return self.hook("nova-vgpu-relation-changed")

    def trigger(self, trigger: str) -> Outcome:
        """Send a restart-trigger from the principal."""
        self._write(_databag(PRINCIPAL), json.dumps({"restart-trigger": trigger}))
        return self.hook("nova-vgpu-relation-changed")

    def hook(self, name: str) -> Outcome:
        """Run the dispatch for a hook."""
        return self._dispatch(f"hooks/{name}", self.variables(name))

    def hook_after_delay(self, name: str) -> Outcome:
        """Run the dispatch for a hook, once what failed is due to be tried again."""
        path = self._machine.root / "var/lib/nova-compute-nvidia-vgpu/state.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        for failed in (state["installation"], state["preparation"]):
            failed["failed_at"] -= failed["delay"]
        path.write_text(json.dumps(state), encoding="utf-8")
        return self.hook(name)

    def action(self, name: str, **params: Any) -> Outcome:
        """Run the dispatch for an action; parameters have _ for -."""
        declared = self._actions[name].get("params", {})
        values = {
            key: option["default"] for key, option in declared.items() if "default" in option
        }
        values.update({key.replace("_", "-"): value for key, value in params.items()})
        self._write("action/params.json", json.dumps(values))
        for leftover in ("failed", "results.json"):
            (self._folder / "action" / leftover).unlink(missing_ok=True)
        env = {"JUJU_ACTION_NAME": name, "JUJU_ACTION_UUID": "1", "JUJU_HOOK_NAME": ""}
        outcome = self._dispatch(f"actions/{name}", env)
        outcome.failed = self._read("action/failed").rstrip("\n") or None
        outcome.results = json.loads(self._read("action/results.json") or "{}")
        return outcome

    @property
    def status(self) -> tuple[str, str]:
        """The unit's status and message, without the time of a next try."""
        level, _, message = self._read("status").partition("\n")
        return level, re.sub(r"next try [0-9:]+", "next try HH:MM", message.rstrip("\n"))

    @property
    def workload_version(self) -> str:
        """The workload's version."""
        return self._read("version").strip()

    @property
    def databag(self) -> dict[str, str]:
        """The data that the unit has published to the principal."""
        return dict(json.loads(self._read(_databag(UNIT)) or "{}"))

    def variables(self, hook: str) -> dict[str, str]:
        """Return the environment variables that Juju sets for this hook only."""
        variables = {"JUJU_HOOK_NAME": hook}
        if "-relation-" in hook:
            variables |= {"JUJU_RELATION": "nova-vgpu", "JUJU_RELATION_ID": RELATION}
            variables["JUJU_REMOTE_APP"] = PRINCIPAL.split("/")[0]
            if not hook.endswith("-created"):
                variables["JUJU_REMOTE_UNIT"] = PRINCIPAL
            if hook.endswith("-departed"):
                variables["JUJU_DEPARTING_UNIT"] = PRINCIPAL
        return variables

    def environment(self, path: str, extra: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment that Juju gives to a hook."""
        return {
            "PATH": "/bed/tools:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOOK_TOOLS_STATE": "/bed/juju",
            "JUJU_DISPATCH_PATH": path,
            "JUJU_CHARM_DIR": f"/{CHARM}",
            "JUJU_UNIT_NAME": UNIT,
            "JUJU_MODEL_NAME": "openstack",
            "JUJU_MODEL_UUID": "6f6d5a5e-0000-4000-8000-000000000001",
            "JUJU_VERSION": "3.6.12",
            "JUJU_PRINCIPAL_UNIT": PRINCIPAL,
            **(extra or {}),
        }

    def _dispatch(self, path: str, env: dict[str, str]) -> Outcome:
        for name in ("calls", "log"):
            (self._folder / name).write_text("")
        before = self._read(_databag(UNIT))
        result = self._machine.run(
            "./dispatch", check=False, env=self.environment(path, env), cwd=f"/{CHARM}"
        )
        if result.returncode != 0 and self._read(_databag(UNIT)) != before:
            self._write(
                _databag(UNIT), before or "{}"
            )  # Juju discards the changes of a failed hook
        log = (self._folder / "log").read_text() + result.stdout + result.stderr
        return Outcome(result.returncode, (self._folder / "calls").read_text().splitlines(), log)

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")


def _databag(unit: str) -> str:
    return f"relations/{RELATION}/{unit.replace('/', '-')}.json"


def make_charm(target: Path, base: str = CHARM_BASE) -> Path:
    """Lay out a base's charm as Juju unpacks it: the files that charmcraft packs."""
    target.mkdir(parents=True, exist_ok=True)
    parts = yaml.safe_load((REPOSITORY / "charmcraft.yaml").read_text(encoding="utf-8"))["parts"]
    no_bytecode = shutil.ignore_patterns("__pycache__")
    for name in parts["charm"]["prime"]:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=no_bytecode)
        elif source.exists():  # `version` is missing: only packing writes it
            shutil.copy(source, target / name)
    shutil.copytree(ensure_dependencies(base), target / "venv", ignore=no_bytecode)
    return target


def unpack_charm(charm: Path, target: Path) -> Path:
    """Unpack a packed charm as Juju does."""
    with zipfile.ZipFile(charm) as archive:
        for entry in archive.infolist():
            path = Path(archive.extract(entry, target))
            path.chmod(entry.external_attr >> 16 & 0o777)
    return target
