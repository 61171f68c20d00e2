# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A new mapping while a card fails: cards and published data change together, or not at all."""

from __future__ import annotations

import errno
import json

import pytest
from ops import testing

import recorded
from gpu.problems import HostError, Problem, ProblemKind
from recorded import UUIDS
from state import charm_state
from system import sysfs

NOVA_29 = "3:29.2.0-0ubuntu1~cloud0"
T4, L40S = "10de:1eb8", "10de:26b9"


def t4():
    return next(card for card in recorded.host("t4-pair")["functions"] if "types" in card)


def l40s_and_silent_t4():
    return [*recorded.host("l40s-vendor-vfio")["functions"], t4()]


def silence(unit):
    """Make the T4 report no types."""
    folder = unit.machine.root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types"
    folder.rename(folder.with_name("gone"))
    unit.machine.fail("systemctl restart nvidia-vgpud")


def aliases(unit):
    return [value for name, value in unit.sections["pci"] if name == "alias"]


@pytest.mark.parametrize("boots", [False, True], ids=["at once", "after a boot"])
def test_changed_card_is_published_although_another_one_is_silent(deploy, boots):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    unit.configure(f"{{L40S-8Q: ['{L40S}'], T4-8Q: ['{T4}']}}")
    assert len(unit.device_specs()) == 6
    silence(unit)
    unit.configure(f"{{L40S-12Q: ['{L40S}'], T4-8Q: ['{T4}']}}")
    if boots:
        unit.hook("start")
    assert set(unit.assigned_types().values()) == {"nvidia-1153"}
    assert unit.device_specs() == list(unit.assigned_types())
    assert "L40S-12Q" in aliases(unit)[0]
    assert unit.status == testing.WaitingStatus(
        "Waiting for 0000:84:00.0 to report type T4-8Q; see journalctl -u nvidia-vgpud"
    )
    unit.assert_converged()


def test_no_card_is_changed_while_a_card_of_guests_is_silent(deploy):
    """What is published stays for the guests, so the other cards stay as they are as well."""
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    unit.configure(f"{{L40S-8Q: ['{L40S}'], T4-8Q: ['{T4}']}}")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    before, assigned = unit.databag, unit.assigned_types()
    silence(unit)
    unit.configure(f"{{L40S-12Q: ['{L40S}'], T4-8Q: ['{T4}']}}")
    assert (unit.databag, unit.assigned_types()) == (before, assigned)
    unit.assert_converged()


L40S_AND_T4S = f"{{L40S-8Q: ['{L40S}'], T4-8Q: ['{T4}']}}"


@pytest.mark.parametrize("is_complete", [True, False], ids=["complete", "incomplete"])
def test_guests_of_good_cards_get_their_types_back_at_boot(deploy, is_complete):
    """Also where a card that reports no types has never had the mapping."""
    silent = {**t4(), "address": "0000:85:00.0", **({} if is_complete else {"types": None})}
    dead = {**t4(), "address": "0000:d8:00.0"}
    functions = [*recorded.host("l40s-vendor-vfio")["functions"], silent, dead]
    unit = deploy("l40s-vendor-vfio", functions=functions)
    unit.machine.fail("systemctl restart nvidia-vgpud")  # the simulated one resets all cards
    unit.configure(L40S_AND_T4S)
    assigned = unit.assigned_types()
    assert len(assigned) == 6
    unit.start_guest("0000:d8:00.0", "nvidia-233", UUIDS[0])
    unit.machine.define_guest("0000:3d:00.5", name="instance-00000002")
    unit.hook("update_status")
    unit.machine.reboot(starts=False)
    unit.machine.driver.bind("0000:d8:00.0", None)
    unit.machine("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)
    assert unit.assigned_types() == assigned


@pytest.mark.parametrize("fault", ["dead", "silent"])
def test_mapping_that_is_withheld_returns_to_the_applied_one_at_boot(deploy, fault):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    unit.configure(L40S_AND_T4S)
    before, assigned = unit.databag, unit.assigned_types()
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.fail("systemctl restart nvidia-vgpud")
    if fault == "dead":
        unit.machine.driver.bind("0000:84:00.0", None)
    else:
        silence(unit)
    changed = L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q")
    unit.configure(changed)
    assert (unit.databag, unit.assigned_types()) == (before, assigned)
    unit.machine.reboot(starts=False)
    if fault == "dead":
        unit.machine.driver.bind("0000:84:00.0", None)
    else:
        silence(unit)
    unit.machine("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)
    assert unit.assigned_types() == assigned
    unit.hook("start")
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


@pytest.mark.parametrize("boots", [False, True], ids=["at once", "after a boot"])
def test_change_of_a_first_mapping_is_withheld_for_guests_on_a_dead_card(deploy, boots):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.driver.bind("0000:84:00.0", None)
    unit.configure(L40S_AND_T4S)
    unit.hook("update_status")
    assert len(unit.device_specs()) == 6
    before, assigned = unit.databag, unit.assigned_types()
    unit.configure(L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q"))
    if boots:
        unit.machine.reboot(starts=False)
        unit.machine.driver.bind("0000:84:00.0", None)
        unit.machine("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)
        unit.hook("start")
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_card_is_not_partitioned_while_guests_of_another_one_prevent_its_mode(deploy):
    unit = deploy("a100-80-pair")
    unit.configure("{A100D-20C: ['10de:20b5']}")
    unit.start_guest("0000:31:00.4", "nvidia-696", UUIDS[0])
    before = unit.databag
    unit.machine.commands.clear()
    unit.configure("{A100D-20C: ['31:00.4'], A100D-40C: ['31:00.5'], A100D-1-10C: ['b1:00.0']}")
    assert unit.databag == before
    assert not unit.machine.did("nvidia-smi -i 0000:b1:00.0 -mig 1")
    assert unit.status.name == "waiting"

    # The card does not support the mode, which shows when the guest has left.
    unit.machine.remove_mdev(UUIDS[0])
    unit.machine.define_guest(name=f"instance-{UUIDS[0][-8:]}")
    unit.hook("update_status")
    assert unit.machine.driver.card("0000:b1:00.0")["mig"]["instances"] == []
    assert unit.databag == before


def test_withheld_mapping_is_shown_and_not_tried_at_every_event(deploy):
    unit = deploy("t4-pair", functions=[t4(), {**t4(), "address": "0000:d8:00.0"}], nova=NOVA_29)
    unit.configure("{T4-4Q: ['84:00.0'], T4-8Q: ['d8:00.0']}")
    unit.start_guest("0000:d8:00.0", "nvidia-233", UUIDS[0])
    unit.machine.driver.bind("0000:d8:00.0", "vfio-pci")
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.configure("{T4-2Q: ['84:00.0'], T4-8Q: ['d8:00.0']}")
    assert unit.status == testing.WaitingStatus(
        "The new mapping waits: guests have vGPUs on 0000:d8:00.0; delete or migrate them"
    )
    unit.assert_converged()
    unit.configure("")
    assert unit.sections == {}


# Guests' cards that fail, and boots


def withhold(unit, mapping):
    """Offer a mapping, start a guest on the T4, and request another mapping once it is dead."""
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.configure(mapping)
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.driver.bind("0000:84:00.0", None)
    unit.hook("update_status")


@pytest.mark.parametrize("fault", ["dead", "silent"])
def test_withheld_mapping_does_not_partition_a_card_at_boot(deploy, fault):
    """That the T4 is silent shows only after a while."""
    functions = [*recorded.host("a100-80-pair")["functions"], t4()]
    unit = deploy("a100-80-pair", functions=functions)
    withhold(unit, "{A100D-20C: ['10de:20b5'], T4-8Q: ['10de:1eb8']}")
    before = unit.databag
    unit.configure("{A100D-20C: ['31:00.0'], A100D-1-10C: ['b1:00.0'], T4-8Q: ['10de:1eb8']}")
    unit.machine.commands.clear()
    for _ in range(2):
        unit.machine.reboot(starts=False)
        if fault == "dead":
            unit.machine.driver.bind("0000:84:00.0", None)
        else:
            silence(unit)
        unit.machine("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)
        unit.hook("start")
    assert unit.machine.did("nvidia-smi -mig 1") == []
    assert unit.databag == before


def test_mapping_that_was_published_without_a_failing_card_is_in_force(deploy, monkeypatch):
    """Its types must not change under Nova because one card never got its type."""
    functions = [*recorded.card_pair("l40s-vendor-vfio"), t4()]
    unit = deploy("l40s-vendor-vfio", functions=functions)
    refuse_types_of(monkeypatch, "0000:c1")
    withhold(unit, L40S_AND_T4S)
    before, assigned = unit.databag, unit.assigned_types()
    unit.configure(L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q"))
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_mapping_that_was_published_without_a_failing_card_returns_at_boot(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    refuse_types_of(monkeypatch, "0000:c1")
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    before, assigned = unit.databag, unit.assigned_types()
    unit.configure("{L40S-8Q: ['3d:00.0'], L40S-99Q: ['c1:00.0']}")
    unit.machine.reboot()
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def refuse_types_of(monkeypatch, bus):
    """Let the driver refuse all types of the functions on a bus."""
    write = sysfs.write

    def refuse(path, text):
        if bus in str(path) and "current_vgpu_type" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        write(path, text)

    monkeypatch.setattr(sysfs, "write", refuse)


def test_damaged_state_does_not_let_other_cards_change_under_nova(deploy):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    withhold(unit, L40S_AND_T4S)
    before, assigned = unit.databag, unit.assigned_types()
    (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu/state.json").write_text("{")
    unit.configure(L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q"))
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_relation_that_is_created_again_gets_the_requested_mapping(deploy):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    withhold(unit, L40S_AND_T4S)
    unit.configure(L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q"))
    unit.relation_hook("broken")
    unit.relation = testing.SubordinateRelation("nova-vgpu")
    unit.change(relations={unit.relation})
    unit.relation_hook("joined")
    unit.update_status_after(minutes=300)
    assert set(unit.assigned_types().values()) == {"nvidia-1153"}
    assert unit.device_specs() == list(unit.assigned_types())


def test_mixed_size_mode_is_set_at_boot_before_the_guests_return(deploy):
    (card, other) = recorded.host("a100-80-pair")["functions"]
    unit = deploy("a100-80-pair", functions=[{**card, "mixed-size": True}, other])
    unit.configure("{A100D-20C: ['10de:20b5']}")
    unit.start_guest("0000:31:00.4", "nvidia-696", UUIDS[0])
    unit.configure("{A100D-20C: ['31:00.4'], A100D-40C: ['31:00.5']}")
    assert unit.status == testing.WaitingStatus(
        "Guests on 0000:31:00.0 prevent mixed-size mode for A100D-20C and A100D-40C; "
        "delete or migrate them"
    )
    unit.machine.reboot()
    unit.hook("start")
    assert unit.status.name == "active"
    assert UUIDS[0] in unit.machine.facts.in_use


L40S_12Q = L40S_AND_T4S.replace("L40S-8Q", "L40S-12Q")


def boot(unit, *, t4_is_dead=True):
    """Reboot, and run the boot service."""
    unit.machine.reboot(starts=False)
    if t4_is_dead:
        unit.machine.driver.bind("0000:84:00.0", None)
    unit.machine("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)


@pytest.mark.parametrize("hooks", [0, 1], ids=["before a hook", "after a hook"])
def test_boot_restores_what_is_published_although_the_state_is_damaged(deploy, hooks):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    withhold(unit, L40S_AND_T4S)
    before, assigned = unit.databag, unit.assigned_types()
    (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu/state.json").write_text("{")
    for _ in range(hooks):
        unit.hook("update_status")
    boot(unit)
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_boot_that_returns_to_the_published_mapping_tries_again_at_once(deploy):
    functions = [*recorded.host("a100-80-pair")["functions"], t4()]
    unit = deploy("a100-80-pair", functions=functions)
    withhold(unit, "{A100D-20C: ['10de:20b5'], T4-8Q: ['10de:1eb8']}")
    (parent, *_) = [p for p in unit.device_addresses("nvidia-696") if "b1:" in p]
    unit.start_guest(parent, "nvidia-696", UUIDS[1])
    unit.configure("{A100D-40C: ['31:00.0'], A100D-20C: ['b1:00.0'], T4-8Q: ['10de:1eb8']}")
    unit.machine.sriov_no_ops = 2
    boot(unit)
    assert UUIDS[1] in unit.machine.facts.in_use
    unit.hook("start")
    assert "cannot be recreated" not in unit.status.message.replace("0000:84:00.0", "")


def test_guests_of_mixed_sizes_return_although_a_boot_tries_two_mappings(deploy):
    """Their devices are recreated once the published mapping has set the mode of their card."""
    (card, other) = recorded.host("a100-80-pair")["functions"]
    unit = deploy("a100-80-pair", functions=[{**card, "mixed-size": True}, other, t4()])
    unit.machine.fail("systemctl restart nvidia-vgpud")
    mapping = "{A100D-20C: ['31:00.4', 'b1:00.0'], A100D-40C: ['31:00.5'], T4-8Q: ['10de:1eb8']}"
    unit.configure(mapping)
    (parent, *_) = [p for p in unit.device_addresses("nvidia-696") if "b1:" in p]
    unit.start_guest("0000:31:00.4", "nvidia-696", UUIDS[1])
    unit.start_guest("0000:31:00.5", "nvidia-697", UUIDS[2])
    unit.start_guest(parent, "nvidia-696", UUIDS[3])
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.driver.bind("0000:84:00.0", None)
    unit.configure(mapping.replace("['10de:1eb8']", "{devices: ['10de:1eb8'], max-instances: 2}"))
    unit.machine.fail("/usr/lib/nvidia/sriov-manage -e 0000:b1:00.0", output="x")
    boot(unit, t4_is_dead=False)
    assert set(UUIDS[:3]) <= set(unit.machine.facts.in_use)


def create_relation_again(unit):
    unit.relation_hook("broken")
    unit.relation = testing.SubordinateRelation("nova-vgpu")
    unit.change(relations={unit.relation})
    unit.relation_hook("joined")


@pytest.mark.parametrize("in_placement", [False, True])
@pytest.mark.parametrize("fault", ["dead", "silent"])
@pytest.mark.parametrize("way", ["relation", "option"])
def test_nothing_is_withheld_once_nothing_is_published(deploy, way, fault, in_placement):
    """A line report_in_placement alone offers nothing."""
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())

    def configure(mapping):
        config = {"vgpu-device-mappings": mapping, "report-in-placement": in_placement}
        unit.change(config=config)
        unit.hook("config_changed")

    unit.machine.fail("systemctl restart nvidia-vgpud")
    configure(L40S_AND_T4S)
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    if fault == "dead":
        unit.machine.driver.bind("0000:84:00.0", None)
    else:
        silence(unit)
    unit.hook("update_status")
    if way == "option":
        configure("")
    configure(L40S_12Q)
    if way == "relation":
        create_relation_again(unit)
    for _ in range(2):
        unit.update_status_after(minutes=5)
    assert set(unit.assigned_types().values()) == {"nvidia-1153"}
    assert unit.device_specs() == list(unit.assigned_types())


def test_what_cannot_be_recorded_is_not_published(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    unit.machine.fail("systemctl restart nvidia-vgpud")
    unit.configure(L40S_AND_T4S)
    before = unit.databag
    save = charm_state.save

    def refuse(root, state):
        if state.mapping.published == L40S_12Q:
            problem = Problem(ProblemKind.DISK_WRITE_FAILED, path="x", reason="No space left")
            raise HostError(problem)
        save(root, state)

    monkeypatch.setattr(charm_state, "save", refuse)
    unit.configure(L40S_12Q)
    assert unit.databag == before
    assert unit.status.name == "blocked"


def test_good_card_is_offered_although_the_mapping_before_had_no_relation(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    unit.relation_hook("broken")
    unit.change(relations=set())
    refuse_types_of(monkeypatch, "0000:c1")
    unit.configure(f"{{L40S-12Q: ['{L40S}']}}")
    unit.relation = testing.SubordinateRelation("nova-vgpu")
    unit.change(relations={unit.relation})
    unit.relation_hook("joined")
    unit.update_status_after(minutes=300)
    assert set(unit.assigned_types().values()) == {"nvidia-1153"}
    assert unit.device_specs() == list(unit.assigned_types())


def test_vgpus_stay_published_beside_whole_cards_if_the_state_cannot_be_saved(deploy, monkeypatch):
    unit = deploy("whole-cards")

    def configure(mapping):
        config = {"vgpu-device-mappings": mapping, "passthrough-devices": "{t4: ['10de:1eb8']}"}
        unit.change(config=config)
        unit.hook("config_changed")

    configure("{A100D-20C: ['10de:20b5']}")
    before = unit.databag
    save = charm_state.save

    def refuse(root, state):
        if "40C" in state.mapping.published:
            problem = Problem(ProblemKind.DISK_WRITE_FAILED, path="x", reason="No space left")
            raise HostError(problem)
        save(root, state)

    monkeypatch.setattr(charm_state, "save", refuse)
    configure("{A100D-40C: ['10de:20b5']}")
    assert unit.databag == before


def test_state_without_a_published_mapping_is_applied_at_boot(deploy):
    """As from an earlier revision of the charm, which did not record it."""
    unit = deploy("l40s-vendor-vfio", functions=l40s_and_silent_t4())
    withhold(unit, L40S_AND_T4S)
    before, assigned = unit.databag, unit.assigned_types()
    for path in (unit.machine.root / "var/lib/nova-compute-nvidia-vgpu").glob("state*.json"):
        data = json.loads(path.read_text())
        del data["mapping"]["published"]
        path.write_text(json.dumps(data))
    unit.hook("update_status")
    boot(unit)
    assert (unit.databag, unit.assigned_types()) == (before, assigned)


def test_guests_are_restored_although_the_requested_mapping_is_damaged(deploy):
    unit = deploy("t4-pair")
    unit.configure("{T4-8Q: ['10de:1eb8']}")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    path = unit.machine.root / "var/lib/nova-compute-nvidia-vgpu/state.json"
    data = json.loads(path.read_text())
    data["mapping"]["requested"] = "["
    path.write_text(json.dumps(data))
    boot(unit, t4_is_dead=False)
    assert UUIDS[0] in unit.machine.facts.in_use
