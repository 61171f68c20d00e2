# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The compute hosts of a model, reached through Juju."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import time
from typing import Any, Callable, Iterator

import juju.errors
import zaza
import zaza.model

from target import nova

APPLICATION = "nova-compute-nvidia-vgpu"
PRINCIPAL = "nova-compute"
ENDPOINT = "nova-vgpu"
RESOURCE = "nvidia-vgpu-software"
MAPPINGS = "vgpu-device-mappings"
PASSTHROUGH = "passthrough-devices"
NOVA_CONF = "/etc/nova/nova.conf"
TIMEOUT = 900  # seconds for a change to reach nova.conf
PAUSE = 5  # seconds between two checks


def units() -> list[str]:
    """Return the charm's units, one on each compute host."""
    return [unit.entity_id for unit in zaza.model.get_units(APPLICATION)]


def principals() -> list[str]:
    """Return the units of nova-compute."""
    return [unit.entity_id for unit in zaza.model.get_units(PRINCIPAL)]


def run(unit: str, command: str) -> str:
    """Run a command as root on a unit's host; return its output without surrounding whitespace.

    A host that shuts down may never answer, so this has a timeout, which zaza lacks.
    """
    run_on_unit = zaza.sync_wrapper(zaza.model.async_run_on_unit, timeout=300)
    result = run_on_unit(unit, command, timeout=120)
    if result.get("Code", "0") != "0":
        raise AssertionError(f"{unit}: {command}: {result}")
    return str(result.get("Stdout", "")).strip()


def act(unit: str, name: str, **parameters: Any) -> dict[str, str]:
    """Run an action that must succeed; parameters have _ for -; return its results."""
    action = _action(unit, name, parameters)
    assert action.data["status"] == "completed", f"{unit}: {name}: {action.data}"
    return dict(action.data["results"])


def refused(unit: str, name: str, **parameters: Any) -> str:
    """Run an action that must fail; return its message, which Juju may deliver late."""
    action = _action(unit, name, parameters)
    assert action.data["status"] == "failed", f"{unit}: {name}: {action.data}"
    return str(await_until(lambda: action.data.get("message"), f"{unit}: {name}: a message"))


def _action(unit: str, name: str, parameters: dict[str, Any]) -> Any:
    action_params = {key.replace("_", "-"): value for key, value in parameters.items()}
    return zaza.model.run_action(unit, name, action_params=action_params)


def plan(unit: str, **parameters: Any) -> dict[str, Any]:
    """Return the output of show-plan as data."""
    return dict(json.loads(act(unit, "show-plan", format="json", **parameters)["output"]))


@contextlib.contextmanager
def configured(value: str | None, option: str = MAPPINGS) -> Iterator[None]:
    """Set an option temporarily; None unsets it."""
    before = zaza.model.get_application_config(APPLICATION)[option].get("value") or None
    _configure(option, value)
    try:
        yield
    finally:
        _configure(option, before)
        settle()


def _configure(option: str, value: str | None) -> None:
    if value is None:
        zaza.model.reset_application_config(APPLICATION, [option])
    else:
        zaza.model.set_application_config(APPLICATION, {option: value})


def remove_relation() -> None:
    """Remove the relation to nova-compute, which removes the units."""
    zaza.model.remove_relation(PRINCIPAL, ENDPOINT, f"{APPLICATION}:{ENDPOINT}")
    await_until(lambda: not units(), "no unit is left")


def integrate() -> None:
    """Relate to nova-compute, and wait for a unit on each of its hosts."""
    zaza.model.add_relation(PRINCIPAL, ENDPOINT, f"{APPLICATION}:{ENDPOINT}")
    await_until(lambda: len(units()) == len(principals()), "a unit on each compute host")


def settle() -> None:
    """Wait until all units of the model are idle."""
    zaza.model.block_until_all_units_idle()


def await_until(condition: Callable[[], Any], description: str, timeout: int = TIMEOUT) -> Any:
    """Evaluate a condition until its result is not empty; return the result."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(PAUSE)
    raise AssertionError(f"not within {timeout} seconds: {description}")


def statuses() -> dict[str, tuple[str, str]]:
    """Return the level and message of each subordinate unit of the model."""
    return {
        name: (unit["workload-status"]["status"], unit["workload-status"]["info"] or "")
        for application in zaza.model.get_status().applications.values()
        for principal in application["units"].values()
        for name, unit in principal["subordinates"].items()
    }


def await_status(unit: str, level: str, pattern: str) -> None:
    """Wait until a unit has a status level, and a message that fully matches a pattern."""
    status = ("", "")

    def is_there() -> bool:
        nonlocal status
        status = statuses().get(unit, status)
        return status[0] == level and re.fullmatch(pattern, status[1]) is not None

    try:
        await_until(is_there, f"{unit}: {level}: {pattern}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {status}") from None


def nova_conf(unit: str) -> nova.Sections:
    """Return the sections of nova.conf on a unit's host."""
    return nova.sections(run(unit, f"cat {NOVA_CONF}"))


def await_nova_conf(condition: Callable[[nova.Sections], bool], description: str) -> None:
    """Wait until the nova.conf of each compute host meets a condition."""
    await_until(lambda: all(condition(nova_conf(unit)) for unit in principals()), description)


def boot_id(unit: str) -> str:
    """Return the boot ID of a unit's host, which changes with each boot."""
    return run(unit, "cat /proc/sys/kernel/random/boot_id")


def await_boot(unit: str, before: str) -> None:
    """Wait until a unit's host has booted again and all units are idle.

    Physical hosts take many minutes, during which commands fail or hang.
    """
    unreachable = (juju.errors.JujuError, concurrent.futures.TimeoutError, AssertionError)

    def is_back() -> bool:
        with contextlib.suppress(*unreachable):
            return boot_id(unit) != before
        return False

    await_until(is_back, f"{unit}: another boot of its host", timeout=2 * TIMEOUT)
    settle()
