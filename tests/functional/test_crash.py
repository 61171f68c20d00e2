# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A hook or a boot service that is killed, and a host that loses power, at every step.

The next hook ends in the same state as an undisturbed run.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from bed import juju, kernel, machine, packages

import recorded

pytestmark = pytest.mark.skipif(bool(kernel.why_sys_is_static()), reason="/sys is static here")

HERE = Path(__file__).parent
# The Python that hooks and the boot service run on.
_PYTHON = """\
#!/bin/sh
[ -e /bed/crash ] && exec /usr/bin/python3 -S -W ignore /bed/crash.py "$@"
exec /usr/bin/python3 "$@"
"""
_DROP_IN = f"""\
[Service]
ExecStart=
ExecStart=/usr/local/bin/python3 -W ignore /{machine.CHARM}/src/boot.py
"""
_INSPECT = """\
import glob, json, os, subprocess
state = {}
for place in ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/etc/modprobe.d",
              "/var/lib/nova-compute-nvidia-vgpu", "/run/nova-compute-nvidia-vgpu",
              "/run/systemd/system"):
    for folder, _, names in os.walk(place):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                state[path] = os.readlink(path)
            elif "nvidia" in path and not path.endswith(".deb"):  # kept one event later
                state[path] = open(path, errors="replace").read()
for unit in ("nvidia-vgpu-mgr", "nova-compute-nvidia-vgpu"):
    command = ["systemctl", "show", "-p", "ActiveState,UnitFileState,NeedDaemonReload", unit]
    state[unit] = sorted(subprocess.check_output(command, text=True).splitlines())
command = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\\n"]
rows = subprocess.check_output(command, text=True).splitlines()
state["packages"] = [row for row in rows if "nvidia" in row or "linux-" in row or "dkms" in row]
state["types"] = {path: open(path).read()
                  for path in glob.glob("/sys/bus/pci/devices/*/nvidia/current_vgpu_type")}
print(json.dumps(state))
"""

# The other entries of state.json only avoid repeated effort, and may be lost.
_COMPARED = (
    "paused", "handled_restart_trigger", "restart_pending", "reported_in_placement",
    "requested_passthrough",
)  # fmt: skip
_COMPARED_MAPPING = ("requested", "published", "requested_report_in_placement")

# Steps whose outcome a power failure undoes: changes of the cards and of files in memory.
_VOLATILE = re.compile(r" /(?:run|sys)/|sriov-manage|nvidia-smi mig")

Event = Callable[[juju.Juju], juju.Outcome]


class Scenario(NamedTuple):
    """A host, the undisturbed events on it, and the event that is disturbed.

    A ready host has NVIDIA's driver and the relation. If the outcome is due at a boot, it is
    compared after another boot, since power may have failed before the event took effect.
    """

    host: str
    event: Event
    before: tuple[Event, ...] = ()
    is_ready: bool = True
    is_due_at_boot: bool = False


def state(host: machine.Machine, unit: juju.Juju) -> dict[str, Any]:
    """Return everything that an event may change, on the host and in what the unit reports."""
    host_state: dict[str, Any] = json.loads(host.run("python3", "-c", _INSPECT).stdout)
    for path, text in host_state.items():
        if path.endswith(("state.json", "state-copy.json")):
            entries = json.loads(text)
            mapping = {key: entries["mapping"][key] for key in _COMPARED_MAPPING}
            host_state[path] = {**{key: entries[key] for key in _COMPARED}, "mapping": mapping}
    cards = {}
    for function in host.driver.host["functions"]:
        if function.get("types"):  # ignore the pending MIG mode
            mig = {
                key: value for key, value in function.get("mig", {}).items() if key != "pending"
            }
            cards[function["address"]] = {**function, "mig": mig}
    return {**host_state, "status": unit.status, "databag": unit.databag, "cards": cards}


@pytest.fixture(scope="session")
def image(boot, ready_image, nvidia_deb, tmp_path_factory):
    """Returns an image of a host before the disturbed event of a scenario."""

    @lru_cache(maxsize=None)
    def build(name: str) -> Path:
        scenario = SCENARIOS[name]
        host = recorded.host(scenario.host)
        with boot(host, ready_image if scenario.is_ready else None) as (booted, unit):
            if not scenario.is_ready:
                unit.store(nvidia_deb)
            booted.install_nova(host["nova"])
            for event in scenario.before:
                event(unit)
            for path, text in (
                ("usr/local/bin/python3", _PYTHON),
                ("etc/systemd/system/nova-compute-nvidia-vgpu.service.d/crash.conf", _DROP_IN),
            ):
                (booted.root / path).parent.mkdir(parents=True, exist_ok=True)
                (booted.root / path).write_text(text)
                (booted.root / path).chmod(0o755)
            return booted.save(tmp_path_factory.mktemp("image") / "scenario")

    return build


@pytest.fixture(scope="session")
def run_scenario(boot, image):
    """Runs a scenario with a crash at a step, then the event again; returns steps and state."""

    def run(name: str, step: int = 0, how: str = "kill") -> tuple[list[str], dict[str, Any]]:
        scenario = SCENARIOS[name]
        with boot(scenario.host, image(name)) as (host, unit):
            shutil.copy(HERE / "bed/crash.py", host.bed)
            (host.bed / "tools/python3").symlink_to("/usr/local/bin/python3")
            (host.bed / "crash").write_text(json.dumps({"step": step, "how": how}))
            scenario.event(unit)
            steps = (host.bed / "steps").read_text().splitlines()
            assert (host.bed / "crash").exists() == (step == 0), f"step {step} was not reached"
            (host.bed / "crash").unlink(missing_ok=True)
            if how == "power":
                host.power_on()
            if how == "power" or step:
                assert scenario.event(unit).returncode == 0
            if how == "power" and scenario.is_due_at_boot:
                host.reboot()
                scenario.event(unit)
            return steps, state(host, unit)

    return run


def configured(text: str) -> Event:
    return lambda unit: unit.configure(vgpu_device_mappings=text)


def given_away(text: str) -> Event:
    return lambda unit: unit.configure(passthrough_devices=text)


def hook(name: str) -> Event:
    return lambda unit: unit.hook(name)


def action(name: str) -> Event:
    return lambda unit: unit.action(name)


def attached(**options: str) -> Event:
    def event(unit: juju.Juju) -> juju.Outcome:
        with tempfile.TemporaryDirectory() as folder:
            return unit.attach(packages.build_nvidia(Path(folder), **options))

    return event


T4, A40 = configured("{T4-8Q: ['10de:1eb8']}"), configured("{A40-8Q: ['10de:2235']}")
# Few per card, to be quick: 2 or 3 vGPUs, 3 GPU instances.
L40S_24, L40S_16 = (configured(f"{{L40S-{size}Q: ['10de:26b9']}}") for size in (24, 16))
A100 = configured("{A100-2-10C: ['10de:20f1']}")
SCENARIOS = {
    "first install": Scenario("t4-fresh", hook("install"), is_ready=False, is_due_at_boot=True),
    "another branch": Scenario(
        "t4-fresh", attached(branch="580", version="580.159.01"), (T4,), is_due_at_boot=True
    ),
    "mediated devices on a card": Scenario("t4-fresh", T4),
    "mediated devices on virtual functions": Scenario("a40-mdev", A40),
    "types on virtual functions": Scenario("l40s-vendor-vfio", L40S_16),
    "another type": Scenario("l40s-vendor-vfio", L40S_16, (L40S_24,)),
    "GPU instances": Scenario("a100-sriov-off", A100),
    "unset the option": Scenario(
        "l40s-vendor-vfio", configured(""), (L40S_24,), is_due_at_boot=True
    ),
    "a whole card": Scenario("t4-fresh", given_away("{t4: ['84:00.0']}")),
    "a whole card that is returned": Scenario(
        "t4-fresh", given_away(""), (given_away("{t4: ['84:00.0']}"),)
    ),
    "pause": Scenario("a40-mdev", action("pause"), (A40,), is_due_at_boot=True),
    "resume": Scenario("a40-mdev", action("resume"), (A40, action("pause")), is_due_at_boot=True),
    "remove": Scenario("a40-mdev", hook("remove"), (A40,), is_due_at_boot=True),
}
QUICK = ("mediated devices on virtual functions",)


@pytest.mark.parametrize("name", SCENARIOS)
def test_after_a_crash_at_any_step_the_next_hook_reaches_the_undisturbed_state(
    run_scenario, fault, pytestconfig, name
):
    if name not in QUICK and not pytestconfig.getoption("--every-crash"):
        pytest.skip("takes minutes: --every-crash")
    steps, undisturbed = run_scenario(name)
    _, after_boot = run_scenario(name, how="power")
    expected = {"kill": undisturbed, "power": after_boot}
    crashes = [("kill", number) for number in range(1, len(steps) + 1)]
    # Skip a step after one that a power failure undoes: its outcome is that of the earlier step.
    crashes += [
        ("power", number)
        for number, before in enumerate(["", *steps[:-1]], 1)
        if not _VOLATILE.search(before)
    ]

    def crash(how: str, number: int) -> list[str]:
        """Return the differences from an undisturbed run."""
        _, actual = run_scenario(name, number, how)
        return [
            f"{how} at {number}, {steps[number - 1]}: {key}\n"
            f"    undisturbed {expected[how].get(key)!r}\n    actual      {actual.get(key)!r}"
            for key in sorted(actual.keys() | expected[how].keys())
            if actual.get(key) != expected[how].get(key)
        ]

    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(lambda arguments: crash(*arguments), crashes)
        differences = [line for lines in outcomes for line in lines]
    assert not differences, "\n" + "\n".join(differences)
    for how, event in (("kill", "kill -9 at any step"), ("power", "Power fails at any step")):
        row = fault(f"{event}: {name}")
        row.record_status(*expected[how]["status"])
