# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that computes on its vGPU or whole card, also after a reboot of its host.

It needs real cards.
"""

from __future__ import annotations

import contextlib
import json
import re
import unittest
import urllib.request
from pathlib import Path
from typing import Iterator, Mapping

import zaza.model
from zaza.utilities import deployment_env

from target import cloud, fleet

# What the tests need, in the environment or in ~/.zaza.yaml below `runtime_config`.
NEEDS = {
    "TEST_NVIDIA_VGPU_HOST_SW": "path or URL of NVIDIA's host package, nvidia-vgpu-ubuntu-*.deb",
    "TEST_NVIDIA_VGPU_MAPPINGS": "vgpu-device-mappings of one type, e.g. {T4-8Q: ['10de:1eb8']}",
    "TEST_NVIDIA_VGPU_GUEST_IMAGE": "path of a qcow2 of Ubuntu with NVIDIA's guest driver",
}
# The same for whole cards, which need no package on the host.
WHOLE_CARD_NEEDS = {
    "TEST_NVIDIA_PASSTHROUGH": "passthrough-devices with one name, e.g. {t4: ['10de:1eb8']}",
    "TEST_NVIDIA_PASSTHROUGH_IMAGE": "path of a qcow2 of Ubuntu with NVIDIA's driver for the card",
}
OFFERED_WHOLE = r"Unit is ready: [1-9][0-9]* NVIDIA GPUs?, [1-9][0-9]* whole cards?(; .+)?"
OFFERED = r"Unit is ready: [1-9][0-9]* NVIDIA GPUs?, 1 vGPU type(; .+)?"


def why_skipped(needs: Mapping[str, str] = NEEDS) -> str:
    """Return what the tests lack; empty if they can run."""
    settings = deployment_env.get_deployment_context()
    missing = [f"{name} ({use})" for name, use in needs.items() if not settings.get(name)]
    return f"needs hosts with NVIDIA cards and {'; '.join(missing)}" if missing else ""


class GuestTest(unittest.TestCase):
    """Real cards, NVIDIA's real driver and a real guest; skipped unless all variables are set."""

    units: list[str]
    unit: str
    guest: cloud.Guest
    first: cloud.Verdict

    @classmethod
    def setUpClass(cls) -> None:
        reason = why_skipped()
        if reason:
            raise unittest.SkipTest(reason)
        settings = deployment_env.get_deployment_context()
        with contextlib.ExitStack() as stack:
            cls.units = [unit for unit in fleet.units() if fleet.plan(unit)["cards"]]
            if not cls.units:
                raise unittest.SkipTest("no compute host of the model has an NVIDIA card")
            # Do this first: the bundle's own mapping may match a card of the host.
            stack.enter_context(fleet.configured(settings["TEST_NVIDIA_VGPU_MAPPINGS"]))
            _attach(settings["TEST_NVIDIA_VGPU_HOST_SW"])
            for unit in cls.units:
                _load(unit)
                fleet.await_status(unit, "active", OFFERED)
            fleet.settle()
            plan = fleet.plan(cls.units[0])
            stack.enter_context(_aliases(plan["aliases"]))
            cls.guest = cloud.Guest(cloud.connect(), stack)
            cls.guest.create(settings["TEST_NVIDIA_VGPU_GUEST_IMAGE"], cloud.flavor_specs(plan))
            cls.unit = _unit_on(cls.guest.host)
            cls.first = cls.guest.await_verdict()
            cls.addClassCleanup(stack.pop_all().close)

    def test_1_the_types_of_the_cards_are_listed(self) -> None:
        for unit in self.units:
            lines = fleet.act(unit, "list-vgpu-types")["output"].splitlines()
            self.assertNotEqual(lines, [])
            for line in lines:
                self.assertRegex(
                    line, r"\A[a-z0-9-]+, [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7], "
                )

    def test_2_a_guest_adds_vectors_on_its_vgpu(self) -> None:
        self.assertEqual(self.first.result, "passed", self.first.text)

    def test_3_the_host_software_is_kept_while_a_guest_runs(self) -> None:
        before = fleet.run(self.unit, "dpkg-query -W 'nvidia-vgpu-ubuntu-*'")
        self.assertRegex(
            fleet.refused(self.unit, "pause"), "is in use; delete or migrate its guest"
        )
        self.assertRegex(
            fleet.refused(self.unit, "reboot-install"), "is in use; delete or migrate"
        )
        self.assertEqual(fleet.run(self.unit, "dpkg-query -W 'nvidia-vgpu-ubuntu-*'"), before)

    def test_4_the_guest_adds_vectors_again_after_a_reboot_of_its_host(self) -> None:
        before = fleet.boot_id(self.unit)
        fleet.run(self.unit, "systemd-run --on-active=5 systemctl reboot")
        fleet.await_boot(self.unit, before)
        fleet.await_status(self.unit, "active", OFFERED)
        self.guest.start_again()
        second = self.guest.await_verdict(after=self.first.boot)
        self.assertEqual(second.result, "passed", second.text)


class WholeCardTest(unittest.TestCase):
    """A real card that is given to a guest as a whole; skipped unless all variables are set."""

    unit: str
    guest: cloud.Guest
    first: cloud.Verdict

    @classmethod
    def setUpClass(cls) -> None:
        reason = why_skipped(WHOLE_CARD_NEEDS)
        if reason:
            raise unittest.SkipTest(reason)
        settings = deployment_env.get_deployment_context()
        with contextlib.ExitStack() as stack:
            passthrough = settings["TEST_NVIDIA_PASSTHROUGH"]
            stack.enter_context(fleet.configured(passthrough, fleet.PASSTHROUGH))
            fleet.settle()
            plans = {unit: fleet.plan(unit) for unit in fleet.units()}
            offering = [unit for unit in plans if plans[unit]["whole_cards"]]
            if not offering:
                raise unittest.SkipTest("no compute host of the model has such a card")
            for unit in offering:
                fleet.await_status(unit, "active", OFFERED_WHOLE)
            plan = fleet.plan(offering[0])
            stack.enter_context(_aliases(plan["aliases"]))
            cls.guest = cloud.Guest(cloud.connect(), stack)
            image = settings["TEST_NVIDIA_PASSTHROUGH_IMAGE"]
            cls.guest.create(image, cloud.flavor_specs(plan))
            cls.unit = _unit_on(cls.guest.host)
            cls.first = cls.guest.await_verdict()
            cls.addClassCleanup(stack.pop_all().close)

    def test_1_a_guest_adds_vectors_on_its_card(self) -> None:
        self.assertEqual(self.first.result, "passed", self.first.text)

    def test_2_the_card_of_the_guest_is_not_taken_back(self) -> None:
        with fleet.configured(None, fleet.PASSTHROUGH):
            fleet.settle()
            drivers = fleet.run(self.unit, "lspci -k -d 10de: | grep -c 'in use: vfio-pci'")
            self.assertNotEqual(drivers, "0")

    def test_3_the_guest_adds_vectors_again_after_a_reboot_of_its_host(self) -> None:
        before = fleet.boot_id(self.unit)
        fleet.run(self.unit, "systemd-run --on-active=5 systemctl reboot")
        fleet.await_boot(self.unit, before)
        fleet.await_status(self.unit, "active", OFFERED_WHOLE)
        self.guest.start_again()
        second = self.guest.await_verdict(after=self.first.boot)
        self.assertEqual(second.result, "passed", second.text)


def _attach(source: str) -> None:
    """Attach NVIDIA's package from a path or URL."""
    path = source
    if "://" in source:
        path = str(Path(deployment_env.get_tmpdir()) / source.rpartition("/")[2])
        urllib.request.urlretrieve(source, path)
    zaza.model.attach_resource(fleet.APPLICATION, fleet.RESOURCE, path)
    fleet.settle()


def _load(unit: str) -> None:
    """Install the host software and load its driver, with a reboot if necessary."""
    before = fleet.boot_id(unit)
    if fleet.act(unit, "reboot-install", i_really_mean_it=True)["reboot"] != "not needed":
        fleet.await_boot(unit, before)


@contextlib.contextmanager
def _aliases(aliases: list[dict[str, str]]) -> Iterator[None]:
    """Configure the aliases of vendor-specific VFIO on the controllers temporarily."""
    if not aliases:
        yield
        return
    controller, option = "nova-cloud-controller", "pci-alias"
    zaza.model.set_application_config(controller, {option: json.dumps(aliases)})
    fleet.settle()
    try:
        yield
    finally:
        zaza.model.reset_application_config(controller, [option])
        fleet.settle()


def _unit_on(host: str) -> str:
    """Return the charm's unit on a host, given its name with or without domain."""
    short = re.escape(host.partition(".")[0])
    for unit in fleet.units():
        if re.fullmatch(rf"{short}(\..*)?", fleet.run(unit, "hostname")):
            return unit
    raise AssertionError(f"no unit of {fleet.APPLICATION} is on {host}")
