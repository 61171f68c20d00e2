# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that are given to guests as a whole: bound, offered, kept over boots, and returned."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import ready

T4, A100, L40S, H200 = "0000:3b:00.0", "0000:5e:00.0", "0000:86:00.0", "0000:af:00.0"
NIC = "0000:b1:00.0"
DISPLAY, AUDIO = "0000:d8:00.0", "0000:d8:00.1"
MAPPING = "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}"


def configure(unit, passthrough, mapping="", **options):
    config = {"passthrough-devices": passthrough, "vgpu-device-mappings": mapping, **options}
    unit.change(config=config)
    unit.hook("config_changed")


def driver_of(unit, address):
    return unit.machine.driver.card(address)["driver"]


def pci(unit, option):
    """Return the values of an option of [pci], as JSON data."""
    return [json.loads(value) for name, value in unit.sections["pci"] if name == option]


def used_by_program(unit, file="/dev/nvidia0"):
    process = unit.machine.root / "proc/55"
    (process / "fd").mkdir(parents=True)
    (process / "fd/9").symlink_to(file)
    (process / "comm").write_text("nvidia-persiste\n")


def number_cards(unit, *cards):
    """Show which of its devices belongs to which card, as the driver does."""
    for number, card in enumerate(cards):
        path = unit.machine.root / f"proc/driver/nvidia/gpus/{card}/information"
        path.parent.mkdir(parents=True)
        path.write_text(f"Device Minor: \t {number}\n")


@pytest.fixture
def unit(deploy):
    return deploy("whole-cards")


# Offering


def test_host_offers_whole_cards_beside_vgpus_of_both_frameworks(unit):
    configure(unit, "{t4: ['10de:1eb8'], h200: ['af:00.0']}", MAPPING)
    assert unit.status == ready("5 NVIDIA GPUs, 2 vGPU types, 2 whole cards")
    assert [driver_of(unit, address) for address in (T4, A100, L40S, H200)] == [
        "vfio-pci", "nvidia", "nvidia", "vfio-pci",
    ]  # fmt: skip
    assert len(unit.device_addresses("nvidia-696")) == 4
    specs = pci(unit, "device_spec")
    assert len(specs) == 6 + 2
    assert specs[-2:] == [
        {"address": T4, "managed": "no"},
        {"address": H200, "managed": "no"},
    ]
    assert pci(unit, "alias") == [
        {"name": "L40S-8Q", "device_type": "type-VF", "vendor_id": "10de", "product_id": "26b9"},
        {"name": "t4", "device_type": "type-PCI", "vendor_id": "10de", "product_id": "1eb8"},
        {"name": "h200", "device_type": "type-PF", "vendor_id": "10de", "product_id": "2335"},
    ]
    unit.assert_converged()


def test_whole_cards_and_vgpus_return_after_a_boot(unit):
    configure(unit, "{t4: ['10de:1eb8'], h200: ['af:00.0']}", MAPPING)
    before = unit.databag
    unit.machine.reboot()
    assert [driver_of(unit, address) for address in (T4, A100, L40S, H200)] == [
        "vfio-pci", "nvidia", "nvidia", "vfio-pci",
    ]  # fmt: skip
    unit.hook("start")
    assert unit.databag == before


def test_decimal_ids_as_cluster_api_for_vsphere_writes_them_select_a_card(unit):
    configure(unit, "{t4: [{vendor-id: 4318, device-id: 7864}]}")
    assert driver_of(unit, T4) == "vfio-pci"
    assert unit.status == ready("5 NVIDIA GPUs, 1 whole card")


def test_numa_policy_and_resource_class_reach_nova(unit):
    text = "{t4: {devices: ['3b:00.0'], numa-policy: required, resource-class: CUSTOM_GPU}}"
    configure(unit, text, **{"report-in-placement": True})
    assert unit.sections["pci"] == [
        ["report_in_placement", "true"],
        ["device_spec", f'{{"address": "{T4}", "managed": "no", "resource_class": "CUSTOM_GPU"}}'],
        [
            "alias",
            '{"name": "t4", "device_type": "type-PCI", "vendor_id": "10de", "product_id": "1eb8", '
            '"numa_policy": "required", "resource_class": "CUSTOM_GPU"}',
        ],
    ]


def test_class_in_placement_is_derived_from_the_name(unit):
    configure(unit, "{t4.small: ['3b:00.0']}", **{"report-in-placement": True})
    assert pci(unit, "alias")[0]["resource_class"] == "CUSTOM_T4_SMALL"


@pytest.mark.parametrize(
    ("nova", "option", "spec"),
    [
        ("3:25.2.1-0ubuntu2.7", "passthrough_whitelist", {"address": T4}),
        ("3:30.0.0-0ubuntu1", "device_spec", {"address": T4}),
        ("3:31.0.0-0ubuntu1", "device_spec", {"address": T4, "managed": "no"}),
    ],
)
def test_device_spec_has_the_keys_of_the_release(deploy, nova, option, spec):
    unit = deploy("whole-cards", nova=nova)
    configure(unit, "{t4: ['3b:00.0']}")
    assert pci(unit, option) == [spec]


def test_host_with_whole_cards_only_gets_no_nvidia_package(deploy, tmp_path):
    host = recorded.without_driver("t4-pair")
    unit = deploy(host)
    unit.set_resource(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    unit.change(config={"passthrough-devices": "{t4: ['10de:1eb8']}"})
    unit.hook("install")
    unit.hook("config_changed")
    assert unit.status == ready("2 NVIDIA GPUs, 2 whole cards")
    assert not unit.machine.did("apt-get")


def test_device_that_the_host_does_not_have_is_for_other_hosts(unit):
    configure(unit, "{h100: ['10de:2331'], t4: ['3b:00.0', '99:00.0']}")
    assert unit.status == ready("5 NVIDIA GPUs, 1 whole card")
    assert pci(unit, "device_spec") == [{"address": T4, "managed": "no"}]


def test_functions_of_the_board_travel_with_the_card(deploy):
    functions = [
        {**function, "boot-vga": False} for function in recorded.host("whole-cards")["functions"]
    ]
    unit = deploy("whole-cards", functions=functions)
    configure(unit, "{a6000: ['10de:2230']}")
    assert [driver_of(unit, address) for address in (DISPLAY, AUDIO)] == ["vfio-pci", "vfio-pci"]
    assert pci(unit, "device_spec") == [{"address": DISPLAY, "managed": "no"}]
    configure(unit, "")
    assert [driver_of(unit, address) for address in (DISPLAY, AUDIO)] == [
        "nvidia",
        "snd_hda_intel",
    ]


# Changing


def test_card_that_is_no_longer_named_goes_back_to_its_driver(unit):
    configure(unit, "{t4: ['3b:00.0']}")
    configure(unit, "")
    assert driver_of(unit, T4) == "nvidia"
    assert unit.sections == {}
    unit.machine.reboot()
    assert driver_of(unit, T4) == "nvidia"


def test_card_that_lost_vfio_pci_in_a_killed_hook_gets_its_driver_at_the_next_event(unit):
    configure(unit, "{t4: ['3b:00.0']}")
    unit.machine.driver.bind(T4, None)
    configure(unit, "")
    assert driver_of(unit, T4) == "nvidia"
    assert T4 not in unit.machine.driver.overrides


def test_card_that_had_not_got_vfio_pci_in_a_killed_hook_loses_its_override(unit):
    configure(unit, "{t4: ['3b:00.0']}")
    unit.machine.driver.bind(T4, "nvidia")
    configure(unit, "")
    assert driver_of(unit, T4) == "nvidia"
    assert T4 not in unit.machine.driver.overrides


def test_card_that_a_guest_is_defined_with_stays_until_the_guest_is_deleted(unit):
    configure(unit, "{t4: ['3b:00.0']}")
    unit.machine.define_guest(T4)
    configure(unit, "")
    assert driver_of(unit, T4) == "vfio-pci"
    unit.machine.define_guest()
    unit.hook("update_status")
    assert driver_of(unit, T4) == "nvidia"


def test_card_that_an_operator_has_bound_is_offered_but_never_released(unit):
    unit.machine.driver.bind(T4, "vfio-pci")
    configure(unit, "{t4: ['3b:00.0']}")
    assert pci(unit, "device_spec") == [{"address": T4, "managed": "no"}]
    configure(unit, "")
    assert driver_of(unit, T4) == "vfio-pci"


def test_card_changes_from_vgpus_to_a_whole_card_and_back(unit):
    configure(unit, "", MAPPING)
    configure(unit, "{l40s: ['86:00.0']}", "{A100D-20C: ['10de:20b5']}")
    assert driver_of(unit, L40S) == "vfio-pci"
    assert pci(unit, "device_spec") == [{"address": L40S, "managed": "no"}]
    configure(unit, "", MAPPING)
    assert driver_of(unit, L40S) == "nvidia"
    assert len(unit.device_specs()) == 6
    assert unit.status == ready("5 NVIDIA GPUs, 2 vGPU types")


def test_card_with_vgpus_of_guests_is_not_taken_from_them(unit):
    configure(unit, "", MAPPING)
    unit.machine.define_guest("0000:86:00.5")
    unit.hook("update_status")
    before = unit.databag
    configure(unit, "{l40s: ['86:00.0']}", "{A100D-20C: ['10de:20b5']}")
    assert driver_of(unit, L40S) == "nvidia"
    assert unit.databag == before
    assert unit.status == testing.WaitingStatus(
        "Guests have vGPUs on 0000:86:00.0; delete or migrate them to give the card away whole"
    )
    unit.machine.define_guest()
    unit.hook("update_status")
    assert driver_of(unit, L40S) == "vfio-pci"


def test_guests_with_mediated_devices_keep_their_card(unit):
    configure(unit, "", MAPPING)
    unit.start_guest("0000:5e:00.4", "nvidia-696", UUIDS[0])
    configure(unit, "{a100: ['5e:00.0']}", "{L40S-8Q: ['10de:26b9']}")
    assert driver_of(unit, A100) == "nvidia"
    assert UUIDS[0] in unit.machine.facts.in_use


def test_vgpus_stay_published_while_only_they_have_to_wait(unit):
    """A mapping that is not valid keeps its own part, and whole cards are offered beside it."""
    configure(unit, "", MAPPING)
    vgpus = unit.sections
    configure(unit, "{t4: ['3b:00.0']}", "{L40S-8Q: nonsense}")
    assert unit.status.name == "blocked"
    assert unit.sections["mdev_nvidia-696"] == vgpus["mdev_nvidia-696"]
    assert unit.sections["pci"][: len(vgpus["pci"])] == vgpus["pci"]
    assert pci(unit, "device_spec")[-1] == {"address": T4, "managed": "no"}
    configure(unit, "{t4: nonsense}", "{L40S-8Q: ['10de:26b9']}")
    assert "mdev_nvidia-696" not in unit.sections
    assert pci(unit, "device_spec")[-1] == {"address": T4, "managed": "no"}
    assert driver_of(unit, T4) == "vfio-pci"


# Values that are wrong on this host


@pytest.mark.parametrize(
    ("passthrough", "mapping", "message"),
    [
        (
            "{a: ['10de:1eb8'], b: ['3b:00.0']}",
            "",
            "passthrough-devices: 0000:3b:00.0 is mapped to both a and b; remove one",
        ),
        (
            "{t4: ['3b:00.0']}",
            "{T4-8Q: ['10de:1eb8']}",
            "0000:3b:00.0: remove it from t4 in passthrough-devices, or from T4-8Q in "
            "vgpu-device-mappings",
        ),
        (
            "{gpu: ['3b:00.0', 'af:00.0']}",
            "",
            "gpu: 0000:af:00.0 and 0000:3b:00.0 differ in SR-IOV; use two names in "
            "passthrough-devices",
        ),
        (
            "{t4: {devices: ['3b:00.0'], resource-class: CUSTOM_T4}}",
            "",
            "resource-class of t4 needs report-in-placement=true (irreversible); set it or "
            "remove the class",
        ),
        (
            "{L40S-8Q: ['3b:00.0']}",
            MAPPING,
            "The alias L40S-8Q exists in vgpu-device-mappings; rename it in passthrough-devices",
        ),
    ],
)
def test_conflict_is_named_and_changes_nothing(unit, passthrough, mapping, message):
    configure(unit, "{h200: ['af:00.0']}", MAPPING)
    before = unit.databag
    configure(unit, passthrough, mapping or MAPPING)
    assert unit.status == testing.BlockedStatus(message)
    assert driver_of(unit, H200) == "vfio-pci"
    assert [value for value in pci(unit, "alias") if value["name"] == "h200"]
    if mapping:
        assert unit.databag == before
    unit.machine.reboot()
    assert [driver_of(unit, address) for address in (T4, H200)] == ["nvidia", "vfio-pci"]


def test_cards_of_one_model_under_two_names_need_placement(deploy):
    unit = deploy("t4-pair", nova="3:31.0.0-0ubuntu1")
    text = "{a: ['84:00.0'], b: ['d8:00.0']}"
    configure(unit, text)
    assert unit.status == testing.BlockedStatus(
        "Nova cannot distinguish a from b; map one, or set report-in-placement=true (irreversible)"
    )
    configure(unit, text, **{"report-in-placement": True})
    assert [alias["resource_class"] for alias in pci(unit, "alias")] == ["CUSTOM_A", "CUSTOM_B"]


def test_models_under_one_name_are_alternatives_only_without_placement(deploy):
    functions = [
        *recorded.host("t4-pair")["functions"],
        *recorded.host("v100-pair")["functions"][:1],
    ]
    unit = deploy("t4-pair", functions=functions, nova="3:31.0.0-0ubuntu1")
    configure(unit, "{gpu: ['10de:1eb8', '10de:1db4', '10de:1db6']}")
    assert [alias["name"] for alias in pci(unit, "alias")] == ["gpu", "gpu"]


def operator_sets(unit, *lines):
    path = unit.machine.root / "etc/nova/nova.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[DEFAULT]\nalias = {}\n[pci]\n" + "\n".join(lines) + "\n[pci]\nalias = 1\n")


def test_alias_that_the_operator_has_set_on_nova_compute_is_not_published_twice(unit):
    operator_sets(unit, 'alias = {"name": "t4", "product_id": "1eb8", "vendor_id": "10de"}')
    configure(unit, "{t4: ['3b:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "The alias t4 exists in pci-alias of nova-compute; rename it in passthrough-devices"
    )
    assert "Waiting for" not in unit.action("show-plan")["output"]  # the card is not bound


@pytest.mark.parametrize(
    "value",
    [
        '{"vendor_id": "10de", "product_id": "1eb8"}',
        '[{"address": "3b:00.0"}, 1]',
        '{"vendor_id": "10DE"}',
        '{"address": "0000:3b:00.*"}',
        '{"address": "*:3B:*"}',
        '{"address": {"bus": "3b", "function": ".*"}}',
    ],
)
def test_whitelist_of_the_operator_that_covers_a_card_is_named(unit, value):
    operator_sets(unit, f"passthrough_whitelist = {value}", "device_spec = nonsense")
    configure(unit, "{t4: ['3b:00.0']}")
    assert unit.status.message.startswith(
        "Unit is ready: 5 NVIDIA GPUs, 1 whole card; pci-passthrough-whitelist of nova-compute "
        "covers 0000:3b:00.0 too"
    )


# Cards that cannot be given away


def test_iommu_that_is_off_is_named_with_the_remedy_for_this_cpu(deploy):
    unit = deploy("whole-cards", iommu=False)
    configure(unit, "{t4: ['3b:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "0000:3b:00.0 needs an IOMMU; enable VT-d in the BIOS and boot with intel_iommu=on"
    )
    assert driver_of(unit, T4) == "nvidia"


def changed(address, host="whole-cards", **changes):
    """Return the functions of a host with one of them changed."""
    return [
        {**function, **(changes if function["address"] == address else {})}
        for function in recorded.host(host)["functions"]
    ]


def test_card_whose_group_has_a_device_of_the_host_is_refused(deploy):
    functions = changed("0000:b1:00.0", **{"iommu-group": 15104})
    unit = deploy("whole-cards", functions=functions)
    configure(unit, "{t4: ['3b:00.0'], h200: ['af:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "0000:3b:00.0 shares its IOMMU group with 0000:b1:00.0 (mlx5_core); use another slot"
    )
    assert driver_of(unit, T4) == "nvidia"
    assert pci(unit, "device_spec") == [{"address": H200, "managed": "no"}]


@pytest.mark.parametrize("driver", [None, "vfio-pci", "pci-stub"])
def test_device_that_the_host_does_not_use_may_share_the_group(deploy, driver):
    functions = changed("0000:b1:00.0", **{"iommu-group": 15104, "driver": driver})
    unit = deploy("whole-cards", functions=functions)
    configure(unit, "{t4: ['3b:00.0']}")
    assert driver_of(unit, T4) == "vfio-pci"


def test_boot_display_is_refused(unit):
    configure(unit, "{a6000: ['10de:2230']}")
    assert unit.status == testing.BlockedStatus(
        "0000:d8:00.0 is the boot display; choose another in the BIOS, then reboot"
    )
    assert [driver_of(unit, address) for address in (DISPLAY, AUDIO)] == [
        "nvidia",
        "snd_hda_intel",
    ]


def test_card_that_nouveau_has_needs_a_reboot(deploy):
    unit = deploy("whole-cards", driver=None, functions=changed(T4, driver="nouveau"))
    configure(unit, "{t4: ['3b:00.0']}")
    assert driver_of(unit, T4) == "nouveau"
    assert unit.machine.did("update-initramfs -u")
    assert (
        "Reboot needed: nouveau is bound to 0000:3b:00.0; run reboot-install i-really-mean-it=true"
        in unit.action("show-plan")["output"]
    )


def test_card_is_not_given_away_while_the_mapping_that_divides_it_is_in_force(deploy):
    """Guests prevent the new mapping, so its other cards stay divided, also at the next boot."""
    unit = deploy("t4-pair", nova="3:32.0.0-0ubuntu1")
    first, second = "0000:84:00.0", "0000:d8:00.0"
    configure(unit, "", "{T4-8Q: ['10de:1eb8']}")
    unit.start_guest(first, "nvidia-233", UUIDS[0])
    before = unit.databag
    configure(unit, "{t4: ['d8:00.0']}", "{T4-8Q: ['10de:1eb9']}")
    assert unit.databag == before
    assert unit.status.message.startswith(f"Guests on {first} use nvidia-233 (T4-8Q)")
    plan = unit.action("show-plan")["output"]
    assert f"Waiting to give {second} away whole: the mapping in force divides it" in plan
    unit.start_guest(second, "nvidia-233", UUIDS[1])
    unit.machine.reboot()
    unit.hook("start")
    assert driver_of(unit, second) == "nvidia"
    assert unit.databag == before

    for uuid in UUIDS[:2]:
        unit.machine.remove_mdev(uuid)
        unit.machine.define_guest(name=f"instance-{uuid[-8:]}")
    for _ in range(2):
        unit.hook("update_status")
    assert driver_of(unit, second) == "vfio-pci"
    assert unit.device_specs() == [second]


def test_card_that_a_guest_has_whole_stays_offered_while_a_mapping_waits(deploy):
    """A fleet's mapping by PCI ID, in force because of another guest, selects the card as well."""
    functions = changed("0000:d8:00.0", host="t4-pair", driver="vfio-pci")
    unit = deploy("t4-pair", functions=functions, nova="3:32.0.0-0ubuntu1")
    configure(unit, "", "{T4-8Q: ['10de:1eb8']}")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.define_guest("0000:d8:00.0", name="instance-00000009")
    configure(unit, "{t4: ['d8:00.0']}", "{T4-8Q: ['10de:1eb9']}")
    assert unit.device_specs() == ["0000:d8:00.0"]
    assert unit.status.message.startswith("Guests on 0000:84:00.0 use nvidia-233 (T4-8Q)")


def test_virtual_functions_of_a_card_that_stays_divided_are_enabled_at_a_boot(unit):
    configure(unit, "", "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}")
    parent = unit.device_addresses("nvidia-696")[0]
    unit.start_guest(parent, "nvidia-696", UUIDS[0])
    before = unit.databag
    configure(unit, f"{{l40s: ['{L40S}']}}", "{A100D-10C: ['10de:20b5']}")
    unit.machine.reboot()
    unit.hook("start")
    assert unit.databag == before
    l40s = next(card for card in unit.machine.facts.cards if str(card.address) == L40S)
    assert len(l40s.assigned_types) == 6


@pytest.mark.parametrize("fault", ["nvidia-smi -mig", f"/usr/lib/nvidia/sriov-manage -e {A100}"])
def test_card_of_the_published_mapping_gets_its_functions_at_a_boot_if_the_new_one_fails(
    unit, fault
):
    configure(unit, "", "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}")
    before = unit.databag
    unit.machine.fail("nvidia-smi -mig", output="Unable to set MIG mode\n")
    configure(unit, f"{{l40s: ['{L40S}']}}", "{A100D-1-10C: ['10de:20b5']}")
    assert driver_of(unit, L40S) == "nvidia"
    unit.machine.repair("nvidia-smi -mig")
    unit.machine.fail(fault, output="failed\n")
    unit.machine.reboot()
    l40s = next(card for card in unit.machine.facts.cards if str(card.address) == L40S)
    assert len(l40s.assigned_types) == 6
    unit.hook("start")
    assert unit.databag == before

    unit.machine.repair(fault)
    unit.machine.reboot()
    for name in ("start", "update_status"):
        unit.hook(name)
    assert driver_of(unit, L40S) == "vfio-pci"
    assert L40S in unit.device_specs()


def test_plan_shows_a_card_that_is_bound_once_the_others_are_prepared(unit):
    configure(unit, "", "{A100D-20C: ['10de:20b5'], L40S-8Q: ['10de:26b9']}")
    plan = unit.action(
        "show-plan", mappings="{A100D-1-10C: ['10de:20b5']}", passthrough=f"{{l40s: ['{L40S}']}}"
    )["output"]
    assert (
        "Pending changes:\n"
        "  - switch 0000:5e:00.0 to MIG mode and create GPU instances for A100D-1-10C\n"
        "  - bind 0000:86:00.0 to vfio-pci\n"
    ) in plan
    assert f'  device_spec = {{"address": "{L40S}", "managed": "no"}}\n' in plan
    assert "Waiting to give" not in plan


def test_cause_comes_before_the_cards_that_only_stay_divided(deploy):
    unit = deploy("t4-pair")
    configure(unit, "", "{T4-8Q: ['10de:1eb8']}")
    unit.start_guest("0000:d8:00.0", "nvidia-233", UUIDS[0])
    configure(unit, "{t4: ['10de:1eb8']}", "{T4-8Q: ['10de:1eb9']}")
    assert unit.status == testing.WaitingStatus(
        "Guests have vGPUs on 0000:d8:00.0; delete or migrate them to give the card away whole"
    )


def test_approval_ends_when_guests_get_vgpus_on_the_card(deploy):
    unit = deploy("t4-pair")
    card = "0000:84:00.0"
    unit.machine.driver.unbindable.add(card)
    configure(unit, "{t4: ['84:00.0']}")
    records = unit.machine.root / "var/lib/nova-compute-nvidia-vgpu/bound-functions.json"
    assert card in records.read_text()
    unit.machine.create_mdev(card, "nvidia-233", UUIDS[0])
    unit.hook("update_status")
    assert card not in records.read_text()


def test_approval_of_the_companions_ends_with_that_of_their_card(unit):
    """Otherwise the next boot would take the audio function of the host's display."""
    unit.machine.driver.unbindable.update((DISPLAY, AUDIO))
    (unit.machine.root / "sys/bus/pci/devices" / DISPLAY / "boot_vga").write_text("0\n")
    configure(unit, "{a6000: ['10de:2230']}")  # the failed attempt makes it the boot display again
    assert unit.status.message.startswith(f"{DISPLAY} is the boot display")
    records = unit.machine.root / "var/lib/nova-compute-nvidia-vgpu/bound-functions.json"
    assert json.loads(records.read_text()) == {}


def test_mapping_that_selects_no_card_is_named_beside_whole_cards(unit):
    configure(unit, "{t4: ['3b:00.0']}", "{A40-8Q: ['10de:2235']}")
    assert unit.status == ready(
        "5 NVIDIA GPUs, 1 whole card, no card selected by vgpu-device-mappings"
    )


def test_plan_says_that_vgpu_types_are_decided_after_the_functions_are_enabled(deploy):
    """The addresses of functions that are not enabled yet cannot be computed."""
    unit = deploy(recorded.without_functions("mixed"))
    config = {
        "passthrough-devices": "{t4: ['10de:1eb8']}",
        "vgpu-device-mappings": "{A40-8Q: ['10de:2235']}",
    }
    unit.change(config=config)
    assert (
        "nova.conf (after the pending changes; vGPUs as published now):\n"
        "  [pci]\n"
        '  device_spec = {"address": "0000:3b:00.0"}\n'
    ) in unit.action("show-plan")["output"]


@pytest.fixture
def nouveau_unit(deploy):
    """Return a unit whose T4, which is to be given away whole, is bound to nouveau."""
    return deploy("whole-cards", driver=None, functions=changed(T4, driver="nouveau"))


LOCKED = "E: Could not get lock /var/lib/dpkg/lock-frontend.\n"


@pytest.mark.parametrize("fault", ["no package", "apt-get fails"])
def test_reboot_for_a_whole_card_does_not_wait_for_the_host_software(
    nouveau_unit, tmp_path, fault
):
    """The other cards of the host lack their software, which the whole card does not need."""
    if fault == "apt-get fails":
        nouveau_unit.set_resource(nouveau_unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
        nouveau_unit.machine.fail("apt-get install", output="E: Unmet dependencies\n")
    configure(nouveau_unit, "{t4: ['3b:00.0']}")
    results = nouveau_unit.action("reboot-install", i_really_mean_it=True)
    assert results["reboot"] == "in 30 seconds"
    assert nouveau_unit.machine.did("systemd-run")


@pytest.mark.parametrize(
    ("command", "output", "message"),
    [
        ("update-initramfs", "", "Host software not installed: update-initramfs failed"),
        ("apt-get install", LOCKED, "Waiting for another program to release the dpkg lock"),
    ],
)
def test_host_is_not_rebooted_needlessly_or_during_an_installation(
    nouveau_unit, tmp_path, command, output, message
):
    nouveau_unit.machine.fail(command, output=output)
    if command == "apt-get install":
        nouveau_unit.machine.fail("apt-cache", output=output)
        nouveau_unit.set_resource(nouveau_unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    configure(nouveau_unit, "{t4: ['3b:00.0']}")
    with pytest.raises(testing.ActionFailed) as failure:
        nouveau_unit.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message.startswith(message)
    assert nouveau_unit.results["reboot"] == "needed, but first fix the problem in the output"
    assert not nouveau_unit.machine.did("systemd-run")


def test_host_is_not_rebooted_while_the_boot_service_could_not_block_nouveau(nouveau_unit):
    mask = nouveau_unit.machine.root / "etc/systemd/system/nova-compute-nvidia-vgpu.service"
    mask.parent.mkdir(parents=True, exist_ok=True)
    mask.symlink_to("/dev/null")
    configure(nouveau_unit, "{t4: ['3b:00.0']}")
    with pytest.raises(testing.ActionFailed):
        nouveau_unit.action("reboot-install", i_really_mean_it=True)
    assert not nouveau_unit.machine.did("systemd-run")


def interrupt_dpkg(unit):
    updates = unit.machine.root / "var/lib/dpkg/updates"
    updates.mkdir(parents=True, exist_ok=True)
    (updates / "0001").write_text("")


def test_host_is_not_rebooted_while_dpkg_is_interrupted(deploy):
    unit = deploy("t4-fresh")
    configure(unit, "{t4: ['10de:1eb8']}")
    interrupt_dpkg(unit)
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message == (
        "dpkg was interrupted; run dpkg --configure -a on the host, then reboot-install"
    )
    assert not unit.machine.did("systemd-run")


def test_missing_package_does_not_hide_that_dpkg_is_interrupted(deploy):
    unit = deploy("t4-fresh")
    configure(unit, "{t4: ['84:00.0']}", "{T4-8Q: ['d8:00.0']}")
    interrupt_dpkg(unit)
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message.startswith("dpkg was interrupted")


def test_package_that_cannot_be_configured_is_named_rather_than_dpkg(deploy, tmp_path):
    unit = deploy("t4-fresh")
    package = unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb", postinst_fails=True)
    unit.set_resource(package)
    configure(unit, "{t4: ['84:00.0']}", "{T4-8Q: ['d8:00.0']}")
    with pytest.raises(testing.ActionFailed) as failure:
        unit.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message.startswith("Host software not installed: ")
    assert not unit.machine.did("systemd-run")


def test_host_is_not_rebooted_while_another_program_has_the_lock_of_dpkg(deploy):
    unit = deploy("t4-fresh")
    configure(unit, "{t4: ['10de:1eb8']}")
    lock = unit.machine.root / "var/lib/dpkg/lock-frontend"
    code = "import fcntl,sys,time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{code}; print('locked', flush=True); time.sleep(60)", lock]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(testing.ActionFailed) as failure:
            unit.action("reboot-install", i_really_mean_it=True)
        other.kill()
    assert failure.value.message == "Waiting for another program to release the dpkg lock"
    assert unit.action("reboot-install", i_really_mean_it=True)["reboot"] == "in 30 seconds"


def test_container_is_never_rebooted(nouveau_unit):
    container = nouveau_unit.machine.root / "run/systemd/container"
    container.parent.mkdir(parents=True, exist_ok=True)
    container.write_text("lxc\n")
    configure(nouveau_unit, "{t4: ['3b:00.0']}")
    assert nouveau_unit.action("reboot-install", i_really_mean_it=True)["reboot"] == "not needed"


def test_nouveau_is_blocked_for_a_card_that_waits_for_the_iommu(deploy):
    unit = deploy("t4-fresh", iommu=False)
    configure(unit, "{t4: ['10de:1eb8']}")
    assert (unit.machine.root / "etc/modprobe.d/nova-compute-nvidia-vgpu.conf").exists()


@pytest.mark.parametrize("iommu", [True, False])
def test_nouveau_stays_allowed_for_the_boot_display(deploy, iommu):
    functions = [card for card in changed(DISPLAY, driver="nouveau") if card["address"] == DISPLAY]
    unit = deploy("whole-cards", driver=None, functions=functions, iommu=iommu)
    configure(unit, "{a6000: ['10de:2230']}")
    assert "is the boot display" in unit.status.message
    assert not (unit.machine.root / "etc/modprobe.d/nova-compute-nvidia-vgpu.conf").exists()


def test_lspci_and_sysfs_agree_on_a_whole_card(unit, caplog):
    configure(unit, "{t4: ['3b:00.0']}")
    caplog.clear()
    unit.action("reboot-install")
    assert "as an NVIDIA GPU" not in caplog.text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("af:00.4", "is a virtual function of a GPU; remove it from passthrough-devices"),
        ("b1:00.0", "is a network function; list it under nics of a card"),
    ],
)
def test_function_that_is_no_whole_card_is_refused(unit, address, message):
    configure(unit, f"{{x: ['{address}']}}")
    assert unit.status == testing.BlockedStatus(f"0000:{address} {message}")


def test_program_that_keeps_the_card_open_is_named(unit):
    root = unit.machine.root
    information = root / f"proc/driver/nvidia/gpus/{T4}/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t Tesla T4\nDevice Minor: \t 0\n")
    (root / "proc/77/fd").mkdir(parents=True)
    (root / "proc/77/fd/4").symlink_to("/dev/nvidia0")
    (root / "proc/77/cgroup").write_text("0::/system.slice/nvidia-persistenced.service\n")
    configure(unit, "{t4: ['3b:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "nvidia-persistenced uses 0000:3b:00.0; stop it, then run reboot-install"
    )
    assert driver_of(unit, T4) == "nvidia"


# Failures


def test_card_that_vfio_pci_refuses_goes_back_and_is_named(unit):
    unit.machine.driver.unbindable.add(T4)
    configure(unit, "{t4: ['3b:00.0'], h200: ['af:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "0000:3b:00.0 cannot be bound to vfio-pci: refused, see dmesg; fix this, then "
        "run reboot-install (next try 12:04 UTC)"
    )
    assert driver_of(unit, T4) == "nvidia"
    assert pci(unit, "device_spec") == [{"address": H200, "managed": "no"}]
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert not unit.machine.did("systemctl restart nova-compute-nvidia-vgpu")
    unit.machine.driver.unbindable.clear()
    unit.update_status_after(minutes=10)
    assert driver_of(unit, T4) == "vfio-pci"


def test_kernel_without_vfio_pci_is_named(unit):
    unit.machine.driver.has_vfio = False
    configure(unit, "{t4: ['3b:00.0']}")
    assert unit.status.message.startswith("0000:3b:00.0 cannot be bound to vfio-pci: modprobe:")


def test_other_card_in_the_slot_of_a_whole_card_is_left_alone_at_boot(unit):
    configure(unit, "{t4: ['3b:00.0']}")
    machine = unit.machine
    functions = [
        {**function, "id": "10de:1db4", "types": "V100"} if function["address"] == T4 else function
        for function in machine.host["functions"]
    ]
    machine.host = {**machine.host, "functions": functions}
    (machine.root / "etc/systemd/system/multi-user.target.wants").rename(machine.root / "off")
    machine.reboot()
    assert driver_of(unit, T4) == "nvidia"


@pytest.mark.parametrize(
    ("passthrough", "mapping", "reason"),
    [
        ("{t4: ['10de:1eb9']}", "", "none selected by passthrough-devices"),
        (
            "{t4: ['10de:1eb9']}",
            "{T4-8Q: ['10de:1eb9']}",
            "none selected by vgpu-device-mappings or passthrough-devices",
        ),
    ],
)
def test_status_names_the_options_that_select_no_card_of_the_host(
    unit, passthrough, mapping, reason
):
    if mapping:
        passthrough = passthrough.replace("1eb9", "1eba")
    configure(unit, passthrough, mapping)
    assert unit.status == ready(f"5 NVIDIA GPUs, {reason}")


# What is published


def test_alias_of_vgpus_that_stay_published_is_not_published_twice(unit):
    """nova-compute does not start with two aliases of one name and different device types."""
    configure(unit, "", MAPPING)
    before = unit.sections
    configure(unit, "{L40S-8Q: ['3b:00.0']}", "{L40S-8Q: nonsense}")
    assert "vgpu-device-mappings: L40S-8Q: expected" in unit.status.message
    assert unit.sections == before


def test_alias_of_a_whole_card_that_stays_published_is_not_published_twice(unit):
    configure(unit, "{L40S-8Q: ['3b:00.0']}")
    before = unit.sections
    configure(unit, "{L40S-8Q: nonsense}", "{L40S-8Q: ['10de:26b9']}")
    assert "passthrough-devices: L40S-8Q: expected" in unit.status.message
    assert unit.sections == before


def test_class_of_a_vgpu_type_is_not_that_of_a_whole_card(unit):
    configure(unit, "{l40s_8q: ['3b:00.0']}", MAPPING, **{"report-in-placement": True})
    assert unit.status == testing.BlockedStatus(
        "L40S-8Q and l40s_8q have one resource class, CUSTOM_L40S_8Q; set resource-class"
    )


def test_function_under_one_name_as_a_device_and_under_another_as_a_nic_is_refused(unit):
    configure(unit, "{a: ['b1:00.0'], h200: {devices: ['10de:2335'], nics: ['15b3:1021']}}")
    assert unit.status == testing.BlockedStatus(
        "passthrough-devices: 0000:b1:00.0 is mapped to both a and h200; remove one"
    )


def test_plain_mapping_stays_published_on_a_host_that_gives_away_another_device(deploy):
    fpga = {"address": "0000:10:00.0", "id": "10ee:5000", "class": "120000", "driver": None}
    unit = deploy("no-gpu", functions=[fpga])
    configure(unit, "{fpga: ['10ee:5000']}", "{nvidia-35: ['0000:84:00.0']}")
    assert unit.device_addresses("nvidia-35") == ["0000:84:00.0"]
    assert pci(unit, "alias")[0]["name"] == "fpga"


def test_card_of_a_guest_stays_offered_while_it_cannot_be_bound(unit):
    """Nova has allocated it, and would lose the alias that the guest was created with."""
    configure(unit, "{t4: ['10de:1eb8']}", **{"report-in-placement": True})
    unit.machine.define_guest(T4)
    before = unit.sections
    unit.machine.driver.unbindable.add(T4)
    unit.machine.reboot()
    unit.hook("start")
    assert unit.status.message.startswith(f"{T4} cannot be bound to vfio-pci")
    assert unit.sections == before


def test_card_of_a_guest_stays_offered_while_a_program_has_it(unit):
    configure(unit, "{t4: ['10de:1eb8']}", **{"report-in-placement": True})
    unit.machine.define_guest(T4)
    before = unit.sections
    unit.machine.reboot(starts=False)
    used_by_program(unit)
    unit.hook("start")
    assert unit.status.message.startswith(f"nvidia-persiste uses {T4}; stop it")
    assert unit.sections == before


def test_offer_for_a_guest_is_checked_like_the_others(unit):
    """Nova does not start with two device types under one name."""
    number_cards(unit, T4, H200)
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.define_guest(T4)
    unit.machine.reboot(starts=False)
    used_by_program(unit)
    before = unit.sections
    configure(unit, "{gpu: ['10de:1eb8', '10de:2335']}")
    assert "differ in SR-IOV; use two names" in unit.status.message
    assert unit.sections == before


def test_network_function_of_a_guest_stays_offered_when_the_distance_is_limited(unit):
    text = "{{h200: {{devices: ['10de:2335'], nics: ['15b3:1021'], nic-distance: {}}}}}"
    configure(unit, text.format("NODE"))
    unit.machine.define_guest(H200, NIC)
    before = unit.sections
    configure(unit, text.format("PIX"))
    assert unit.status.message.startswith(f"{H200} has no NIC of h200 within PIX")
    assert unit.sections == before


def test_card_of_a_guest_stays_offered_while_a_program_has_another_one_of_its_group(deploy):
    cards = [item for item in recorded.host("t4-pair")["functions"] if item.get("types")]
    functions = [{**card, "iommu-group": 7} for card in cards]
    unit = deploy("t4-pair", nova="3:31.0.0-0ubuntu1", functions=functions)
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.define_guest("0000:84:00.0")
    unit.machine.reboot(starts=False)
    number_cards(unit, "0000:84:00.0", "0000:d8:00.0")
    used_by_program(unit, "/dev/nvidia1")
    unit.hook("start")
    assert unit.device_specs() == ["0000:84:00.0"]


@pytest.mark.parametrize("is_running", [True, False])
def test_functions_of_the_board_stay_with_the_card_of_a_guest(deploy, is_running):
    functions = [
        {**item, "boot-vga": False} if item["address"] == DISPLAY else item
        for item in recorded.host("whole-cards")["functions"]
    ]
    unit = deploy("whole-cards", functions=functions)
    configure(unit, "{rtx: ['d8:00.0']}")
    assert (driver_of(unit, DISPLAY), driver_of(unit, AUDIO)) == ("vfio-pci", "vfio-pci")
    unit.machine.define_guest(DISPLAY)
    if is_running:
        used_by_program(unit, "/dev/vfio/55296")
    configure(unit, "")
    assert (driver_of(unit, DISPLAY), driver_of(unit, AUDIO)) == ("vfio-pci", "vfio-pci")
    assert unit.status.name == "active"


def test_card_of_a_guest_stays_offered_without_its_network_function(unit):
    configure(unit, "{h200: {devices: ['10de:2335'], nics: ['15b3:1021']}}")
    unit.machine.define_guest(H200)
    unit.machine.driver.overrides.clear()
    unit.machine.driver.bind("0000:b1:00.0", "mlx5_core")
    (unit.machine.root / "sys/bus/pci/devices/0000:b1:00.0").resolve().joinpath("net").mkdir()
    unit.hook("update_status")
    assert [alias["name"] for alias in pci(unit, "alias")] == ["h200"]


def test_card_of_a_guest_is_bound_at_a_boot_while_the_unit_is_paused(unit):
    """Also where the early boot service cannot run, since /var is a file system of its own."""
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.define_guest(T4)
    unit.hook("update_status")
    before = unit.sections
    unit.action("pause")
    wants = unit.machine.root / "etc/systemd/system/multi-user.target.wants"
    (wants / "nova-compute-nvidia-vgpu-early.service").unlink()
    unit.machine.reboot()
    unit.hook("start")
    assert driver_of(unit, T4) == "vfio-pci"
    assert unit.sections == before


def test_wrong_option_does_not_bring_back_an_alias_that_vgpus_have_now(unit):
    configure(unit, "{L40S-8Q: ['3b:00.0']}")
    configure(unit, "{L40S-8Q: nonsense}", "{L40S-8Q: ['10de:26b9']}")
    unit.relation_hook("joined", local_unit_data={})
    unit.hook("update_status")
    assert [alias["device_type"] for alias in pci(unit, "alias")] == ["type-VF"]


def test_bound_cards_are_published_to_a_new_relation_while_the_option_is_wrong(unit):
    configure(unit, "{t4: ['10de:1eb8']}")
    before = unit.sections
    configure(unit, "{t4: nonsense}")
    unit.relation_hook("joined", local_unit_data={})
    assert "passthrough-devices: t4: expected" in unit.status.message
    assert unit.sections == before
    unit.hook("update_status")
    assert unit.sections == before
