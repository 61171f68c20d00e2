# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A demonstration of the charm: simulated compute hosts, the charm's own dispatch, real apt.

Run this with `make demo`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from bed import juju, kernel, machine, packages, principal

import recorded

HOST = "t4-fresh"
NOVA = 25
MAPPING = "{T4-8Q: ['10de:1eb8']}"
BAD_MAPPING = '{nvidia-233: ["0000:84:00.0\\nvirt_type=qemu"]}'
A40 = "One A40, jammy, caracal; mdev on its virtual functions"
A40_MAPPING = "{A40-8Q: ['10de:2235']}"
L40S = "One L40S, noble, epoxy; vendor-specific VFIO"
WHOLE_CARDS = "whole cards beside vGPUs, and a card with its network function"
BOTH_MAPPING = "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}"
PASSTHROUGH = (
    "{t4: ['10de:1eb8'], h200: {devices: ['10de:2335'], nics: ['15b3:1021'], "
    "numa-policy: required}}"
)
L40S_MAPPING = "{L40S-8Q: ['10de:26b9']}"
APP = "nova-compute-nvidia-vgpu"
ABOUT = """\
These hosts are SIMULATED: there is no GPU, no Juju and no real driver.
Simulated: the cards and their driver (as recorded), Juju's hook tools, NVIDIA's package.
Real: systemd, apt, dpkg, lspci, the principal's reader, Nova's options, and the charm itself.
"""


def main() -> int:
    reason = machine.why_unavailable()
    if reason:
        print(f"No host can be simulated here: it {reason}. Run `make demo` as root.")
        return 1
    host = recorded.host(HOST)
    cards = [function for function in host["functions"] if function.get("types")]
    print(ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        heading("Preparing the host; the first run takes half a minute")
        base, dependencies = machine.ensure_base(), machine.ensure_dependencies()
        principal.wheel(NOVA)
        print(f"  {host['description']}: {', '.join(card['address'] for card in cards)}")
        print(f"  root {base.name}, dependencies {dependencies.name}, both below build/\n")
        charm = juju.make_charm(Path(folder) / "charm")
        package = packages.build_nvidia(Path(folder))
        start = time.monotonic()
        with machine.Machine(host, charm) as compute:
            run_lifecycle(compute, juju.Juju(compute, machine.REPOSITORY), package)
            image = compute.save(Path(folder) / "image")
        if kernel.why_sys_is_static():
            print(f"No other hosts, because /sys is static here: {kernel.why_sys_is_static()}\n")
        else:
            show_other_hosts(charm, image)
    seconds = time.monotonic() - start
    print(f"Done in {seconds:.0f} s. The hosts are removed, without leftovers.")
    return 0


def run_lifecycle(compute: machine.Machine, unit: juju.Juju, package: Path) -> None:
    """Run a unit through its lifecycle and show the status after each step."""
    heading(f"$ juju deploy {APP}; juju integrate {APP}:nova-vgpu nova-compute:nova-vgpu")
    for hook in ("install", "config-changed", "start"):
        unit.hook(hook)
    unit.integrate()
    show(unit)

    heading(f"$ juju attach-resource {APP} nvidia-vgpu-software=./{package.name}")
    unit.attach(package)
    show(unit)

    heading(f"$ juju run {APP}/0 reboot-install i-really-mean-it=true")
    show_outcome(unit.action("reboot-install", i_really_mean_it=True))
    compute.reboot()
    unit.hook("start")
    show(unit)

    heading(f"$ juju run {APP}/0 list-vgpu-types")
    lines = unit.action("list-vgpu-types").results["output"].splitlines()
    shown = [line for line in lines if "T4-8" in line]
    print("\n".join(f"  {line}" for line in shown))
    print(f"  ... and {len(lines) - len(shown)} more\n")

    configure(unit, MAPPING)
    show_plan(unit)

    heading(f"$ juju config {APP} vgpu-device-mappings='{BAD_MAPPING}'   # an injection")
    before = unit.databag
    unit.configure(vgpu_device_mappings=BAD_MAPPING)
    show(unit)
    print(f"  published data unchanged: {unit.databag == before}\n")
    unit.configure(vgpu_device_mappings=MAPPING)

    heading(f"$ juju run {APP}/0 pause")
    show_outcome(unit.action("pause"))
    show(unit)

    heading(f"$ juju run {APP}/0 resume")
    show_outcome(unit.action("resume"))
    show(unit)

    heading("What the principal writes into /etc/nova/nova.conf")
    text = principal.render(principal.read(unit.databag)[0])
    print("\n".join(f"  {line}".rstrip() for line in text.strip().splitlines()) + "\n")

    version = recorded.host(HOST)["nova"]
    heading(f"What Nova {version} reads from it")
    for section, options in principal.nova_reads(text, NOVA).items():
        print(f"  [{section}] " + json.dumps(options))
    print()


def show_other_hosts(charm: Path, image: Path) -> None:
    """Show the other vGPU frameworks, on hosts that have the host software installed."""
    heading(f"Another host: {A40}\n")
    with other_host("a40-mdev", charm, image) as (compute, unit):
        configure(unit, A40_MAPPING)

        heading(
            f"$ sudo reboot; journalctl -b -u {APP}   # a boot resets the cards; no hook has run"
        )
        compute.reboot()
        options = ("-b", f"_SYSTEMD_UNIT={APP}.service", "-o", "cat", "--no-pager")
        for line in compute.run("journalctl", *options).stdout.splitlines():
            print(f"  {line}")
        print()

        show_plan(unit)

    heading(f"Another host: {L40S}\n")
    with other_host("l40s-vendor-vfio", charm, image) as (_, unit):
        configure(unit, L40S_MAPPING)
        show_plan(unit)

    heading(f"Another host: {WHOLE_CARDS}\n")
    with other_host("whole-cards", charm, image) as (_, unit):
        configure(unit, BOTH_MAPPING)
        heading(f'$ juju config {APP} passthrough-devices="{PASSTHROUGH}"')
        unit.configure(passthrough_devices=PASSTHROUGH)
        show(unit)
        show_plan(unit)
        heading(f"$ juju run {APP}/0 show-requests consumer=openstack")
        show_outcome(unit.action("show-requests", consumer="openstack"))


@contextlib.contextmanager
def other_host(name: str, charm: Path, image: Path) -> Iterator[tuple[machine.Machine, juju.Juju]]:
    host = recorded.host(name)
    with machine.Machine(host, charm, image) as compute:
        compute.install_nova(host["nova"])
        yield compute, juju.Juju(compute, machine.REPOSITORY)


def configure(unit: juju.Juju, mapping: str) -> None:
    heading(f'$ juju config {APP} vgpu-device-mappings="{mapping}"')
    unit.configure(vgpu_device_mappings=mapping)
    show(unit)


def show_plan(unit: juju.Juju) -> None:
    heading(f"$ juju run {APP}/0 show-plan")
    show_outcome(unit.action("show-plan"))


def heading(text: str) -> None:
    """Print a heading, in bold on a terminal."""
    print(f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)


def show(unit: juju.Juju) -> None:
    """Print the unit's status as `juju status` does."""
    level, message = unit.status
    rows = [
        ("Unit", "Workload", "Version", "Message"),
        ("nova-compute/0*", "active", "", "Unit is ready"),
        (f"  {APP}/0*", level, unit.workload_version, message),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths)]
        print("  " + "  ".join([*cells, row[3]]).rstrip())
    print(flush=True)


def show_outcome(outcome: juju.Outcome) -> None:
    """Print an action's outcome as `juju run` does."""
    if outcome.failed is not None:
        print(f"  Action failed: {outcome.failed}")
    for key, text in outcome.results.items():
        lines = text.splitlines() or [""]
        print(f"  {key}: {lines[0]}" if len(lines) == 1 else f"  {key}: |")
        for line in lines if len(lines) > 1 else []:
            print(f"    {line}".rstrip())
    print(flush=True)


if __name__ == "__main__":
    machine.enter_namespace()
    sys.exit(main())
