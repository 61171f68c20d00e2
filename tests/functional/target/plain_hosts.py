# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm on hosts without a card: relation, options, statuses, actions and nova.conf."""

from __future__ import annotations

import re
import unittest

from target import fleet, nova

READY = re.escape("Unit is ready: no supported NVIDIA GPU found")
PAUSED = re.escape("Paused. Use 'resume' action to resume normal service.")
NO_TYPES = "No vGPU types: no supported NVIDIA GPU found"
# The mapping of the bundles, which zaza.openstack's test also expects.
BUNDLED = ("nvidia-108", "0000:c1:00.0")
BLOCK_FORM = """\
nvidia-35:
  - 0000:84:00.0
  - 0000:85:00.0
nvidia-36:
  - 0000:86:00.0
"""
# Written verbatim into nova.conf, the text after the line break would be another option.
BAD_MAPPING = '{nvidia-35: ["0000:84:00.0\\nvirt_type=qemu"]}'


class PlainHostTest(unittest.TestCase):
    """Compute hosts without cards; skipped if a host has one."""

    units: list[str]
    principals: list[str]
    prefix: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.units = fleet.units()
        cls.principals = fleet.principals()
        with_cards = [unit for unit in cls.units if fleet.plan(unit)["cards"]]
        if with_cards:
            raise unittest.SkipTest(f"these units have a card: {', '.join(with_cards)}")
        query = "dpkg-query -W -f '${Version}' nova-common"
        cls.prefix = nova.option_prefix(fleet.run(cls.principals[0], query))

    def test_each_compute_host_has_a_unit_that_is_ready(self) -> None:
        self.assertGreater(len(self.units), 0)
        self.assertEqual(len(self.units), len(self.principals))
        self.await_ready()

    def test_the_plain_form_reaches_nova_conf_unchanged(self) -> None:
        type_id, address = BUNDLED
        fleet.await_nova_conf(nova.offers, "a type")
        for conf in self.nova_confs():
            self.assertEqual(conf["devices"][f"enabled_{self.prefix}_types"], type_id)
            self.assertEqual(conf[f"{self.prefix}_{type_id}"]["device_addresses"], address)

    def test_a_change_reaches_nova_conf_and_nova_compute_keeps_running(self) -> None:
        first, second = f"{self.prefix}_nvidia-35", f"{self.prefix}_nvidia-36"
        with fleet.configured(BLOCK_FORM):
            fleet.await_nova_conf(lambda conf: second in conf, second)
            fleet.settle()
            for conf in self.nova_confs():
                types = conf["devices"][f"enabled_{self.prefix}_types"]
                self.assertEqual(types, "nvidia-35, nvidia-36")
                self.assertEqual(conf[first]["device_addresses"], "0000:84:00.0,0000:85:00.0")
                self.assertEqual(conf[second]["device_addresses"], "0000:86:00.0")
            for unit in self.principals:
                self.assertEqual(fleet.run(unit, "systemctl is-active nova-compute"), "active")

    def test_an_unset_option_leaves_no_type_in_nova_conf(self) -> None:
        with fleet.configured(None):
            fleet.await_nova_conf(lambda conf: not nova.offers(conf), "no type")
            self.await_ready()
        fleet.await_nova_conf(nova.offers, "a type")

    def test_an_invalid_value_blocks_the_units_and_changes_nothing(self) -> None:
        before = self.nova_confs()
        with fleet.configured(BAD_MAPPING):
            for unit in self.units:
                fleet.await_status(unit, "blocked", "vgpu-device-mappings: .+")
            fleet.settle()
            self.assertEqual(self.nova_confs(), before)
        self.await_ready()

    def test_without_a_card_there_are_no_types_to_list(self) -> None:
        for unit in self.units:
            self.assertEqual(fleet.act(unit, "list-vgpu-types")["output"], NO_TYPES)
            self.assertEqual(fleet.act(unit, "list-vgpu-types", format="json")["output"], "[]")

    def test_show_plan_evaluates_a_value_and_changes_nothing(self) -> None:
        before = self.nova_confs()
        for unit in self.units:
            plan = fleet.plan(unit, mappings="{nvidia-36: ['0000:86:00.0']}")
            types = [f"enabled_{self.prefix}_types", "nvidia-36"]
            self.assertEqual(plan["sections"]["devices"], [types])
            self.assertEqual(plan["problems"], [])
        fleet.settle()
        self.assertEqual(self.nova_confs(), before)

    def test_pause_and_resume(self) -> None:
        unit = self.units[0]
        fleet.act(unit, "pause")
        fleet.await_status(unit, "maintenance", PAUSED)
        fleet.act(unit, "resume")
        fleet.await_status(unit, "active", READY)

    def test_without_a_card_no_reboot_is_needed(self) -> None:
        unit = self.units[0]
        before = fleet.boot_id(unit)
        results = fleet.act(unit, "reboot-install", i_really_mean_it=True)
        self.assertEqual(results["reboot"], "not needed")
        self.assertRegex(results["output"], rf"\A{READY}\Z")
        self.assertEqual(fleet.boot_id(unit), before)

    def test_a_removed_relation_leaves_no_type_and_can_be_added_again(self) -> None:
        """Unset the option first, as the README advises: nova-compute misses the removal."""
        with fleet.configured(None):
            fleet.await_nova_conf(lambda conf: not nova.offers(conf), "no type")
            fleet.remove_relation()
            self.assertFalse(any(nova.offers(conf) for conf in self.nova_confs()))
            fleet.integrate()
        type(self).units = fleet.units()  # the new units have other numbers
        fleet.await_nova_conf(nova.offers, "a type")
        self.await_ready()

    def await_ready(self) -> None:
        for unit in self.units:
            fleet.await_status(unit, "active", READY)

    def nova_confs(self) -> list[nova.Sections]:
        return [fleet.nova_conf(unit) for unit in self.principals]
