# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A card that cannot offer vGPUs is named with its reason and does not hold up the others."""

from __future__ import annotations

import shutil

import pytest
from ops import testing

import recorded
from recorded import UUIDS
from unit import ready

NOVA_29 = "3:29.2.0-0ubuntu1~cloud0"
T4, L40S, A40 = "10de:1eb8", "10de:26b9", "10de:2235"
L40S_AND_T4S = f"{{L40S-8Q: ['{L40S}'], T4-8Q: ['{T4}']}}"


def pair(name, **changes):
    """Return the functions of a host's only card, and those of such a card with changes."""
    first, second = recorded.card_pair(name)
    return [first, {**recorded.without_its_functions(second), **changes}]


def deploy_pair(deploy, name, **changes):
    return deploy(name, functions=pair(name, **changes))


def published_buses(unit):
    return {address[:7] for address in unit.device_specs()}


# In other hands


def test_host_whose_only_card_is_on_vfio_pci_gets_no_driver(deploy, tmp_path):
    (card,) = recorded.without_functions("l40s-vendor-vfio")["functions"]
    unit = deploy("l40s-vendor-vfio", driver=None, functions=[{**card, "driver": "vfio-pci"}])
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    assert unit.status == ready(
        "1 NVIDIA GPU, none free for vGPUs; 0000:3d:00.0 uses vfio-pci; "
        "bind it to nvidia to offer vGPUs"
    )
    assert [command[0] for command in unit.machine.commands] == ["lspci"]
    assert unit.sections == {}


def test_card_on_vfio_pci_does_not_hold_up_a_like_card(deploy):
    unit = deploy_pair(deploy, "l40s-vendor-vfio", driver="vfio-pci")
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    assert len(unit.device_specs()) == 6
    assert published_buses(unit) == {"0000:3d"}
    assert unit.status == ready(
        "2 NVIDIA GPUs, 1 vGPU type; 0000:c1:00.0 uses vfio-pci; bind it to nvidia to offer vGPUs"
    )


def test_card_taken_for_vfio_pci_is_offered_no_longer(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    assert published_buses(unit) == {"0000:3d", "0000:c1"}
    unit.machine.driver.bind("0000:c1:00.0", "vfio-pci")
    unit.hook("update_status")
    assert published_buses(unit) == {"0000:3d"}
    unit.assert_converged()
    unit.machine.driver.bind("0000:c1:00.0", "nvidia")
    unit.hook("update_status")
    assert published_buses(unit) == {"0000:3d", "0000:c1"}


@pytest.mark.parametrize("name", ["a40-mdev", "t4-pair"])
def test_whole_card_of_a_guest_is_left_alone_while_the_guest_is_stopped(deploy, name):
    """libvirt gives a managed device back to NVIDIA's driver when the guest stops."""
    unit = deploy(recorded.without_functions(name))
    address = str(unit.machine.facts.cards[0].address)
    unit.machine.define_guest(address)
    unit.configure(f"{{nvidia-562: ['{A40}'], T4-8Q: ['{T4}']}}")
    assert address not in unit.databag["subordinate_configuration"]
    assert unit.status.name == "active"
    assert (
        f"{address} belongs to guest instance-00000001; delete it to offer vGPUs"
        in unit.action("show-plan")["output"]
    )
    assert not unit.machine.did("/usr/lib/nvidia/sriov-manage")


# Dead, or in a state in which it offers nothing


def test_dead_gpu_of_a_board_does_not_hold_up_the_others(deploy):
    functions = recorded.host("m10-board")["functions"]
    dead = {**functions[2], "driver": None}
    unit = deploy("m10-board", functions=[*functions[:2], dead, functions[3]], nova=NOVA_29)
    unit.configure("{M10-1Q: ['10de:13bd']}")
    assert unit.device_addresses("nvidia-39") == ["0000:84:00.0", "0000:85:00.0", "0000:87:00.0"]
    assert unit.status == testing.BlockedStatus(
        "No driver is bound to 0000:86:00.0; see dmesg, and check the card"
    )


def test_card_with_sriov_that_the_driver_does_not_take_does_not_hold_up_the_others(deploy):
    unit = deploy_pair(deploy, "a40-mdev", driver=None)
    unit.machine.fail("sh", output="sh: 1: echo: I/O error\n")
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="probe failed with error -1\n")
    unit.configure(f"{{A40-8Q: ['{A40}']}}")
    assert len(unit.device_addresses("nvidia-562")) == 6
    assert unit.status == testing.BlockedStatus(
        "No virtual functions on 0000:c1:00.0: no driver is bound to ...; fix this, then run "
        "reboot-install (next try 12:04 UTC)"
    )


SRIOV_OFF = testing.BlockedStatus(
    "SR-IOV is off on 0000:c1:00.0; enable it in the BIOS, or leave the card's display mode"
)


def test_card_without_sriov_that_needs_it_does_not_hold_up_the_others(deploy):
    display = {"address": "0000:c1:00.0", "id": "10de:2231", "class": "030000", "driver": "nvidia"}
    unit = deploy("a40-mdev", functions=[*recorded.host("a40-mdev")["functions"], display])
    unit.configure(f"{{A40-8Q: ['{A40}', '10de:2231']}}")
    assert len(unit.device_addresses("nvidia-562")) == 6
    assert unit.status == SRIOV_OFF
    assert SRIOV_OFF.message in unit.action("show-plan")["output"]


def test_nvidia_smi_shows_that_sriov_is_off(deploy):
    unit = deploy_pair(deploy, "a40-mdev")
    unit.machine.fail("/usr/lib/nvidia/sriov-manage", output="failed\n")
    answer = "    GPU Virtualization Mode\n        Host VGPU Mode : Non SR-IOV\n"
    unit.machine.fail("nvidia-smi -i 0000:c1:00.0 -q", stdout=answer, returncode=0)
    unit.configure(f"{{A40-8Q: ['{A40}']}}")
    assert len(unit.device_addresses("nvidia-562")) == 6
    assert unit.status == SRIOV_OFF


def test_cards_on_virtual_functions_need_an_iommu(deploy):
    unit = deploy("mixed", iommu=False)
    unit.configure(f"{{T4-8Q: ['{T4}'], A40-8Q: ['{A40}']}}")
    assert unit.device_addresses("nvidia-233") == ["0000:3b:00.0"]
    assert "mdev_nvidia-562" not in unit.sections
    assert unit.status == testing.BlockedStatus(
        "0000:41:00.0 needs an IOMMU; enable the IOMMU (SMMU) in the firmware"
    )


# Software that offers nothing


def t4():
    return next(card for card in recorded.host("t4-pair")["functions"] if "types" in card)


def a100():
    (card,) = recorded.host("a100-sriov-off")["functions"]
    return {**card, "sriov": {**card["sriov"], "enabled": 16, "framework": None}}


@pytest.mark.parametrize("requested", ["A100-4C", "nvidia-468", "A100-1-5C"])
def test_compute_card_with_the_plain_package_needs_the_other_one(deploy, requested):
    driver = {"package": "nvidia-vgpu-ubuntu-550", "version": "550.1", "loaded": "550.1"}
    unit = deploy("a100-sriov-off", functions=[t4(), a100()], driver=driver, nova=NOVA_29)
    unit.machine.fail("nvidia-smi vgpu", returncode=0)
    unit.configure(f"{{T4-8Q: ['{T4}'], {requested}: ['10de:20f1']}}")
    message = f"{requested} on 0000:41:00.0 needs package nvidia-vgpu-ubuntu-aie; attach it"
    assert unit.status == testing.BlockedStatus(message)
    assert unit.device_addresses("nvidia-233") == ["0000:84:00.0"]
    assert message in unit.action("show-plan")["output"]


def test_plan_explains_a_compute_card_that_is_not_mapped(deploy):
    driver = {"package": "nvidia-vgpu-ubuntu-550", "version": "550.1", "loaded": "550.1"}
    unit = deploy("a100-sriov-off", functions=[a100()], driver=driver)
    unit.machine.fail("nvidia-smi vgpu", returncode=0)
    assert (
        "Every type on 0000:41:00.0 needs package nvidia-vgpu-ubuntu-aie; attach it"
        in unit.action("show-plan")["output"]
    )


def test_driver_without_vgpus_is_named(deploy):
    """Such as Ubuntu's nvidia-driver-570-server."""
    unit = deploy("t4-pair", driver={"loaded": "570.172.08"})
    unit.hook("config_changed")
    assert unit.status == testing.BlockedStatus(
        "Driver 570.172.08 lacks vGPU support; remove it, then run juju attach-resource"
    )


RUN_AGAIN = "; fix this, then run reboot-install (next try 12:04 UTC)"
INSERT = "modprobe: ERROR: could not insert 'nvidia': "


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            f"{INSERT}Operation not permitted\n",
            "The kernel rejects the driver (lockdown or modules_disabled)",
        ),
        (
            "modprobe: ERROR: ../libkmod/libkmod-module.c:1084 command_do() Error running install "
            "command '/bin/false' for module nvidia: retcode 1\n"
            f"{INSERT}Operation not permitted\n",
            "An install line in /etc/modprobe.d blocks nvidia",
        ),
        (
            f"{INSERT}No such device\n",
            "NVIDIA's driver found no usable card; see dmesg",
        ),
        (
            f"{INSERT}Exec format error\n",
            "No nvidia module for kernel 5.15.0-173-generic; see dkms status",
        ),
        (
            "modprobe: FATAL: Module nvidia not found in directory /lib/modules/5.15.0-173\n",
            "No nvidia module for kernel 5.15.0-173-generic; see dkms status",
        ),
    ],
    ids=["lockdown", "install line", "no such device", "another kernel", "not built"],
)
def test_module_that_the_kernel_refuses_is_reported_with_its_reason(
    deploy, tmp_path, output, message
):
    unit = deploy(recorded.without_driver("t4-pair"))
    unit.machine.fail("modprobe nvidia", output=output)
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.status == testing.BlockedStatus(f"{message}{RUN_AGAIN}")


def test_install_line_that_loads_nothing_is_reported(deploy, tmp_path):
    unit = deploy(recorded.without_driver("t4-pair"))
    unit.machine.fail("modprobe nvidia", returncode=0)  # as with `install nvidia /bin/true`
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert unit.status == testing.BlockedStatus(
        f"An install line in /etc/modprobe.d blocks nvidia{RUN_AGAIN}"
    )


def test_unreadable_function_does_not_let_the_boot_service_run_for_ever(deploy):
    functions = recorded.card_pair("l40s-vendor-vfio")
    unit = deploy("l40s-vendor-vfio", functions=functions)
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    path = unit.machine.root / "sys/bus/pci/devices/0000:c1:00.6/nvidia/current_vgpu_type"
    path.unlink()
    path.mkdir()
    unit.configure(f"{{L40S-12Q: ['{L40S}']}}")
    unit.machine.commands.clear()
    for _ in range(12):  # an hour
        unit.update_status_after(minutes=5)
    assert len(unit.machine.did("systemctl restart nova-compute-nvidia-vgpu")) <= 1


def test_card_is_offered_although_a_function_of_another_one_cannot_be_read(deploy):
    unit = deploy("l40s-vendor-vfio", functions=recorded.card_pair("l40s-vendor-vfio"))
    path = unit.machine.root / "sys/bus/pci/devices/0000:c1:00.6/nvidia/current_vgpu_type"
    path.unlink()
    path.mkdir()
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    assert len([address for address in unit.device_specs() if address[:7] == "0000:3d"]) == 6


@pytest.mark.parametrize("in_placement", [False, True])
def test_new_relation_gets_what_can_be_offered_if_nothing_is_published(deploy, in_placement):
    functions = [*recorded.host("l40s-vendor-vfio")["functions"], t4()]
    unit = deploy("l40s-vendor-vfio", functions=functions)
    unit.change(config={"report-in-placement": in_placement})
    unit.configure(L40S_AND_T4S) if not in_placement else None
    unit.change(config={"report-in-placement": in_placement, "vgpu-device-mappings": L40S_AND_T4S})
    unit.hook("config_changed")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.driver.bind("0000:84:00.0", "vfio-pci")
    unit.relation_hook("broken")
    relation = testing.SubordinateRelation("nova-vgpu")
    unit.relation = relation
    unit.change(relations={relation})
    unit.relation_hook("joined")
    assert len(unit.device_specs()) == 6
    assert (["report_in_placement", "true"] in unit.sections["pci"]) is in_placement


def test_changed_card_is_published_although_gpu_instances_of_another_one_are_missing(deploy):
    functions = recorded.host("a100-80-pair")["functions"]
    unit = deploy("a100-80-pair", functions=functions)
    unit.configure("{A100D-20C: ['10de:20b5']}")
    unit.machine.driver.needs_reset = unit.machine.driver.is_busy = True
    unit.configure("{A100D-40C: ['31:00.0'], A100D-1-10C: ['b1:00.0']}")
    assert unit.status == testing.BlockedStatus(
        "Reboot needed: MIG mode change pending on 0000:b1:00.0; "
        "run reboot-install i-really-mean-it=true"
    )
    assert {address[:7] for address in unit.device_addresses("nvidia-697")} == {"0000:31"}


def test_boot_service_names_the_cards_that_it_leaves_alone(deploy, caplog):
    caplog.set_level("INFO")
    unit = deploy_pair(deploy, "a40-mdev", driver="vfio-pci")
    unit.configure(f"{{A40-8Q: ['{A40}']}}")
    assert "left alone: other-driver: 0000:c1:00.0 driver='vfio-pci'" in caplog.messages
    assert "all cards are prepared" not in caplog.messages


# What cannot be read counts as in use


def test_nothing_is_changed_under_a_guest_whose_card_cannot_be_read(deploy, tmp_path):
    unit = deploy("t4-pair")
    unit.start_guest("0000:d8:00.0", "nvidia-233", UUIDS[0])
    path = unit.machine.root / "sys/bus/pci/devices/0000:d8:00.0/class"
    path.unlink()
    path.mkdir()
    unit.machine.commands.clear()
    unit.attach(unit.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert not unit.machine.did("apt-get")
    for action, params in (("pause", {}), ("reboot-install", {"i_really_mean_it": True})):
        with pytest.raises(testing.ActionFailed, match=f"vGPU {UUIDS[0]} is in use"):
            unit.action(action, **params)
    assert not unit.machine.did("systemctl stop") + unit.machine.did("systemd-run")


def test_no_tool_is_installed_and_no_service_restarted_while_a_vgpu_exists(deploy):
    unit = deploy("t4-pair", functions=[t4(), {**t4(), "address": "0000:d8:00.0", "types": None}])
    (unit.machine.root / "usr/bin/lspci").unlink()
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.commands.clear()
    unit.hook("start")
    unit.configure(f"{{T4-8Q: ['{T4}']}}")
    assert not unit.machine.did("apt-get") + unit.machine.did("systemctl restart nvidia-vgpud")
    unit.machine.remove_mdev(UUIDS[0])
    unit.machine.define_guest(name=f"instance-{UUIDS[0][-8:]}")
    unit.hook("start")
    assert unit.machine.did("apt-get install pciutils")


def test_crashed_daemon_is_started_without_a_restart_of_nvidia_vgpud(deploy):
    unit = deploy("t4-pair")
    unit.start_guest("0000:84:00.0", "nvidia-233", UUIDS[0])
    unit.machine.crash("nvidia-vgpu-mgr")
    unit.machine.commands.clear()
    unit.hook("update_status")
    assert unit.machine.did("systemctl start nvidia-vgpu-mgr")
    assert not unit.machine.did("systemctl start nvidia-vgpud")


@pytest.mark.parametrize("obstacle", ["driver", "iommu", "whole card"])
def test_card_of_guests_stays_published_whatever_keeps_it_from_serving(deploy, obstacle):
    """nova-compute does not start once a type that guests have is no longer offered."""
    functions = [t4(), {**t4(), "address": "0000:d8:00.0"}]
    if obstacle == "iommu":
        functions = recorded.host("a40-mdev")["functions"]
    unit = deploy("t4-pair", functions=functions, nova="3:30.0.0-0ubuntu1")
    type_id = "nvidia-562" if obstacle == "iommu" else "nvidia-233"
    card = unit.machine.facts.cards[-1]
    text = f"{{T4-4Q: ['84:00.0'], T4-8Q: ['d8:00.0'], A40-8Q: ['{A40}']}}"
    unit.configure(text)
    unit.start_guest(str(card.parents[0]), type_id, UUIDS[0])
    before = unit.databag
    if obstacle == "driver":
        unit.machine.reboot(starts=False)
        unit.machine.driver.bind(str(card.address), None)
        unit.machine.fail("systemctl restart nvidia-vgpud")  # the simulated one binds all cards
    elif obstacle == "whole card":
        unit.machine.define_guest(str(card.address), name="another")
    else:
        shutil.rmtree(unit.machine.root / "sys/kernel/iommu_groups")
        (unit.machine.root / "sys/kernel/iommu_groups").mkdir()
    unit.hook("start")
    assert unit.databag == before
    unit.configure(text.replace("T4-4Q", "T4-2Q"))
    assert unit.databag == before
    assert "cannot be recreated" not in unit.status.message


def test_type_of_a_guest_that_cannot_be_read_is_neither_lost_nor_forgotten(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure(f"{{L40S-8Q: ['{L40S}']}}")
    unit.machine.define_guest("0000:3d:00.5")
    before = unit.databag
    path = unit.machine.root / "sys/bus/pci/devices/0000:3d:00.5/nvidia/current_vgpu_type"
    path.rename(path.with_name("kept"))
    path.mkdir()
    unit.hook("start")
    assert unit.databag == before
    assert unit.status == testing.BlockedStatus(
        "Cannot read 0000:3d:00.5; see dmesg, then reboot the host"
    )
    unit.machine.prepare_cards(f"{{L40S-8Q: ['{L40S}']}}")
    path.rmdir()
    path.with_name("kept").rename(path)
    unit.machine.define_guest()
    unit.hook("update_status")
    assert unit.machine.facts.in_use == ()
    assert unit.status.name == "active"


def test_service_is_not_restarted_if_a_guest_has_started_meanwhile(deploy, monkeypatch):
    functions = pair("a40-mdev", sriov={"total": 32, "enabled": 0, "offset": 4, "framework": None})
    unit = deploy("a40-mdev", functions=functions)
    started = []

    def start_guest(_):
        if not started:
            started.append(unit.machine.create_mdev("0000:41:00.4", "nvidia-562", UUIDS[0]))

    monkeypatch.setattr("time.sleep", start_guest)
    unit.configure(f"{{A40-8Q: ['{A40}']}}")
    assert started
    assert not unit.machine.did("systemctl restart nvidia-vgpud")
