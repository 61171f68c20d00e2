# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Changes, faults and boots in a row: guests keep what they have, and it comes to rest."""

from __future__ import annotations

import errno
import time

import pytest
from ops import testing

import recorded
from host.facts import gather
from system import sysfs

L40S, A100, A100D = "0000:3d:00.0", "0000:41:00.0", "0000:31:00.0"


QUERY = "nvidia-smi --query-gpu=mig.mode.current,mig.mode.pending"


def uuid(number):
    return f"6f6d5a5e-1111-4000-8000-{number:012d}"


def define(on, *functions):
    """Define a guest with PCI functions, running or not."""
    devices = "".join(
        "<hostdev mode='subsystem' type='pci' managed='no'><source>"
        f"<address domain='0x{each[:4]}' bus='0x{each[5:7]}' slot='0x{each[8:10]}' "
        f"function='0x{each[11:]}'/></source></hostdev>\n"
        for each in functions
    )
    path = on.machine.root / "etc/libvirt/qemu/instance-00000001.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<domain>{devices}</domain>")


def give(on, parent, type_id, number):
    """Start a guest with a mediated device."""
    folder = on.machine.root / "sys/bus/pci/devices" / parent / "mdev_supported_types" / type_id
    on.machine.driver.write(folder / "create", uuid(number))
    recorded.define_guest(on.machine.root, f"instance-{number:08d}", uuid(number))
    on.hook("update_status")


def carried(on, number=0):
    card = gather(on.machine.root).cards[number]
    return {str(function): type_id for function, type_id in card.assigned_types}


def specs(on):
    return [pair[1][13:25] for pair in on.sections["pci"] if pair[0] == "device_spec"]


def addresses(on, type_id):
    return dict(on.sections[f"mdev_{type_id}"])["device_addresses"].split(",")


def is_at_rest(on):
    """Whether further hooks do no work and publish the same bytes."""
    before = on.databag
    on.machine.commands.clear()
    for _ in range(2):
        on.hook("update_status")
    return on.databag == before and not on.machine.did("systemctl restart")


# Guests that are defined, and off, keep their vGPU over a boot


def test_functions_of_defined_guests_keep_their_type_although_another_is_wished(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    define(on, "0000:3d:00.5")
    on.configure("{L40S-24Q: ['10de:26b9']}")
    waiting = testing.WaitingStatus(
        "Waiting for the guests of 0000:3d:00.0 to leave nvidia-1152; or keep it in the mapping"
    )
    assert on.status == waiting
    assert len(specs(on)) == 6
    on.machine.reboot()
    on.hook("start")
    assert carried(on)["0000:3d:00.5"] == "nvidia-1152"
    assert (on.status, len(specs(on))) == (waiting, 6)
    assert is_at_rest(on)

    define(on)
    on.hook("update_status")
    assert set(carried(on).values()) == {"nvidia-1155"}
    assert len(specs(on)) == 2


@pytest.mark.parametrize("wish", ["", "{T4-8Q: ['10de:1eb8']}"], ids=["none", "another card"])
def test_functions_of_defined_guests_come_back_where_the_option_names_no_card(unit, wish):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    define(on, "0000:3d:00.5")
    on.configure(wish)
    assert on.sections == {}
    on.machine.reboot()
    on.hook("start")
    assert carried(on) == {"0000:3d:00.5": "nvidia-1152"}
    assert on.status.name == "active"
    assert is_at_rest(on)

    define(on)
    on.machine.reboot()
    on.hook("start")
    assert carried(on) == {}


def test_function_whose_type_cannot_come_back_is_told(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    define(on, "0000:3d:00.5")
    on.configure("")
    on.machine.driver.refused.add(1152)
    on.machine.reboot()
    on.hook("start")
    assert on.status == testing.BlockedStatus(
        "0000:3d:00.5 refuses nvidia-1152: its guest cannot start; "
        "see journalctl -u nova-compute-nvidia-vgpu"
    )
    on.machine.driver.refused.clear()
    on.hook("update_status")
    assert carried(on) == {"0000:3d:00.5": "nvidia-1152"}
    assert on.status.name == "active"


def test_mediated_devices_of_defined_guests_come_back_where_the_option_names_no_card(unit):
    on = unit("a40-mdev", nova="3:25.2.1-0ubuntu2.9")
    on.configure("{A40-8Q: ['10de:2235']}")
    parent = "0000:41:00.4"
    types = on.machine.root / "sys/bus/pci/devices" / parent / "mdev_supported_types"
    type_id = gather(on.machine.root).cards[0].find_type("A40-8Q").id
    on.machine.driver.write(types / type_id / "create", uuid(1))
    recorded.define_guest(on.machine.root, "instance-00000001", uuid(1))
    on.configure("")
    on.machine.reboot()
    on.hook("start")
    assert gather(on.machine.root).cards[0].in_use == (uuid(1),)
    assert on.sections == {}
    assert is_at_rest(on)


@pytest.mark.parametrize("others", [(), (9,)])
def test_gpu_instances_of_defined_guests_come_back_where_the_option_names_no_card(unit, others):
    """And no more than theirs; what else there is may be somebody else's."""
    on = unit("a100-80-pair")
    on.configure("{A100D-1-10C: ['31:00.0']}")
    parent = addresses(on, "nvidia-699")[0]
    give(on, parent, "nvidia-699", 1)
    on.configure("")
    on.machine.reboot(starts=False)
    driver = on.machine.driver
    driver.sriov_manage("-e", A100D)
    for profile in others:
        driver.nvidia_smi("mig", "-i", A100D, "-cgi", str(profile), "-C")
    on.machine.commands.clear()
    on.hook("start")
    assert not on.machine.did("nvidia-smi -mig")
    assert sorted(driver.card(A100D)["mig"]["instances"]) == sorted((19, *others))
    assert gather(on.machine.root).cards[0].in_use == (uuid(1),)
    assert on.status == testing.ActiveStatus(
        "Unit is ready: 2 NVIDIA GPUs, none set in vgpu-device-mappings"
    )
    assert is_at_rest(on)


@pytest.mark.parametrize("text", ["{A100D-1-10C: ['31:00.4']}", ""])
def test_gpu_instances_are_as_many_as_guests_have_whatever_is_asked_for(unit, text):
    on = unit("a100-80-pair", nova="3:25.2.1-0ubuntu2.9")
    on.configure("{A100D-1-10C: ['31:00.0']}")
    for number, parent in enumerate(addresses(on, "nvidia-699")[1:4]):
        give(on, parent, "nvidia-699", number)
    on.configure(text)
    for _ in range(2):
        on.machine.reboot()
        on.hook("start")
        assert len(gather(on.machine.root).cards[0].in_use) == 3
        assert on.status.name == "active"
        assert is_at_rest(on)


def test_gpu_instances_of_defined_guests_come_back_beyond_a_lower_limit(unit):
    on = unit("rtx-pro-6000")
    on.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 4}}")
    guests = list(carried(on))[:3]
    define(on, *guests)
    on.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 1}}")
    on.machine.reboot()
    on.hook("start")
    assert carried(on) == dict.fromkeys(guests, "nvidia-1561")
    assert (on.status.name, specs(on)) == ("active", guests)
    assert is_at_rest(on)


def test_gpu_instances_are_added_beside_those_that_guests_have(unit):
    on = unit("rtx-pro-6000")
    on.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 2}}")
    define(on, *carried(on))
    on.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 4}}")
    assert len(specs(on)) == 4
    assert not on.machine.did("-dgi")
    assert is_at_rest(on)


@pytest.mark.parametrize(
    ("host", "text", "narrower"),
    [
        ("l40s-vendor-vfio", "{L40S-8Q: ['3d:00.0']}", "{L40S-8Q: ['3d:00.4']}"),
        ("l40s-vendor-vfio", "{L40S-8Q: ['3d:00.0']}", "{L40S-8Q: ['3d:01.0']}"),
    ],
)
def test_function_that_a_guest_has_stays_published_although_it_is_named_no_more(
    unit, host, text, narrower
):
    on = unit(host)
    on.configure(text)
    define(on, "0000:3d:00.5")
    on.configure(narrower)
    named = f"0000:{narrower[12:19]}"
    assert specs(on) == sorted(["0000:3d:00.5", named])
    assert set(carried(on)) == {"0000:3d:00.5", named}
    assert is_at_rest(on)
    define(on)
    on.hook("update_status")
    assert specs(on) == [named]


def test_parent_that_a_guest_has_stays_published_although_it_is_named_no_more(unit):
    on = unit("a40-mdev")
    on.configure("{A40-2Q: ['10de:2235']}")
    give(on, "0000:41:00.4", "nvidia-558", 1)
    on.configure("{A40-2Q: ['41:00.5']}")
    assert addresses(on, "nvidia-558") == ["0000:41:00.4", "0000:41:00.5"]


def test_functions_of_defined_guests_come_back_beyond_a_lower_limit(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    define(on, "0000:3d:00.4", "0000:3d:00.6")
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    on.machine.reboot()
    on.hook("start")
    assert sorted(carried(on)) == ["0000:3d:00.4", "0000:3d:00.6"]
    assert sorted(specs(on)) == ["0000:3d:00.4", "0000:3d:00.6"]
    assert is_at_rest(on)


def test_mediated_devices_of_defined_guests_fit_below_a_lower_limit(unit):
    """Fewer GPU instances than guests, or fewer addresses, would cost some their device."""
    on = unit("a100-80-pair")
    on.configure("{A100D-1-10C: {devices: ['31:00.0'], max-instances: 7}}")
    uuids = [uuid(number) for number in range(5)]
    for number, parent in enumerate(addresses(on, "nvidia-699")[:5]):
        types = on.machine.root / "sys/bus/pci/devices" / parent / "mdev_supported_types"
        on.machine.driver.write(types / "nvidia-699/create", uuids[number])
    recorded.define_guest(on.machine.root, "instance-00000001", *uuids)
    on.configure("{A100D-1-10C: {devices: ['31:00.0'], max-instances: 3}}")
    on.machine.reboot()
    on.hook("start")
    assert len(gather(on.machine.root).cards[0].in_use) == 5
    assert len(addresses(on, "nvidia-699")) == 5
    assert dict(on.sections["mdev_nvidia-699"])["max_instances"] == "5"


def test_card_whose_functions_failed_at_boot_is_still_its_guests_own(unit):
    on = unit("a100-80-pair")
    on.configure("{A100D-20C: ['31:00.0']}")
    parent = on.machine.root / "sys/bus/pci/devices/0000:31:00.4/mdev_supported_types"
    on.machine.driver.write(parent / "nvidia-696/create", uuid(1))
    recorded.define_guest(on.machine.root, "instance-00000001", uuid(1))
    on.hook("update_status")
    on.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    on.machine.reboot()
    on.machine.mend("/usr/lib/nvidia/sriov-manage")
    on.configure("{A100D-1-10C: ['31:00.0']}")
    assert on.machine.driver.card(A100D)["mig"].get("enabled", False) is False
    assert gather(on.machine.root).cards[0].in_use == (uuid(1),)


def test_guest_that_starts_while_another_card_is_parted_is_seen(unit):
    on = unit("a100-80-pair")
    second = on.machine.root / "sys/bus/pci/devices/0000:b1:00.4/mdev_supported_types"
    parted = on.machine.driver.sriov_manage

    def start_a_guest(verb, address):
        if address == A100D and verb == "-d":
            on.machine.driver.write(second / "nvidia-696/create", uuid(1))
        return parted(verb, address)

    on.machine.driver.sriov_manage = start_a_guest
    on.configure("{A100D-1-10C: ['10de:20b5']}")
    assert gather(on.machine.root).cards[1].in_use == (uuid(1),)


def test_type_that_somebody_else_set_is_theirs(unit):
    on = unit("l40s-vendor-vfio")
    path = on.machine.root / "sys/bus/pci/devices/0000:3d:00.6/nvidia/current_vgpu_type"
    on.machine.driver.write(path, "1152")
    on.configure("{L40S-8A: ['10de:26b9']}")
    assert carried(on) == {"0000:3d:00.6": "nvidia-1152"}
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 1}}")
    assert gather(on.machine.root).cards[0].in_use == ("0000:3d:00.6",)


def test_idle_types_of_a_card_that_left_the_mapping_are_no_guests(unit):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    on = unit("l40s-vendor-vfio", functions=[card, {**card, "address": "0000:c1:00.0"}])
    on.configure("{L40S-8Q: ['10de:26b9']}")
    on.configure("{L40S-24Q: ['3d:00.0']}")
    assert gather(on.machine.root).in_use == ()


def test_limit_counts_the_function_that_a_guest_has_first(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    define(on, "0000:3d:01.1")
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 2}}")
    assert specs(on) == ["0000:3d:00.4", "0000:3d:01.1"]
    assert is_at_rest(on)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{L40S-24Q: ['3d:00.4']}", ["0000:3d:00.4"]),
        ("{L40S-8Q: ['3d:04.0', '3d:04.1']}", ["0000:3d:04.0", "0000:3d:04.1"]),
        ("{L40S-8Q: ['3d:00.4', '3d:02.0']}", ["0000:3d:00.4", "0000:3d:02.0"]),
    ],
)
def test_functions_that_are_named_no_more_make_room_for_those_that_are(unit, text, expected):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['3d:00.0']}")
    on.configure(text)
    assert on.status == testing.ActiveStatus("Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert (specs(on), list(carried(on))) == (expected, expected)
    assert is_at_rest(on)


@pytest.mark.parametrize(
    ("host", "text", "numbers"),
    [
        ("a40-mdev", "{A40-2Q: {devices: ['41:00.4', 'c1:00.0'], max-instances: 10}}", (1, 9)),
        ("a40-mdev", "{A40-2Q: {devices: ['41:00.0', 'c1:00.0'], max-instances: 10}}", (10, 0)),
    ],
)
def test_single_function_takes_one_of_what_is_asked_of_all_cards(unit, host, text, numbers):
    (card,) = recorded.host(host)["functions"]
    on = unit(host, functions=[card, {**card, "address": "0000:c1:00.0"}])
    on.configure(text)
    found = addresses(on, "nvidia-558")
    assert tuple(
        sum(each.startswith(bus) for each in found) for bus in ("0000:41", "0000:c1")
    ) == (numbers)


# A wish that cannot be fulfilled costs nothing


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("l40s-vendor-vfio", "{L40S-7Q: ['10de:26b9']}"),
        ("l40s-vendor-vfio", "{L40S-1-6C: ['10de:26b9']}"),
        ("a40-mdev", "{A40-7Q: ['10de:2235']}"),
        ("a40-mdev", "{A40-1-6C: ['10de:2235']}"),
        ("h200", "{H200X-1-99C: ['10de:2335']}"),
        ("a100-80-pair", "{A100D-1-99C: ['10de:20b5']}"),
        ("a100-sriov-off", "{A100-11C: ['10de:20f1']}"),
        ("a100-sriov-off", "{A100-1-99C: ['10de:20f1']}"),
    ],
)
def test_type_that_the_driver_has_not_is_refused_once_and_for_all(unit, host, text):
    on = unit(host)
    on.configure(text)
    assert on.status.name == "blocked"
    assert on.status.message.endswith("choose from the action list-vgpu-types")
    assert not on.machine.did("nvidia-smi -mig")
    assert is_at_rest(on)


@pytest.mark.parametrize("host", ["a100-sriov-off", "h200"])
def test_type_that_the_driver_has_not_leaves_mig_mode_as_it_is(unit, host):
    on = unit(host)
    wish, wrong = {
        "a100-sriov-off": ("{A100-1-5C: ['10de:20f1']}", "{A100-11C: ['10de:20f1']}"),
        "h200": ("{H200X-1-18C: ['10de:2335']}", "{H200X-11C: ['10de:2335']}"),
    }[host]
    on.change(config={"vgpu-device-mappings": wish})
    on.hook("config_changed")
    before = on.databag
    on.machine.commands.clear()
    on.configure(wrong)
    assert on.status.message.endswith("choose from the action list-vgpu-types")
    assert on.databag == before
    assert not on.machine.did("nvidia-smi -mig")
    assert is_at_rest(on)
    on.machine.reboot()
    on.hook("start")
    assert on.databag == before


def test_card_leaves_mig_mode_for_a_time_sliced_type_by_name(unit):
    """Its mediated devices show no time-sliced type while it is in MIG mode."""
    on = unit("a100-sriov-off", nova="3:29.2.0-0ubuntu1")
    on.configure("{A100-1-5C: ['10de:20f1']}")
    assert "mdev_nvidia-474" in on.sections
    on.configure("{A100-10C: ['10de:20f1']}")
    assert on.status == testing.ActiveStatus("Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert len(addresses(on, "nvidia-471")) == 4
    assert is_at_rest(on)


def test_card_in_mig_mode_whose_guests_have_vgpus_does_not_leave_it(unit):
    on = unit("a100-sriov-off", nova="3:29.2.0-0ubuntu1")
    on.configure("{A100-1-5C: ['10de:20f1']}")
    before = on.databag
    recorded.add_mdev(on.machine.root, "0000:41:00.4", "nvidia-474", uuid(1))
    on.configure("{A100-10C: ['10de:20f1']}")
    assert on.status == testing.WaitingStatus(
        "Waiting for the guests of 0000:41:00.0 to leave nvidia-474; or keep it in the mapping"
    )
    assert on.databag == before
    recorded.remove_mdev(on.machine.root, uuid(1))
    on.hook("update_status")
    assert len(addresses(on, "nvidia-471")) == 4


@pytest.mark.parametrize(
    ("nova", "host", "text"),
    [
        ("28.3.0", "a100-80-pair", "{A100D-1-10C: ['31:00.0'], A100D-20C: ['b1:00.0']}"),
        ("21.2.4", "mixed", "{T4-8Q: ['10de:1eb8'], A40-8Q: ['10de:2235']}"),
        ("28.3.0", "a16-board", "{A16-4Q: ['ce:00.0']}"),
    ],
)
def test_what_nova_makes_of_it_keeps_no_card_from_being_prepared(unit, nova, host, text):
    on = unit({**recorded.without_functions(host), "nova": f"3:{nova}-0ubuntu1"})
    on.configure(text)
    assert on.status.name == "active"
    assert is_at_rest(on)


def test_mode_that_a_card_has_not_leaves_it_as_it_was(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    before = on.databag
    on.configure("{L40S-1-6C: ['10de:26b9']}")
    assert on.status == testing.BlockedStatus(
        "0000:3d:00.0 has no MIG, which L40S-1-6C needs; choose from the action list-vgpu-types"
    )
    for _ in range(2):
        assert len(carried(on)) == 6
        assert on.databag == before
        on.machine.reboot()
        on.hook("start")


@pytest.mark.parametrize("fault", ["refused", "pending"])
def test_mode_that_does_not_change_gives_the_functions_back(unit, fault):
    on = unit("a100-80-pair")
    on.configure("{A100D-20C: ['31:00.0']}")
    before = on.databag
    if fault == "refused":
        busy = "In use by another client\n"
        on.machine.fail("nvidia-smi -mig", stdout=busy, returncode=19)
    else:
        on.machine.driver.needs_reset = on.machine.driver.is_busy = True
    on.configure("{A100D-1-10C: ['31:00.0']}")
    assert len(gather(on.machine.root).cards[0].gpu.virtual_functions) == 20
    assert on.databag == before
    assert on.status.name == "blocked"


def test_misspelt_type_keeps_what_is_carried_and_published(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{nvidia-1152: ['3d:00.0']}")
    before = on.databag
    on.configure("{nvidia-9999: ['3d:00.0']}")
    assert on.status.name == "blocked"
    assert on.databag == before
    on.machine.reboot()
    on.hook("start")
    assert len(carried(on)) == 6
    assert on.databag == before


def test_no_more_is_published_than_there_are_instances(unit):
    on = unit("a100-sriov-off")
    create = on.machine.driver.nvidia_smi
    left = iter(range(3))

    def with_room_for_three(*words):
        if "-cgi" in words and next(left, None) is None:
            return 19, "Failed to create GPU instances: Insufficient Resources\n"
        return create(*words)

    on.machine.driver.nvidia_smi = with_room_for_three
    on.configure("{A100-1-5C: ['10de:20f1']}")
    assert len(addresses(on, "nvidia-474")) == 3
    assert "Insufficient Resources" in on.status.message


def test_single_functions_beyond_what_the_card_holds_are_not_published(unit):
    on = unit("a40-mdev")
    on.configure("{A40-24Q: ['41:00.4', '41:00.5', '41:00.6', '41:00.7']}")
    assert addresses(on, "nvidia-565") == ["0000:41:00.4", "0000:41:00.5"]
    on.configure("{A40-24Q: ['41:00.4', '41:00.5'], A40-8Q: ['41:00.6']}")
    assert on.status == testing.BlockedStatus(
        "vgpu-device-mappings: 0000:41:00.0 does not hold all of A40-24Q and A40-8Q; "
        "name fewer functions"
    )


def test_limit_counts_guests_on_the_cards_that_follow(unit):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    on = unit("l40s-vendor-vfio", functions=[card, {**card, "address": "0000:c1:00.0"}])
    on.configure("{L40S-8Q: {devices: ['c1:00.0'], max-instances: 2}}")
    define(on, *carried(on, 1))
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    assert (len(carried(on)), len(carried(on, 1))) == (4, 2)
    assert len(specs(on)) == 6
    assert is_at_rest(on)


# It comes to rest, and recovers


def test_limit_that_the_first_card_meets_asks_nothing_of_the_second(unit):
    on = unit("a100-80-pair")
    on.configure("{A100D-1-10C: {devices: ['10de:20b5'], max-instances: 7}}")
    assert on.status == testing.ActiveStatus("Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")
    assert len(addresses(on, "nvidia-699")) == 7
    assert "enabled" not in on.machine.driver.card("0000:b1:00.0")["mig"]
    assert is_at_rest(on)


def test_fewer_instances_replace_those_whose_types_are_idle(unit):
    on = unit("rtx-pro-6000")
    on.configure("{DC-1-24Q: ['10de:2bb5']}")
    assert len(specs(on)) == 4
    on.configure("{DC-1-24Q: {devices: ['10de:2bb5'], max-instances: 2}}")
    assert on.machine.driver.card("0001:c8:00.0")["mig"]["instances"] == [47, 47]
    assert len(specs(on)) == 2
    assert is_at_rest(on)


def test_instances_on_named_functions_are_as_many_as_the_functions(unit):
    on = unit("a100-80-pair")
    on.configure("{A100D-1-10C: ['31:00.4', '31:00.5'], A100D-3-40C: ['31:00.6']}")
    assert sorted(on.machine.driver.card(A100D)["mig"]["instances"]) == [9, 19, 19]
    assert on.status == testing.ActiveStatus("Unit is ready: 2 NVIDIA GPUs, 2 vGPU types")
    assert is_at_rest(on)


def test_instances_that_somebody_destroyed_come_back(unit):
    on = unit("a100-sriov-off")
    on.configure("{A100-1-5C: ['10de:20f1']}")
    on.machine.driver.nvidia_smi("mig", "-i", A100, "-dgi")
    on.hook("update_status")
    assert on.machine.driver.card(A100)["mig"]["instances"] == [19] * 7
    assert on.status.name == "active"


def test_driver_that_answers_again_is_asked_again(unit):
    on = unit("a100-sriov-off")
    on.machine.driver.nvidia_smi("-i", A100, "-mig", "1")
    on.machine.driver.sriov_manage("-e", A100)
    on.machine.fail("nvidia-smi", returncode=9)
    on.configure("{A100-20C: ['10de:20f1']}")
    assert on.status.name != "active"
    on.machine.mend("nvidia-smi")
    on.hook("update_status")
    assert on.status.name == "active"


@pytest.mark.parametrize(
    "answer", ["", "[Unknown Error], [Unknown Error]\n", "[GPU requires reset], Enabled\n", "ERR!"]
)
def test_answer_that_is_none_is_not_taken_for_a_card_without_mig(unit, answer):
    on = unit("a100-sriov-off")
    on.machine.fail(QUERY, stdout=answer, returncode=0)
    on.configure("{A100-1-5C: ['10de:20f1']}")
    assert "the card has no MIG" not in on.status.message
    assert on.status.name == "blocked"


def test_list_of_instances_that_fails_makes_no_more_of_them(unit):
    on = unit("a100-sriov-off")
    on.configure("{A100-1-5C: {devices: ['10de:20f1'], max-instances: 3}}")
    on.machine.fail("nvidia-smi mig -lgi", stdout="Unknown Error\n", returncode=255)
    on.configure("{A100-1-5C: ['10de:20f1']}")
    assert on.machine.driver.card(A100)["mig"]["instances"] == [19] * 3
    assert on.status.message.startswith(f"No GPU instances on {A100}: Unknown Error")


def test_suffix_that_the_driver_lists_is_a_type_of_its_own(unit):
    on = unit("a100-sriov-off")
    on.configure("{A100-1-5C: ['10de:20f1']}")
    on.configure("{A100-1-5CME: ['10de:20f1']}")
    assert on.machine.driver.card(A100)["mig"]["instances"] == [20]
    assert addresses(on, "nvidia-706") == ["0000:41:00.4"]


def test_card_that_falls_off_the_bus_in_mid_run_stops_no_other(unit, monkeypatch):
    (card,) = recorded.host("l40s-vendor-vfio")["functions"]
    on = unit("l40s-vendor-vfio", functions=[card, {**card, "address": "0000:c1:00.0"}])
    write = on.machine.driver.write

    def and_fall_off(path, text):
        write(path, text)
        devices = on.machine.root / "sys/bus/pci/devices"
        if (devices / "0000:c1:00.0").is_symlink():
            recorded.remove_function(on.machine.root, on.machine.driver.card("0000:c1:00.0"))

    monkeypatch.setattr(sysfs, "write", and_fall_off)
    on.configure("{L40S-8Q: ['10de:26b9']}")
    assert len(carried(on)) == 6


@pytest.mark.parametrize("wish", ["{L40S-8Q: ['10de:26b9']}", "{L40S-24Q: ['10de:26b9']}"])
def test_unit_that_follows_another_knows_what_the_cards_carry(unit, wish):
    """The functions keep their types, and a full card lists none."""
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    for event in ("stop", "remove"):
        on.hook(event)
    on.change(config={"vgpu-device-mappings": wish})
    for event in ("install", "start", "config_changed"):
        on.hook(event)
    assert on.status == testing.ActiveStatus("Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert len(specs(on)) == len(carried(on)) == (6 if "8Q" in wish else 2)


def test_name_on_a_card_that_was_full_before_us_is_asked_of_the_driver(unit):
    on = unit("l40s-vendor-vfio")
    functions = gather(on.machine.root).cards[0].gpu.virtual_functions[:6]
    for function in functions:
        path = on.machine.root / f"sys/bus/pci/devices/{function}/nvidia/current_vgpu_type"
        on.machine.driver.write(path, "1152")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    assert specs(on) == [str(function) for function in functions]
    on.configure("{L40S-24Q: ['10de:26b9']}")
    assert on.status == testing.WaitingStatus(
        "Waiting for the guests of 0000:3d:00.0 to leave nvidia-1152; or keep it in the mapping"
    )


def test_mig_backed_type_may_be_named_by_its_id(unit):
    on = unit("a100-80-pair")
    on.configure("{nvidia-699: ['31:00.0', 'b1:00.0']}")
    assert len(addresses(on, "nvidia-699")) == 14
    assert on.status == testing.ActiveStatus("Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")


# What a wish costs that is found wrong on the way


def beside(name, other, *, enabled):
    """Return the functions of a host's card, and of another one's beside it."""
    (card,), (second,) = (recorded.host(each)["functions"] for each in (name, other))
    second = {**second, "address": "0000:c1:00.0"}
    return [card, second if enabled else recorded.without_its_functions(second)]


@pytest.mark.parametrize(
    ("other", "text", "message"),
    [
        (
            "a10-vendor-vfio",
            "{L40S-24Q: ['3d:00.0'], A10-7Q: ['c1:00.0']}",
            "0000:c1:00.0 does not offer A10-7Q; choose from the action list-vgpu-types",
        ),
        (
            "l40s-vendor-vfio",
            "{L40S-24Q: ['3d:00.0'], L40S-8Q: ['c1:00.0']}",
            "L40S-24Q and L40S-8Q look alike to Nova; set report-in-placement=true, or offer one",
        ),
    ],
)
def test_wish_that_is_found_wrong_on_the_way_costs_no_function(unit, other, text, message):
    on = unit("l40s-vendor-vfio", functions=beside("l40s-vendor-vfio", other, enabled=False))
    on.configure("{L40S-8Q: ['3d:00.0']}")
    before, carrying = on.databag, carried(on)
    on.configure(text)
    assert on.status == testing.BlockedStatus(message)
    assert (on.databag, carried(on)) == (before, carrying)
    assert is_at_rest(on)
    on.machine.reboot()
    on.hook("start")
    assert (on.databag, carried(on)) == (before, carrying)


def test_mode_that_another_card_refuses_is_not_tried_at_every_event(unit, monkeypatch):
    on = unit("a100-80-pair")
    on.configure("{A100D-20C: ['10de:20b5']}")
    before = on.databag
    on.machine.fail(
        "nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use by another client\n", returncode=19
    )
    on.configure("{A100D-1-10C: ['10de:20b5']}")
    assert on.status == testing.BlockedStatus(
        "No GPU instances on 0000:b1:00.0: In use by another client; "
        "mend, then wait an hour or run reboot-install"
    )
    assert is_at_rest(on)
    assert on.databag == before
    now = time.time()
    monkeypatch.setattr("charm.time.time", lambda: now + 3601)
    assert not is_at_rest(on)
    assert is_at_rest(on)
    on.machine.mend("nvidia-smi -i 0000:b1:00.0 -mig 1")
    on.action("reboot-install")
    assert len(addresses(on, "nvidia-699")) == 14


def test_card_whose_functions_fail_costs_the_others_nothing(unit):
    on = unit(
        "l40s-vendor-vfio", functions=beside("l40s-vendor-vfio", "l40s-vendor-vfio", enabled=True)
    )
    on.configure("{L40S-8Q: {devices: ['10de:26b9'], max-instances: 6}}")
    on.machine.fail("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0", output="NVRM: failed\n")
    on.machine.reboot()
    on.hook("start")
    assert on.status == testing.BlockedStatus(
        "No virtual functions on 0000:3d:00.0: NVRM: failed; "
        "see journalctl -u nova-compute-nvidia-vgpu"
    )
    assert {each[:7] for each in specs(on)} == {"0000:c1"}
    on.machine.mend("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0")
    on.hook("update_status")
    assert on.status.name == "active"


def test_nova_that_knows_no_variant_driver_is_told_of_the_other_cards(unit):
    (t4, *_) = recorded.host("mixed")["functions"]
    (l40s,) = recorded.host("l40s-vendor-vfio")["functions"]
    on = unit("l40s-vendor-vfio", functions=[t4, l40s], nova="3:29.2.0-0ubuntu1")
    on.configure("{T4-8Q: ['10de:1eb8'], L40S-8Q: ['10de:26b9']}")
    assert addresses(on, "nvidia-233") == ["0000:3b:00.0"]
    assert on.status == testing.BlockedStatus(
        "0000:3d:00.0 needs Nova 31 (kernel variant driver), here is 29.2.0; upgrade OpenStack"
    )
    assert is_at_rest(on)


# What the driver may be found to have done meanwhile


def test_functions_enabled_anew_make_the_remembered_mode_void(unit):
    """Binding the driver anew wipes GPU instances and leaves mixed-size mode."""
    on = unit("a100-80-pair")
    on.configure("{A100D-1-10C: ['31:00.0']}")
    driver = on.machine.driver
    driver.sriov_manage("-d", A100D)
    on.hook("update_status")
    assert driver.card(A100D)["mig"]["instances"] == [19] * 7
    assert len(addresses(on, "nvidia-699")) == 7


def test_mixed_size_mode_comes_back_with_functions_that_are_enabled_anew(unit):
    on = unit("a40-mdev")
    on.configure("{A40-2Q: ['41:00.4'], A40-8Q: ['41:00.6']}")
    driver = on.machine.driver
    driver.sriov_manage("-d", "0000:41:00.0")
    assert driver.card("0000:41:00.0")["mixed"] is False
    on.hook("update_status")
    assert driver.card("0000:41:00.0")["mixed"] is True


def test_guest_in_another_pci_domain_holds_its_function(unit):
    on = unit("rtx-pro-6000")
    on.configure("{DC-48Q: ['10de:2bb5']}")
    define(on, "0001:c8:00.3")
    on.configure("{DC-8Q: ['10de:2bb5']}")
    assert gather(on.machine.root).in_use == ("0001:c8:00.3",)
    assert carried(on)["0001:c8:00.3"] == "nvidia-1540"


def test_wish_with_a_suffix_comes_to_rest(unit):
    on = unit("rtx-pro-6000")
    on.configure("{DC-1-24QGFX: ['10de:2bb5']}")
    assert len(specs(on)) == 4
    assert is_at_rest(on)


def test_one_bad_word_leaves_all_cards_alone(unit):
    on = unit(
        "l40s-vendor-vfio", functions=beside("l40s-vendor-vfio", "l40s-vendor-vfio", enabled=True)
    )
    on.configure("{L40S-24Q: ['10de:26b9']}")
    before, first, second = on.databag, carried(on), carried(on, 1)
    on.configure("{L40S-8Q: ['3d:00.0'], L40S-9Q: ['c1:00.0']}")
    assert on.status.name == "blocked"
    assert (on.databag, carried(on), carried(on, 1)) == (before, first, second)


def test_two_boards_of_one_pci_id_do_not_share_their_types(unit):
    """A2 and A16 differ in their subsystem only."""
    (a16, *_) = recorded.host("a16-board")["functions"]
    sriov = {"total": 16, "enabled": 16, "offset": 4, "framework": "vendor-vfio"}
    a2 = {**a16, "address": "0000:d8:00.0", "subsystem": "10de:157e", "types": "A2"}
    on = unit("l40s-vendor-vfio", functions=[{**a16, "sriov": sriov}, {**a2, "sriov": sriov}])
    on.configure("{A16-4Q: ['ce:00.0'], A2-8Q: ['d8:00.0']}")
    on.change(config={"report-in-placement": True, **on.state.config})
    on.hook("config_changed")
    names = [{known.name.split("-")[0] for known in card.types} for card in
             gather(on.machine.root).cards]  # fmt: skip
    assert names == [{"NVIDIA A16"}, {"NVIDIA A2"}]
    on.configure("{A16-4Q: ['10de:25b6']}")
    assert on.status == testing.BlockedStatus(
        "0000:d8:00.0 does not offer A16-4Q; choose from the action list-vgpu-types"
    )


def test_mode_that_was_refused_from_the_first_is_not_tried_at_every_event(unit):
    on = unit("a100-80-pair")
    on.machine.fail("nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use\n", returncode=19)
    on.configure("{A100D-1-10C: ['10de:20b5']}")
    assert on.status.name == "blocked"
    assert is_at_rest(on)


def test_guests_of_another_card_are_no_reason_to_try_again(unit):
    on = unit("a100-80-pair")
    on.configure("{A100D-20C: ['10de:20b5']}")
    on.machine.fail("nvidia-smi -i 0000:b1:00.0 -mig 1", stdout="In use\n", returncode=19)
    on.configure("{A100D-20C: ['31:00.0'], A100D-1-10C: ['b1:00.0']}")
    on.machine.commands.clear()
    give(on, "0000:31:00.4", "nvidia-696", 1)
    assert not on.machine.did("-d")
    assert is_at_rest(on)


@pytest.mark.parametrize("address", ["0000:03:00.0", "0000:c1:00.0"])
def test_card_that_nova_cannot_be_told_of_costs_the_others_no_mode(unit, address):
    (l40s,) = recorded.host("l40s-vendor-vfio")["functions"]
    (a100, _) = recorded.host("a100-80-pair")["functions"]
    functions = [a100, {**l40s, "address": address}]
    on = unit("a100-80-pair", functions=functions)
    text = f"{{A100D-1-10C: ['31:00.0'], L40S-8Q: ['{address}']}}"
    on.configure(text)
    assert len(addresses(on, "nvidia-699")) == 7
    give(on, "0000:31:00.4", "nvidia-699", 1)
    before = on.databag
    on.machine.reboot()
    on.hook("start")
    assert on.machine.driver.card(A100D)["mig"]["instances"] == [19] * 7
    assert on.databag == before
    assert on.status == testing.BlockedStatus(
        f"{address} needs Nova 31 (kernel variant driver), here is 29.2.0; upgrade OpenStack"
    )
    assert is_at_rest(on)


@pytest.mark.parametrize("event", ["update_status", "start"])
def test_driver_that_does_not_answer_once_is_asked_again(unit, event):
    on = unit("a100-80-pair")
    on.machine.fail("nvidia-smi vgpu", returncode=9, times=1)
    on.configure("{nvidia-699: ['31:00.0', 'b1:00.0']}")
    on.hook(event)
    assert len(addresses(on, "nvidia-699")) == 14


def test_card_that_said_to_have_no_mig_is_asked_again_on_request(unit):
    on = unit("a100-80-pair")
    on.machine.fail(QUERY, stdout="[N/A], [N/A]\n", returncode=0)
    on.configure("{A100D-1-10C: ['31:00.0']}")
    assert on.status.message.startswith("0000:31:00.0 has no MIG")
    on.machine.mend(QUERY)
    on.action("reboot-install")
    assert len(addresses(on, "nvidia-699")) == 7


def test_functions_of_defined_guests_stay_published_where_they_could_not_be_enabled(unit):
    on = unit(
        "l40s-vendor-vfio", functions=beside("l40s-vendor-vfio", "l40s-vendor-vfio", enabled=True)
    )
    on.configure("{L40S-8Q: ['10de:26b9']}")
    define(on, "0000:3d:00.5")
    before = on.databag
    on.machine.fail("/usr/lib/nvidia/sriov-manage -e 0000:3d:00.0", output="NVRM: failed\n")
    on.machine.reboot()
    on.hook("start")
    assert on.databag == before


def test_disk_that_is_full_stops_no_removal(unit, monkeypatch):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("state.charm_state.shutil.move", full)
    on.hook("remove")
    assert not (on.machine.root / "var/lib/nova-compute-nvidia-vgpu").exists()


def test_removal_that_is_tried_twice_keeps_what_the_cards_carry(unit):
    on = unit("l40s-vendor-vfio")
    on.configure("{L40S-8Q: ['10de:26b9']}")
    on.hook("remove")
    on.hook("remove")
    on.change(config={"vgpu-device-mappings": "{L40S-24Q: ['10de:26b9']}"})
    for event in ("install", "start"):
        on.hook(event)
    assert len(specs(on)) == 2
