# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whole cards on a booted host: offered, kept over boots, and refused with the reason."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from bed import kernel, principal

import recorded

pytestmark = pytest.mark.skipif(bool(kernel.why_sys_is_static()), reason="/sys is static here")

T4, OTHER_T4, NIC = "0000:84:00.0", "0000:d8:00.0", "0000:c1:00.0"
REQUEST = "{t4: ['84:00.0']}"


def functions(**changes: Any) -> list[dict[str, Any]]:
    """Return the functions of a host with two T4, with changes of the first."""
    first, second = (f for f in recorded.host("t4-pair")["functions"] if "types" in f)
    return [{**first, **changes}, second]


def specs(unit) -> list[str]:
    pairs = principal.read(unit.databag)[0].get("pci", ())
    values = [value for name, value in pairs if name in ("device_spec", "passthrough_whitelist")]
    return [json.loads(value)["address"] for value in values]


def driver_of(host, address: str) -> str | None:
    driver: str | None = host.driver.card(address)["driver"]
    return driver


def start(host, unit, nvidia_deb) -> None:
    unit.store(nvidia_deb)
    unit.hook("install")
    host.reboot()
    unit.hook("start")
    unit.integrate()


def test_a_card_is_given_away_beside_vgpus_and_again_after_each_boot(boot, nvidia_deb):
    with boot(recorded.host("t4-pair")) as (host, unit):
        start(host, unit, nvidia_deb)
        unit.configure(
            passthrough_devices=REQUEST, vgpu_device_mappings="{T4-8Q: ['0000:d8:00.0']}"
        )
        ready = ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type, 1 whole card")
        assert unit.status == ready
        assert (driver_of(host, T4), driver_of(host, OTHER_T4)) == ("vfio-pci", "nvidia")
        assert specs(unit) == [T4]
        before = unit.databag
        for boot_again in (host.reboot, host.power_on):
            boot_again()
            assert (driver_of(host, T4), driver_of(host, OTHER_T4)) == ("vfio-pci", "nvidia")
            early = host.run("systemctl", "is-active", "nova-compute-nvidia-vgpu-early")
            assert early.stdout.strip() == "active"
            unit.hook("start")
            assert (unit.status, unit.databag) == (ready, before)
        unit.configure(passthrough_devices="")
        assert driver_of(host, T4) == "nvidia"
        assert specs(unit) == []


def test_a_host_whose_cards_are_all_given_away_gets_no_driver(boot, nvidia_deb, fault):
    with boot(recorded.host("t4-fresh")) as (host, unit):
        unit.store(nvidia_deb)
        unit.configure(passthrough_devices="{t4: ['10de:1eb8']}")
        for hook in ("install", "start"):
            unit.hook(hook)
        unit.integrate()
        assert unit.status[1].startswith(f"Reboot needed: nouveau is bound to {T4}; ")
        host.reboot()
        unit.hook("start")
        assert unit.status == ("active", "Unit is ready: 2 NVIDIA GPUs, 2 whole cards")
        assert host.run("dpkg-query", "-W", "nvidia-vgpu-ubuntu-570", check=False).returncode
        fault("All cards of a host are given away whole; no driver is installed").record(unit)


class Case(NamedTuple):
    """A card that cannot be given away, and what the unit says about it."""

    functions: list[dict[str, Any]]
    status: str
    passthrough: str = REQUEST
    has_iommu: bool = True


CASES = {
    "A whole card is requested, but the IOMMU is off": Case(
        functions(), f"{T4} needs an IOMMU; ", has_iommu=False
    ),
    "A whole card is the boot display": Case(
        functions(**{"boot-vga": True}),
        f"{T4} is the boot display; choose another in the BIOS, then reboot",
    ),
    "A whole card shares its IOMMU group with a device that the host uses": Case(
        [
            *functions(**{"iommu-group": 1}),
            {"address": NIC, "id": "8086:1572", "class": "020000", "driver": "i40e",
             "iommu-group": 1},
        ],
        f"{T4} shares its IOMMU group with {NIC} (i40e); use another slot",
    ),
    "A network function is requested as a card": Case(
        [*functions(), {"address": NIC, "id": "8086:1572", "class": "020000", "driver": "i40e"}],
        f"{NIC} is a network function; list it under nics of a card",
        passthrough="{nic: ['c1:00.0']}",
    ),
    "A card is to be near a network function, but none is": Case(
        functions(),
        f"{T4} has no NIC of t4 within NODE; nearest: none on this host; "
        "change nics or nic-distance",
        passthrough="{t4: {devices: ['84:00.0'], nics: ['15b3:1021']}}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_card_that_cannot_be_given_away_keeps_its_driver_and_is_named(
    boot, nvidia_deb, fault, name
):
    case = CASES[name]
    data = recorded.host("t4-pair", functions=case.functions, iommu=case.has_iommu)
    with boot(data) as (host, unit):
        start(host, unit, nvidia_deb)
        unit.configure(passthrough_devices=case.passthrough)
        level, message = unit.status
        assert (level, message[: len(case.status)]) == ("blocked", case.status)
        assert driver_of(host, T4) == "nvidia"
        assert specs(unit) == []
        row = fault(name)
        row.record_status(level, case.status.removesuffix(" "))


def test_a_card_that_vfio_pci_refuses_goes_back_to_its_driver(boot, nvidia_deb, fault):
    with boot(recorded.host("t4-pair")) as (host, unit):
        start(host, unit, nvidia_deb)
        host.driver.unbindable.add(T4)
        unit.configure(passthrough_devices="{t4: ['10de:1eb8']}")
        assert driver_of(host, T4) == "nvidia"
        assert specs(unit) == [OTHER_T4]
        fault("vfio-pci refuses a whole card").record(unit)


def test_both_options_name_a_card(ready_host, fault):
    host, unit = ready_host
    unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
    before = unit.databag
    unit.configure(passthrough_devices=REQUEST)
    assert driver_of(host, T4) == "nvidia"
    assert unit.databag == before
    fault("Both options name a card").record(unit)
