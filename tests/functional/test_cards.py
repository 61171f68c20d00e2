# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A card that cannot offer vGPUs, beside a good one, on a booted host."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from bed import principal

import recorded

T4, A40, OTHER = "0000:84:00.0", "0000:41:00.0", "0000:c1:00.0"


class Case(NamedTuple):
    """A card that cannot offer vGPUs, and what the unit says about it."""

    function: dict[str, Any]
    status: tuple[str, str]
    has_iommu: bool = True
    has_guest: bool = False


def a40(**changes: Any) -> dict[str, Any]:
    (card,) = recorded.host("a40-mdev")["functions"]
    return {**recorded.without_its_functions(card), "address": OTHER, **changes}


def bare(**changes: Any) -> dict[str, Any]:
    """Return a card for which the simulated driver has no types, so that it leaves it alone."""
    return {"address": OTHER, "id": "10de:1eb8", "class": "030200", **changes}


READY = "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type"
CASES = {
    "A card is bound to vfio-pci": Case(
        bare(driver="vfio-pci"),
        ("active", f"{READY}; {OTHER} uses vfio-pci; bind it to nvidia to offer vGPUs"),
    ),
    "A guest is defined with a whole card": Case(
        a40(),
        ("active", f"{READY}; {OTHER} belongs to guest instance-00000001; delete it to "
         "offer vGPUs"),
        has_guest=True,
    ),
    "A card is dead, so the driver does not bind to it": Case(
        bare(driver=None),
        ("blocked", f"No driver is bound to {OTHER}; see dmesg, and check the card"),
    ),
    "An RTX A5000 is in display mode, or SR-IOV is off in the BIOS": Case(
        bare(id="10de:2231", driver="nvidia"),
        ("blocked", f"SR-IOV is off on {OTHER}; enable it in the BIOS, or leave the card's "
         "display mode"),
    ),
    "The IOMMU is off, which virtual functions need": Case(
        a40(),
        ("blocked", f"{OTHER} needs an IOMMU; "),
        has_iommu=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_good_card_is_offered_and_the_other_one_named(boot, nvidia_deb, fault, name):
    case = CASES[name]
    t4 = next(card for card in recorded.host("t4-pair")["functions"] if "types" in card)
    data = recorded.host("a40-mdev", functions=[t4, case.function], iommu=case.has_iommu)
    with boot(data) as (host, unit):
        unit.store(nvidia_deb)
        unit.hook("install")
        host.reboot()
        if case.has_guest:
            recorded.define_guest(host.root, "instance-00000001", OTHER)
        unit.hook("start")
        unit.integrate()
        unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8'], A40-8Q: ['10de:2235', "
                       "'10de:2231']}")  # fmt: skip
        level, message = unit.status
        # The remedy depends on the processor.
        assert (level, message[: len(case.status[1])]) == case.status
        addresses = {
            section: dict(pairs)["device_addresses"]
            for section, pairs in principal.read(unit.databag)[0].items()
            if section.startswith("mdev_")
        }
        assert addresses == {"mdev_nvidia-233": T4}
        before = unit.databag
        unit.hook("update-status")
        assert (unit.status, unit.databag) == ((level, message), before)
        fault(name).record_status(level, case.status[1].removesuffix(" "))


def test_a_host_whose_only_card_is_on_vfio_pci_gets_no_driver(boot, nvidia_deb, fault):
    data = recorded.host("t4-fresh", functions=[bare(driver="vfio-pci")])
    with boot(data) as (host, unit):
        unit.store(nvidia_deb)
        for hook in ("install", "start"):
            unit.hook(hook)
        unit.integrate()
        unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
        assert unit.status[0] == "active"
        assert host.run("dpkg-query", "-W", "nvidia-vgpu-ubuntu-570", check=False).returncode
        fault("The only card of a host is bound to vfio-pci; no driver is installed").record(unit)


def test_a_program_that_uses_a_card_is_named(boot, nvidia_deb, fault):
    with boot(recorded.host("a40-mdev")) as (host, unit):
        unit.store(nvidia_deb)
        unit.hook("install")
        host.reboot()
        unit.hook("start")
        unit.integrate()
        host.run("mknod", "/dev/nvidia0", "c", "1", "3")
        client = "exec 5</dev/nvidia0; exec sleep infinity"
        host.run("systemd-run", "--unit", "nvidia-persistenced", "sh", "-c", client)
        (host.bed / "sriov-fault").write_text("echo 'Cannot obtain unbindLock'; exit 1\n")
        unit.configure(vgpu_device_mappings="{A40-8Q: ['10de:2235']}")
        assert f"No virtual functions on {A40}: nvidia-persistenced" in unit.status[1]
        row = fault("nvidia-persistenced uses a card whose virtual functions are to be enabled")
        row.record(unit)
        host.run("systemctl", "stop", "nvidia-persistenced")
        (host.bed / "sriov-fault").unlink()
        unit.hook_after_delay("update-status")
        assert unit.status[0] == "active"
        row.record_end(unit, "the program is stopped")
