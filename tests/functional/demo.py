# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm at work, for people: simulated compute hosts, the charm's own dispatch, real apt.

Run it with `make demo`.
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
L40S_MAPPING = "{L40S-8Q: ['10de:26b9']}"
APP = "nova-compute-nvidia-vgpu"
ABOUT = """\
These hosts are SIMULATED: there is no GPU, no Juju and no real driver.
Stand-ins: the cards and their driver (as recorded), Juju's hook tools, NVIDIA's package.
Real: systemd, apt, dpkg, lspci, the principal's reader, Nova's options, and the charm itself.
"""


def main() -> int:
    reason = machine.why_not()
    if reason:
        print(f"No host can be simulated here: it {reason}. Run `make demo` as root.")
        return 1
    host = recorded.host(HOST)
    cards = [known for known in host["functions"] if known.get("types")]
    print(ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        say("Preparing the host; the first time this takes half a minute")
        base, dependencies = machine.ensure_base(), machine.ensure_dependencies()
        principal.wheel(NOVA)
        print(f"  {host['description']}: {', '.join(card['address'] for card in cards)}")
        print(f"  root {base.name}, dependencies {dependencies.name}, all below build/\n")
        charm = juju.make_charm(Path(folder) / "charm")
        package = packages.build_nvidia(Path(folder))
        start = time.monotonic()
        with machine.Machine(host, charm) as compute:
            live(compute, juju.Juju(compute, machine.REPOSITORY), package)
            image = compute.save(Path(folder) / "image")
        if kernel.why_still():
            print(f"No other host, since no /sys reacts here: {kernel.why_still()}\n")
        else:
            live_as_others(charm, image)
    seconds = time.monotonic() - start
    print(f"Done in {seconds:.0f} s. The hosts are gone, and left nothing behind.")
    return 0


def live(compute: machine.Machine, unit: juju.Juju, package: Path) -> None:
    """Go through a unit's life and show the status after each step."""
    say(f"$ juju deploy {APP}; juju integrate {APP}:nova-vgpu nova-compute:nova-vgpu")
    for hook in ("install", "config-changed", "start"):
        unit.hook(hook)
    unit.integrate()
    show(unit)

    say(f"$ juju attach-resource {APP} nvidia-vgpu-software=./{package.name}")
    unit.attach(package)
    show(unit)

    say(f"$ juju run {APP}/0 reboot-install i-really-mean-it=true")
    answer(unit.action("reboot-install", i_really_mean_it=True))
    compute.reboot()
    unit.hook("start")
    show(unit)

    say(f"$ juju run {APP}/0 list-vgpu-types")
    lines = unit.action("list-vgpu-types").results["output"].splitlines()
    shown = [line for line in lines if "T4-8" in line]
    print("\n".join(f"  {line}" for line in shown))
    print(f"  ... and {len(lines) - len(shown)} more\n")

    configure(unit, MAPPING)
    show_plan(unit)

    say(f"$ juju config {APP} vgpu-device-mappings='{BAD_MAPPING}'   # an injection")
    before = unit.databag
    unit.configure(vgpu_device_mappings=BAD_MAPPING)
    show(unit)
    print(f"  published data unchanged: {unit.databag == before}\n")
    unit.configure(vgpu_device_mappings=MAPPING)

    say(f"$ juju run {APP}/0 pause")
    answer(unit.action("pause"))
    show(unit)

    say(f"$ juju run {APP}/0 resume")
    answer(unit.action("resume"))
    show(unit)

    say("What the principal writes into /etc/nova/nova.conf")
    text = principal.render(principal.read(unit.databag)[0])
    print("\n".join(f"  {line}".rstrip() for line in text.strip().splitlines()) + "\n")

    version = recorded.host(HOST)["nova"]
    say(f"What Nova {version} reads in it")
    for section, options in principal.nova_reads(text, NOVA).items():
        print(f"  [{section}] " + json.dumps(options))
    print()


def live_as_others(charm: Path, image: Path) -> None:
    """Show the other ways in which cards offer vGPUs, on hosts that have all installed."""
    say(f"Another host: {A40}\n")
    with other("a40-mdev", charm, image) as (compute, unit):
        configure(unit, A40_MAPPING)

        say(f"$ sudo reboot; journalctl -b -u {APP}   # a boot takes all of it; no hook ran")
        compute.reboot()
        words = ("-b", f"_SYSTEMD_UNIT={APP}.service", "-o", "cat", "--no-pager")
        for line in compute.run("journalctl", *words).stdout.splitlines():
            print(f"  {line}")
        print()

        show_plan(unit)

    say(f"Another host: {L40S}\n")
    with other("l40s-vendor-vfio", charm, image) as (_, unit):
        configure(unit, L40S_MAPPING)
        show_plan(unit)


@contextlib.contextmanager
def other(name: str, charm: Path, image: Path) -> Iterator[tuple[machine.Machine, juju.Juju]]:
    host = recorded.host(name)
    with machine.Machine(host, charm, image) as compute:
        compute.install_nova(host["nova"])
        yield compute, juju.Juju(compute, machine.REPOSITORY)


def configure(unit: juju.Juju, mapping: str) -> None:
    say(f'$ juju config {APP} vgpu-device-mappings="{mapping}"')
    unit.configure(vgpu_device_mappings=mapping)
    show(unit)


def show_plan(unit: juju.Juju) -> None:
    say(f"$ juju run {APP}/0 show-plan")
    answer(unit.action("show-plan"))


def say(text: str) -> None:
    """Print a heading, in bold where somebody looks."""
    print(f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)


def show(unit: juju.Juju) -> None:
    """Print what `juju status` would."""
    level, message = unit.status
    rows = [
        ("Unit", "Workload", "Version", "Message"),
        ("nova-compute/0*", "active", "", "Unit is ready"),
        (f"  {APP}/0*", level, unit.version, message),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths)]
        print("  " + "  ".join([*cells, row[3]]).rstrip())
    print(flush=True)


def answer(outcome: juju.Outcome) -> None:
    """Print what `juju run` would."""
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
