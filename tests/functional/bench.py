# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of a hook and of the boot service, on booted hosts.

Run this with `make bench`, which packs the charm first. A hook is compared with that of a charm
that does nothing: both run with the shipped dependencies, the same dispatch and the same hook
tools, in pairs. The boot service is compared with a service that only starts Python, in the same
boots. The tables list first what does not depend on the machine: the number of calls of hook tools
and of other programs, and of the files and folders that are opened below /sys.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from bed import juju, machine, packages

import recorded

RUNS = 15
# The event, whether the option gets a new value in each run, and the bound on the ratio.
EVENTS = (
    ("update-status", False, 1.3),
    ("nova-vgpu-relation-changed", False, 1.4),
    ("nova-vgpu-relation-joined", False, 1.4),
    ("config-changed", False, 1.7),
    ("config-changed", True, 1.7),
)
MEMORY = 8.0  # MiB more than the no-op charm


class Case(NamedTuple):
    """A host to measure on.

    Attributes:
        host: a recorded host, or a host derived from one.
        mapping: the value of the option.
        at_most: the bound on all ratios, for a host larger than the recorded ones.
        fault: what sriov-manage does on a host that cannot be repaired.
    """

    host: dict[str, Any]
    mapping: str
    at_most: float | None = None
    fault: str = ""


def with_cards(name: str, number: int) -> dict[str, Any]:
    """Return a recorded host with several of its card, without virtual functions."""
    host = recorded.without_functions(name)
    (card,) = host["functions"]
    functions = [
        {**card, "address": f"0000:{0x10 + 8 * index:02x}:00.0"} for index in range(number)
    ]
    return {**host, "functions": functions}


def largest(name: str) -> dict[str, Any]:
    """Return a recorded host with its card repeated 16 times, with 48 virtual functions each."""
    host = recorded.host(name)
    (card,) = host["functions"]
    functions = [
        {
            **card,
            "address": f"0000:{0x10 + 8 * number:02x}:00.0",
            "sriov": {**card["sriov"], "total": 48, "enabled": 48},
        }
        for number in range(16)
    ]
    about = f"16 cards with 48 virtual functions each, otherwise: {host['description']}"
    return {**host, "functions": functions, "description": about}


CASES = (
    Case(recorded.host("no-gpu"), "{T4-8Q: ['10de:1eb8']}"),
    Case(recorded.host("t4-fresh"), "{T4-8Q: ['10de:1eb8']}"),
    Case(largest("a40-mdev"), "{A40-8Q: ['10de:2235']}", at_most=2.5),
    Case(largest("l40s-vendor-vfio"), "{L40S-8Q: ['10de:26b9']}", at_most=2.5),
    Case(
        with_cards("a40-mdev", 8),
        "{A40-8Q: ['10de:2235']}",
        fault="echo 'Cannot obtain unbindLock'; exit 1\n",
    ),
)
# The host, the mapping, and the bound on the files that are opened below /sys.
BOOT_CASES = (
    ("no card is mapped", with_cards("l40s-vendor-vfio", 1), "", 100),
    *(
        (f"{number} L40S", with_cards("l40s-vendor-vfio", number), "{L40S-8Q: ['10de:26b9']}",
         600 * number)
        for number in (1, 2, 4, 8)
    ),
    ("16 L40S with 48 functions", largest("l40s-vendor-vfio"), "{L40S-8Q: ['10de:26b9']}",
     16 * 900),
)  # fmt: skip
BOOTS = 5
_FLOOR = """\
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -S -c pass
[Install]
WantedBy=multi-user.target
"""
# Counts what the program of the boot service opens.
COUNTER = """\
import atexit, os, runpy, sys
count = 0
def note(event, arguments):
    global count
    if event in ("open", "os.listdir", "os.scandir"):
        count += str(arguments[0]).startswith("/sys/")
sys.addaudithook(note)
atexit.register(lambda: open("/bed/count", "w").write(str(count)))
sys.argv = [sys.argv[1]]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NO_OP = """\
#!/usr/bin/env python3
import ops


class NoOpCharm(ops.CharmBase):
    pass


if __name__ == "__main__":
    ops.main(NoOpCharm)
"""

SHIM = """\
#!/bin/sh
echo {name} >>/bed/programs
PATH=/usr/sbin:/usr/bin:/sbin:/bin exec {name} "$@"
"""
# Runs on the host, to exclude the time to enter it: the two charms in turn, in alternating order.
METER = """\
import json, os, resource, subprocess, sys, time
task = json.load(sys.stdin)
def once(folder, number):
    if task["new_values"]:
        config = {**task["config"], "vgpu-device-mappings": task["mapping"] + f" # {number}"}
        json.dump(config, open("/bed/juju/config.json", "w"))
    start = time.perf_counter()
    process = subprocess.Popen(["./dispatch"], cwd=folder, env=task["env"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    return {"seconds": time.perf_counter() - start, "mebibytes": usage.ru_maxrss / 1024,
            "status": status}
rows = []
for number in range(task["runs"] + 2):
    pair = {}
    for name in sorted(task["folders"], reverse=number % 2):
        pair[name] = once(task["folders"][name], number)
    rows.append(pair)
json.dump(rows[2:], open("/bed/rows", "w"))
"""


def main(packed: Path) -> int:
    reason = machine.why_unavailable()
    if reason:
        print(f"No host can be booted here: it {reason}.")
        return 1
    print(f"{packed.name}\n")
    is_exceeded = False
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            charm = juju.unpack_charm(packed, Path(folder) / "charm")
            package = packages.build_nvidia(Path(folder))
            with machine.Machine(case.host, charm, reacts=False) as host:
                unit = juju.Juju(host, machine.REPOSITORY)
                unit.store(package)
                unit.hook("install")
                host.reboot()
                unit.hook("start")
                unit.integrate()
                if case.fault:
                    (host.bed / "sriov-fault").write_text(case.fault)
                unit.configure(vgpu_device_mappings=case.mapping)
                unit.hook("update-status")
                print(f"{case.host['description']}\n{unit.status[0]}: {unit.status[1]}\n")
                is_exceeded |= measure(host, unit, add_no_op(charm, host), case)
    print(f"Medians of {RUNS} pairs; in brackets: calls of hook tools by the no-op charm.\n")
    is_exceeded |= measure_boots(packed)
    print("BOUND EXCEEDED" if is_exceeded else "within bounds")
    return int(is_exceeded)


def add_no_op(charm: Path, host: machine.Machine) -> str:
    """Add a charm that does nothing to the host, in the same environment as the charm."""
    target = host.bed / "no-op"
    shutil.copytree(charm, target)
    shutil.rmtree(target / "lib/charms")
    for file in (target / "src").glob("*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    (target / "src/charm.py").write_text(NO_OP)
    (target / "src/charm.py").chmod(0o755)
    (target / ".unit-state.db").unlink(missing_ok=True)
    return "/bed/no-op"


def measure(host: machine.Machine, unit: juju.Juju, no_op: str, case: Case) -> bool:
    """Measure each event and print a table; return whether a bound is exceeded."""
    heading = ("EVENT", "HOOK TOOLS", "PROGRAMS", "NO-OP ms", "CHARM ms", "RATIO", "BOUND", "+MiB")
    rows: list[tuple[str, ...]] = [heading]
    is_exceeded = False
    for event, has_new_value, usual in EVENTS:
        if case.fault and has_new_value:
            continue  # a new value is tried at once, which takes as long as it takes
        bound = case.at_most or usual
        outcome = unit.hook(event)
        programs = count_programs(host, unit, event)
        folders = {"charm": f"/{machine.CHARM}", "no-op": no_op}
        env = unit.environment(f"hooks/{event}", unit.variables(event))
        task = {"env": env, "folders": folders, "runs": RUNS, "new_values": has_new_value}
        task |= {
            "mapping": case.mapping,
            "config": json.loads((host.bed / "juju/config.json").read_text()),
        }
        pairs = time_pairs(host, task)
        ratio = statistics.median(
            row["charm"]["seconds"] / row["no-op"]["seconds"] for row in pairs
        )
        memory = statistics.median(
            row["charm"]["mebibytes"] - row["no-op"]["mebibytes"] for row in pairs
        )
        is_exceeded |= ratio > bound or memory > MEMORY
        no_op_calls = count_no_op_calls(host, unit, event, no_op)
        rows.append(
            (
                event + (", new value" if has_new_value else ""),
                f"{len(outcome.calls)} ({no_op_calls})",
                str(programs),
                f"{median_ms(pairs, 'no-op'):.0f}",
                f"{median_ms(pairs, 'charm'):.0f}",
                f"{ratio:.2f}",
                f"{bound:.1f}",
                f"{memory:.1f}",
            )
        )
    print_table(rows)
    return is_exceeded


def measure_boots(packed: Path) -> bool:
    """Measure the boot service and print a table; return whether a bound is exceeded."""
    rows: list[tuple[str, ...]] = [
        ("BOOT", "OPENED BELOW /sys", "BOUND", "FLOOR ms", "SERVICE ms")
    ]
    is_exceeded = False
    for name, data, mapping, bound in BOOT_CASES:
        with tempfile.TemporaryDirectory() as folder:
            charm = juju.unpack_charm(packed, Path(folder) / "charm")
            package = packages.build_nvidia(Path(folder))
            with machine.Machine(data, charm) as host:
                unit = juju.Juju(host, machine.REPOSITORY)
                unit.store(package)
                for hook in ("install", "start"):
                    unit.hook(hook)
                    host.reboot()
                unit.integrate()
                unit.configure(vgpu_device_mappings=mapping)
                opened = count_opened(host)
                floor, service = time_boots(host)
        is_exceeded |= opened > bound
        rows.append((name, str(opened), str(bound), f"{floor:.0f}", f"{service:.0f}"))
    print_table(rows)
    print(f"Medians of {BOOTS} boots.")
    return is_exceeded


def count_opened(host: machine.Machine) -> int:
    """Return how many files and folders below /sys a boot opens until the cards are prepared."""
    host.run("systemctl", "disable", machine.BOOT_SERVICE)
    host.reboot()
    (host.bed / "counter.py").write_text(COUNTER)
    charm = f"/{machine.CHARM}"
    env = {"PYTHONPATH": f"{charm}/lib:{charm}/venv"}
    program = ("/bed/counter.py", f"{charm}/src/boot.py")
    host.run("/usr/bin/python3", "-S", "-W", "ignore", *program, env=env)
    host.run("systemctl", "enable", machine.BOOT_SERVICE)
    return int((host.bed / "count").read_text())


def time_boots(host: machine.Machine) -> tuple[float, float]:
    """Return the milliseconds that a service that does nothing takes at boot, and the charm's."""
    (host.root / "etc/systemd/system/floor.service").write_text(_FLOOR)
    host.run("systemctl", "enable", "floor.service")
    times: dict[str, list[float]] = {"floor.service": [], machine.BOOT_SERVICE: []}
    for _ in range(BOOTS):
        host.reboot()
        for service, milliseconds in times.items():
            start, end = (
                int(host.run("systemctl", "show", "--value", "-p", name, service).stdout)
                for name in ("ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
            )
            milliseconds.append((end - start) / 1000)
    floor, service_time = map(statistics.median, times.values())
    return floor, service_time


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
    print()


def median_ms(pairs: list[dict[str, Any]], name: str) -> float:
    return 1000 * statistics.median(row[name]["seconds"] for row in pairs)


def time_pairs(host: machine.Machine, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Run both charms in turn on the host and return the measurements."""
    (host.bed / "task.json").write_text(json.dumps(task))
    (host.bed / "meter.py").write_text(METER.replace("sys.stdin", "open('/bed/task.json')"))
    host.run("python3", "/bed/meter.py")
    return list(json.loads((host.bed / "rows").read_text()))


def count_no_op_calls(host: machine.Machine, unit: juju.Juju, event: str, no_op: str) -> int:
    """Count the calls of hook tools by ops itself."""
    calls = host.bed / "juju/calls"
    calls.write_text("")
    env = unit.environment(f"hooks/{event}", unit.variables(event))
    host.run("./dispatch", env=env, cwd=no_op)
    return len(calls.read_text().splitlines())


def count_programs(host: machine.Machine, unit: juju.Juju, event: str) -> int:
    """Count the programs that the charm starts besides hook tools, by their names on the PATH."""
    shims = host.root / "usr/local/sbin"
    names = ("lspci", "systemctl", "dpkg", "dpkg-deb", "apt-get", "apt-cache", "modprobe")
    kept = {name: (shims / name).read_text() for name in names if (shims / name).exists()}
    for name in names:
        (shims / name).write_text(SHIM.format(name=name))
        (shims / name).chmod(0o755)
    (host.bed / "programs").write_text("")
    unit.hook(event)
    for name in names:
        (shims / name).unlink()
        if name in kept:
            (shims / name).write_text(kept[name])
            (shims / name).chmod(0o755)
    return len((host.bed / "programs").read_text().splitlines())


if __name__ == "__main__":
    machine.enter_namespace()
    sys.exit(main(Path(sys.argv[1])))
