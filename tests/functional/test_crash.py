# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A hook or a boot service that is killed, and a host that loses power, at every step it takes.

The next hook ends in the state of a run that nobody disturbed.
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

pytestmark = pytest.mark.skipif(bool(kernel.why_still()), reason="no /sys reacts here")

HERE = Path(__file__).parent
# What hooks and the boot service have as Python.
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
_LOOK = """\
import glob, json, os, subprocess
found = {}
for place in ("/etc/systemd/system", "/etc/modprobe.d", "/var/lib/nova-compute-nvidia-vgpu",
              "/run/nova-compute-nvidia-vgpu", "/run/systemd/system"):
    for folder, _, names in os.walk(place):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif "nvidia" in path:
                found[path] = open(path).read()
for unit in ("nvidia-vgpu-mgr", "nova-compute-nvidia-vgpu"):
    words = ["systemctl", "show", "-p", "ActiveState,UnitFileState,NeedDaemonReload", unit]
    found[unit] = sorted(subprocess.check_output(words, text=True).splitlines())
words = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\\n"]
rows = subprocess.check_output(words, text=True).splitlines()
found["packages"] = [row for row in rows if "nvidia" in row or "linux-" in row or "dkms" in row]
found["types"] = {path: open(path).read()
                  for path in glob.glob("/sys/bus/pci/devices/*/nvidia/current_vgpu_type")}
print(json.dumps(found))
"""

# What memory.json holds besides only spares work, and may be lost.
_REMEMBERED = ("paused", "answered_trigger", "restart_waits", "wish", "fulfilled", "has_reported")

# Steps whose outcome is gone with the power: on the cards, and in memory.
_VOLATILE = re.compile(r" /(?:run|sys)/|sriov-manage|nvidia-smi mig")

Event = Callable[[juju.Juju], juju.Outcome]


class Life(NamedTuple):
    """What happens to a unit: on which host, undisturbed events, and then which event.

    A host that is ready has NVIDIA's driver and the relation. What is due at a boot is looked at
    after one more, since power may have been lost before the event was known.
    """

    host: str
    event: Event
    before: tuple[Event, ...] = ()
    is_ready: bool = True
    is_due_at_boot: bool = False


def state(host: machine.Machine, unit: juju.Juju) -> dict[str, Any]:
    """Return all that an event may have changed, on the host and in what others are told."""
    found: dict[str, Any] = json.loads(host.run("python3", "-c", _LOOK).stdout)
    for path, text in found.items():
        if path.endswith("memory.json"):
            known = json.loads(text)
            found[path] = {key: known[key] for key in _REMEMBERED}
    cards = {}
    for known in host.driver.host["functions"]:
        if known.get("types"):  # a pending mode that is there is none
            mig = {key: each for key, each in known.get("mig", {}).items() if key != "pending"}
            cards[known["address"]] = {**known, "mig": mig}
    return {**found, "status": unit.status, "databag": unit.databag, "cards": cards}


@pytest.fixture(scope="session")
def image(boot, ready_image, nvidia_deb, tmp_path_factory):
    """Returns what a host is like before the event of a life."""

    @lru_cache(maxsize=None)
    def made(name: str) -> Path:
        life = LIVES[name]
        host = recorded.host(life.host)
        with boot(host, ready_image if life.is_ready else None) as (booted, unit):
            if not life.is_ready:
                unit.store(nvidia_deb)
            booted.install_nova(host["nova"])
            for event in life.before:
                event(unit)
            for path, text in (
                ("usr/local/bin/python3", _PYTHON),
                ("etc/systemd/system/nova-compute-nvidia-vgpu.service.d/crash.conf", _DROP_IN),
            ):
                (booted.root / path).parent.mkdir(parents=True, exist_ok=True)
                (booted.root / path).write_text(text)
                (booted.root / path).chmod(0o755)
            return booted.save(tmp_path_factory.mktemp("image") / "life")

    return made


@pytest.fixture(scope="session")
def lived(boot, image):
    """Runs a life with a crash at a step, and the event again; returns steps and state."""

    def run(name: str, step: int = 0, how: str = "kill") -> tuple[list[str], dict[str, Any]]:
        life = LIVES[name]
        with boot(life.host, image(name)) as (host, unit):
            shutil.copy(HERE / "bed/crash.py", host.bed)
            (host.bed / "tools/python3").symlink_to("/usr/local/bin/python3")
            (host.bed / "crash").write_text(json.dumps({"step": step, "how": how}))
            life.event(unit)
            steps = (host.bed / "steps").read_text().splitlines()
            assert (host.bed / "crash").exists() == (step == 0), f"never came to step {step}"
            (host.bed / "crash").unlink(missing_ok=True)
            if how == "power":
                host.power_on()
            if how == "power" or step:
                assert life.event(unit).returncode == 0
            if how == "power" and life.is_due_at_boot:
                host.reboot()
                life.event(unit)
            return steps, state(host, unit)

    return run


def configured(text: str) -> Event:
    return lambda unit: unit.configure(vgpu_device_mappings=text)


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
# As few on a card as there can be: 2 or 3 types, 3 GPU instances.
L40S_24, L40S_16 = (configured(f"{{L40S-{size}Q: ['10de:26b9']}}") for size in (24, 16))
A100 = configured("{A100-2-10C: ['10de:20f1']}")
LIVES = {
    "the first install": Life("t4-fresh", hook("install"), is_ready=False, is_due_at_boot=True),
    "another branch": Life(
        "t4-fresh", attached(branch="580", version="580.159.01"), (T4,), is_due_at_boot=True
    ),
    "mediated devices on a card": Life("t4-fresh", T4),
    "mediated devices on functions": Life("a40-mdev", A40),
    "types on functions": Life("l40s-vendor-vfio", L40S_16),
    "another type": Life("l40s-vendor-vfio", L40S_16, (L40S_24,)),
    "GPU instances": Life("a100-sriov-off", A100),
    "the option unset": Life("l40s-vendor-vfio", configured(""), (L40S_24,), is_due_at_boot=True),
    "pause": Life("a40-mdev", action("pause"), (A40,), is_due_at_boot=True),
    "resume": Life("a40-mdev", action("resume"), (A40, action("pause")), is_due_at_boot=True),
    "remove": Life("a40-mdev", hook("remove"), (A40,), is_due_at_boot=True),
}
QUICK = ("mediated devices on functions",)


@pytest.mark.parametrize("name", LIVES)
def test_whatever_the_step_the_next_hook_ends_as_if_nothing_had_been(
    lived, fault, pytestconfig, name
):
    if name not in QUICK and not pytestconfig.getoption("--every-crash"):
        pytest.skip("takes minutes: --every-crash")
    steps, undisturbed = lived(name)
    _, after_boot = lived(name, how="power")
    expected = {"kill": undisturbed, "power": after_boot}
    crashes = [("kill", number) for number in range(1, len(steps) + 1)]
    # Before a step that follows one which power takes back anyway, nothing is new to it.
    crashes += [
        ("power", number)
        for number, before in enumerate(["", *steps[:-1]], 1)
        if not _VOLATILE.search(before)
    ]

    def crash(how: str, number: int) -> list[str]:
        """Return what differs from an undisturbed run."""
        _, found = lived(name, number, how)
        return [
            f"{how} at {number}, {steps[number - 1]}: {key}\n"
            f"    undisturbed {expected[how].get(key)!r}\n    found       {found.get(key)!r}"
            for key in sorted(found.keys() | expected[how].keys())
            if found.get(key) != expected[how].get(key)
        ]

    with ThreadPoolExecutor(2) as pool:
        left = [line for lines in pool.map(lambda each: crash(*each), crashes) for line in lines]
    assert not left, "\n" + "\n".join(left)
    for how, what in (("kill", "kill -9 at any step"), ("power", "power is lost at any step")):
        row = fault(f"{what}: {name}")
        row.seen_as(*expected[how]["status"])
