# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The charm as Juju sees it: events in; status, relation data and actions' results out."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from ops import testing

import recorded
from charm import NovaComputeNvidiaVgpuCharm

SOURCE = Path(__file__).parents[2] / "src"
UUID = "6f6d5a5e-1111-4000-8000-000000000001"
MAPPING = "{T4-8Q: ['10de:1eb8']}"
PAUSED = testing.MaintenanceStatus("Paused. Use 'resume' action to resume normal service.")
PRINCIPAL_PAUSED = testing.MaintenanceStatus(
    "Paused by nova-compute. Use its 'resume' action to resume normal service."
)


def ready(message: str) -> testing.ActiveStatus:
    return testing.ActiveStatus(f"Unit is ready: {message}")


# Status


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-gpu", "no supported NVIDIA GPU found"),
        ("t4-pair", "2 NVIDIA GPUs, none set in vgpu-device-mappings"),
        ("m10-board", "4 NVIDIA GPUs, none set in vgpu-device-mappings"),
        ("a40-mdev", "1 NVIDIA GPU, none set in vgpu-device-mappings"),
        ("l40s-vendor-vfio", "1 NVIDIA GPU, none set in vgpu-device-mappings"),
        ("mixed", "3 NVIDIA GPUs, none set in vgpu-device-mappings"),
    ],
)
def test_virtual_functions_bridges_and_audio_are_not_counted(unit, host, message):
    on = unit(host)
    on.hook("config_changed")
    assert on.status == ready(message)


def test_types_for_this_host_are_counted(unit):
    on = unit("mixed")
    on.configure("{T4-8Q: ['10de:1eb8'], V100-8Q: ['c1:00.0'], T4-4Q: ['0000:99:00.0']}")
    assert on.status == ready("3 NVIDIA GPUs, 2 vGPU types")


def test_a_host_whose_cards_are_not_named_offers_nothing(unit):
    on = unit("t4-pair")
    on.configure("{nvidia-35: ['0000:99:00.0']}")
    assert on.status == ready("2 NVIDIA GPUs, none named in vgpu-device-mappings")
    assert on.sections == {}


def test_without_a_resource_it_is_asked_for(unit):
    on = unit("t4-fresh")
    on.hook("install")
    assert on.status == testing.BlockedStatus(
        "No host software: juju attach-resource nova-compute-nvidia-vgpu "
        "nvidia-vgpu-software=FILE.deb"
    )


def test_without_nova_common_nothing_is_published(unit):
    on = unit("t4-pair", nova=None)
    on.configure("{nvidia-233: ['0000:84:00.0']}")
    assert on.status == testing.WaitingStatus("Waiting for nova-compute to install nova-common")
    assert on.databag == {}


def test_without_the_relation_it_is_asked_for(unit):
    on = unit("t4-pair")
    on.change(relations=set())
    on.hook("update_status")
    assert on.status == testing.BlockedStatus(
        "No relation to nova-compute: juju integrate nova-compute-nvidia-vgpu:nova-vgpu "
        "nova-compute:nova-vgpu"
    )


def test_the_workload_version_is_that_of_the_loaded_driver(unit):
    on = unit("t4-pair")
    on.hook("start")
    assert on.state.workload_version == "535.161.05"


# Host software


def test_software_is_installed_in_install_and_works_after_the_reboot(unit, tmp_path):
    on = unit("t4-fresh")
    on.attach(on.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert on.machine.packages()["nvidia-vgpu-ubuntu-570"] == ("570.172.07", "installed")
    assert on.status == testing.BlockedStatus(
        "Reboot needed: nouveau holds 0000:84:00.0; run reboot-install i-really-mean-it=true"
    )
    history = [status.message for status in on.context.unit_status_history]
    assert "Installing NVIDIA's host software; this takes some minutes" in history

    on.machine.reboot()
    on.hook("start")
    assert on.status == ready("2 NVIDIA GPUs, none set in vgpu-device-mappings")


def test_the_charm_never_reboots_by_itself(unit, tmp_path):
    on = unit("t4-fresh")
    on.attach(on.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    for hook in ("config_changed", "start", "update_status"):
        on.hook(hook)
    assert on.machine.did("systemd-run") == []


def test_without_a_card_nothing_is_installed(unit, tmp_path):
    on = unit("no-gpu")
    on.attach(on.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert on.machine.did("apt-get install") == []


def test_a_failed_installation_is_said_at_every_event_until_it_is_mended(unit, tmp_path):
    on = unit("t4-fresh")
    on.machine.fail("apt-get install", output="E: You have held broken packages.\n")
    on.attach(on.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    message = (
        "Host software not installed: E: You have held broken packages.; "
        "mend, then run reboot-install"
    )
    assert on.status == testing.BlockedStatus(message)
    on.relation_hook("changed")
    assert on.status == testing.BlockedStatus(message)
    on.machine.mend("apt-get install")
    on.hook("update_status")
    assert "nvidia-vgpu-ubuntu-570" in on.machine.packages()


def test_the_resource_is_looked_into_once(unit, tmp_path):
    on = unit("t4-pair")
    deb = tmp_path / "nvidia-vgpu.deb"
    on.attach(on.machine.make_deb(deb, name="nvidia-vgpu-ubuntu-535", version="535.161.05"))
    before = len(on.machine.did("dpkg-deb"))
    for hook in ("update_status", "config_changed", "start"):
        on.hook(hook)
    assert len(on.machine.did("dpkg-deb")) == before


# What is published


@pytest.mark.parametrize(
    ("nova", "word"), [("2:21.2.4-0ubuntu2", "vgpu"), ("3:25.2.1-0ubuntu2.9", "mdev")]
)
def test_without_a_card_the_plain_form_is_published_as_it_stands(unit, nova, word):
    on = unit("no-gpu", nova=nova)
    on.configure("{nvidia-35: ['0000:84:00.0', '0000:85:00.0'], nvidia-36: ['0000:86:00.0']}")
    assert on.sections == {
        "devices": [[f"enabled_{word}_types", "nvidia-35, nvidia-36"]],
        f"{word}_nvidia-35": [["device_addresses", "0000:84:00.0,0000:85:00.0"]],
        f"{word}_nvidia-36": [["device_addresses", "0000:86:00.0"]],
    }


def test_queens_reads_no_addresses(unit):
    on = unit("m10-board")
    on.configure("{M10-4Q: ['10de:13bd']}")
    assert on.sections == {"devices": [["enabled_vgpu_types", "nvidia-43"]]}


def test_a_card_stands_for_its_virtual_functions(unit):
    on = unit("a40-mdev")
    on.configure("{A40-2Q: ['41:00.0']}")
    addresses = on.sections["mdev_nvidia-558"][0][1].split(",")
    assert (len(addresses), addresses[0], addresses[-1]) == (24, "0000:41:00.4", "0000:41:03.3")


def test_an_upgrade_of_openstack_changes_the_words(unit):
    on = unit("t4-pair", nova="2:23.2.2-0ubuntu1")
    on.configure(MAPPING)
    assert "vgpu_nvidia-233" in on.sections
    recorded.write_dpkg_status(
        on.machine.root,
        [
            ("nova-common", "3:25.2.1-0ubuntu2.9", "installed"),
            ("nvidia-vgpu-ubuntu-535", "535.161.05", "installed"),
        ],
    )
    on.hook("update_status")
    assert "mdev_nvidia-233" in on.sections


def test_a_wrong_value_leaves_what_was_published(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    before = on.databag
    on.configure('{nvidia-233: ["0000:84:00.0\\nvirt_type=qemu"]}')
    assert on.databag == before
    assert on.status == testing.BlockedStatus(
        "vgpu-device-mappings: nvidia-233, device 1: no device; a device is a PCI address "
        "(0000:84:00.0) or a PCI id (10de:1eb8)"
    )


def test_an_unset_option_withdraws_what_was_published(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.configure("")
    assert on.sections == {}


def test_no_codename_is_published_for_a_release_that_is_not_known_yet(unit):
    on = unit("t4-pair", nova="3:36.0.0-0ubuntu1")
    on.configure(MAPPING)
    assert json.loads(on.databag["releases-packages-map"]) == {}
    assert on.sections["devices"] == [["enabled_mdev_types", "nvidia-233"]]


def test_departing_withdraws_everything(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.relation_hook("departed")
    assert on.sections == {}
    assert on.databag["services"] == "[]"


def test_stopping_withdraws_everything(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.hook("stop")
    assert on.sections == {}


def test_a_new_relation_is_told_all_again(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.hook("update_status")
    on.relation_hook("departed")
    on.relation = testing.SubordinateRelation("nova-vgpu")
    on.change(relations={on.relation})
    on.relation_hook("created")
    assert "mdev_nvidia-233" in on.sections


# Restart triggers


def test_a_trigger_restarts_the_daemon_once(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    on.relation_hook("changed")
    assert len(on.machine.did("systemctl restart nvidia-vgpu-mgr")) == 1
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "b"})
    assert len(on.machine.did("systemctl restart nvidia-vgpu-mgr")) == 2


def test_a_trigger_is_answered_without_new_data(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    before = on.databag
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert on.databag == before


def test_a_trigger_waits_for_the_guests_and_is_then_answered(unit):
    on = unit("t4-pair")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    on.configure(MAPPING)
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert on.machine.did("systemctl restart nvidia-vgpu-mgr") == []
    assert on.status == ready(
        "2 NVIDIA GPUs, 1 vGPU type; restart of nvidia-vgpu-mgr waits for the guests"
    )
    recorded.remove_mdev(on.machine.root, UUID)
    on.hook("update_status")
    assert len(on.machine.did("systemctl restart nvidia-vgpu-mgr")) == 1
    assert on.status == ready("2 NVIDIA GPUs, 1 vGPU type")


@pytest.mark.parametrize("host", ["no-gpu", "t4-fresh"])
def test_a_trigger_on_a_host_without_the_daemon_is_no_fault(unit, host):
    on = unit(host)
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert on.machine.did("systemctl restart") == []


def test_a_restart_that_fails_is_said(unit):
    on = unit("t4-pair")
    on.machine.fail("systemctl restart", output="Job failed.\n")
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert on.status == testing.BlockedStatus(
        "nvidia-vgpu-mgr is not running; see journalctl -u nvidia-vgpu-mgr, "
        "then run reboot-install"
    )


# Pause and resume


def test_pause_and_resume(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.action("pause")
    assert on.status == PAUSED
    assert on.databag["services"] == "[]"
    on.action("resume")
    assert on.status == ready("2 NVIDIA GPUs, 1 vGPU type")
    assert on.databag["services"] == '["nvidia-vgpu-mgr"]'


@pytest.mark.parametrize("hook", ["config_changed", "start", "update_status", "upgrade_charm"])
def test_while_paused_nothing_is_started(unit, hook):
    on = unit("t4-pair")
    on.action("pause")
    before = len(on.machine.commands)
    on.hook(hook)
    started = on.machine.commands[before:]
    assert [words for words in started if words[0] not in ("lspci", "dpkg-deb", "dpkg")] == []
    assert on.status == PAUSED


def test_while_paused_a_trigger_is_not_answered(unit):
    on = unit("t4-pair")
    on.action("pause")
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert on.machine.did("systemctl restart") == []


def test_pause_fails_if_the_daemon_does_not_stop(unit):
    on = unit("t4-pair")
    on.machine.stubborn.add("nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("pause")
    assert failure.value.message == (
        "nvidia-vgpu-mgr does not stop; see journalctl -u nvidia-vgpu-mgr, then pause again"
    )


def test_pause_fails_while_a_vgpu_is_in_use(unit):
    on = unit("t4-pair")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("pause")
    assert failure.value.message == f"vGPU {UUID} is in use; stop or migrate its guest first"
    assert on.machine.did("systemctl stop") == []


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_host_without_a_driver_can_be_paused_and_resumed(unit, action):
    on = unit("no-gpu")
    on.action("pause")
    assert on.status == PAUSED
    on.action("resume")
    assert on.status == ready("no supported NVIDIA GPU found")


def test_resume_fails_if_systemd_refuses(unit):
    on = unit("t4-pair")
    on.action("pause")
    on.machine.fail("systemctl unmask")
    with pytest.raises(testing.ActionFailed):
        on.action("resume")


def test_resume_fails_if_the_daemon_does_not_start(unit):
    on = unit("t4-pair")
    on.action("pause")
    on.machine.dying.add("nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("resume")
    assert failure.value.message.startswith("nvidia-vgpu-mgr is not running")


@pytest.mark.parametrize("action", ["resume", "reboot-install"])
def test_the_principals_pause_is_the_principals_to_end(unit, action):
    on = unit("t4-pair")
    on.machine("systemctl", "mask", "nvidia-vgpu-mgr")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action(action)
    assert failure.value.message == PRINCIPAL_PAUSED.message
    on.hook("update_status")
    assert on.status == PRINCIPAL_PAUSED
    assert on.databag["services"] == '["nvidia-vgpu-mgr"]'


# reboot-install


def test_reboot_install_says_that_a_reboot_is_needed_and_waits_to_be_told(unit, tmp_path):
    on = unit("t4-fresh")
    path = on.machine.make_deb(tmp_path / "nvidia-vgpu.deb")
    on.change(resources={testing.Resource(name="nvidia-vgpu-software", path=path)})
    results = on.action("reboot-install")
    assert results == {
        "reboot": "needed; run again with i-really-mean-it=true",
        "output": "Reboot needed: nouveau holds 0000:84:00.0; "
        "run reboot-install i-really-mean-it=true",
    }
    results = on.action("reboot-install", i_really_mean_it=True)
    assert results["reboot"] == "in 30 seconds"
    assert on.machine.did("systemd-run") == [
        ("systemd-run", "--on-active=30", "systemctl", "reboot"),
    ]


def test_a_reboot_that_systemd_refuses_is_said(unit, tmp_path):
    on = unit("t4-fresh")
    path = on.machine.make_deb(tmp_path / "nvidia-vgpu.deb")
    on.change(resources={testing.Resource(name="nvidia-vgpu-software", path=path)})
    on.machine.fail("systemd-run")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("reboot-install", i_really_mean_it=True)
    assert failure.value.message == "systemd does not schedule a reboot; reboot the host"


def test_reboot_install_on_a_host_that_works_changes_nothing(unit):
    on = unit("t4-pair")
    results = on.action("reboot-install", i_really_mean_it=True)
    assert results["reboot"] == "not needed"
    assert on.machine.did("apt-get") == on.machine.did("systemd-run") == []


def test_reboot_install_fails_with_the_reason(unit):
    on = unit("t4-fresh")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("reboot-install")
    assert failure.value.message.startswith("No host software: juju attach-resource")


@pytest.mark.parametrize("force", [False, True])
def test_reboot_install_with_guests_goes_on_only_by_force(unit, tmp_path, force):
    on = unit("t4-pair")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    path = on.machine.make_deb(tmp_path / "nvidia-vgpu.deb")
    on.change(resources={testing.Resource(name="nvidia-vgpu-software", path=path)})
    if force:
        assert on.action("reboot-install", force=True)["reboot"].startswith("needed")
    else:
        with pytest.raises(testing.ActionFailed) as failure:
            on.action("reboot-install")
        assert failure.value.message == (
            f"vGPU {UUID} is in use; stop or migrate its guest first, or go on with force=true"
        )
    assert ("nvidia-vgpu-ubuntu-570" in on.machine.packages()) is force


@pytest.mark.parametrize("force", [False, True])
def test_a_guest_that_starts_while_the_package_is_installed_keeps_its_host_up(
    unit, tmp_path, monkeypatch, force
):
    on = unit("t4-pair")
    simulated = on.machine

    def with_a_guest(*argv: str, **options: Any) -> Any:
        result = simulated(*argv, **options)
        if argv[0] == "apt-get" and argv[-1].endswith(".deb"):
            recorded.add_mdev(simulated.root, "0000:84:00.0", "nvidia-233", UUID)
        return result

    monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(with_a_guest))
    path = simulated.make_deb(tmp_path / "nvidia-vgpu.deb")
    on.change(resources={testing.Resource(name="nvidia-vgpu-software", path=path)})
    if force:
        on.action("reboot-install", i_really_mean_it=True, force=True)
    else:
        with pytest.raises(testing.ActionFailed) as failure:
            on.action("reboot-install", i_really_mean_it=True)
        assert failure.value.message.startswith(
            f"vGPU {UUID} is in use; stop or migrate its guest"
        )
    assert bool(simulated.did("systemd-run")) is force


# Actions that only read


def test_list_vgpu_types_on_a_host_that_has_none(unit):
    on = unit("no-gpu")
    assert on.action("list-vgpu-types") == {
        "output": "No vGPU types: no supported NVIDIA GPU on this host"
    }


def test_list_vgpu_types_before_the_driver_is_there(unit):
    assert unit("t4-fresh").action("list-vgpu-types") == {
        "output": "No vGPU types: NVIDIA's driver is not loaded; see what the unit's status says"
    }


def test_list_vgpu_types_where_the_cards_tell_none(unit):
    functions = [{**card, "types": None} for card in recorded.host("t4-pair")["functions"]]
    assert unit("t4-pair", functions=functions).action("list-vgpu-types") == {
        "output": "No vGPU types: the cards tell none; see journalctl -u nvidia-vgpud"
    }


def test_list_vgpu_types_before_the_virtual_functions_are_enabled(unit):
    """Who is to name a type must first be told what there is."""
    on = unit("a100-sriov-off")
    lines = on.action("list-vgpu-types")["output"].splitlines()
    assert "nvidia-471, 0000:41:00.0, GRID A100-10C, framebuffer=10240M, max_instance=4" in lines
    assert any(line.startswith("nvidia-474, 0000:41:00.0, GRID A100-1-5C") for line in lines)


def test_list_vgpu_types_as_json_counts_what_is_free(unit):
    on = unit("t4-pair")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    rows = json.loads(on.action("list-vgpu-types", format="json")["output"])
    assert [
        (row["address"], row["free"], row["maximum"]) for row in rows if row["id"] == "nvidia-233"
    ] == [("0000:84:00.0", 1, 2), ("0000:d8:00.0", 2, 2)]


def test_show_plan_tries_a_mapping_and_changes_nothing(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    before = on.databag
    output = on.action("show-plan", mappings="{T4-4Q: ['d8:00.0'], A40-2Q: ['10de:2235']}")
    assert output["output"] == (
        "nova:     25.2.1 (yoga)\n"
        "package:  nvidia-vgpu-ubuntu-535 535.161.05\n"
        "driver:   535.161.05 loaded\n"
        "kernel:   5.15.0-173-generic\n"
        "\n"
        "CARD          PCI ID     DRIVER  FRAMEWORK  FUNCTIONS  IN USE  OFFERS"
        "                   VGPUS  FREE\n"
        "0000:84:00.0  10de:1eb8  nvidia  mdev       -          0       nvidia-232 (GRID T4-4Q)"
        "  4      4\n"
        "0000:d8:00.0  10de:1eb8  nvidia  mdev       -          0       nvidia-232 (GRID T4-4Q)"
        "  4      4\n"
        "\n"
        "nova.conf:\n"
        "  [devices]\n"
        "  enabled_mdev_types = nvidia-232\n"
        "\n"
        "  [mdev_nvidia-232]\n"
        "  device_addresses = 0000:d8:00.0\n"
        "\n"
        "for flavors:\n"
        "  resources:VGPU=1  nvidia-232 (GRID T4-4Q)\n"
        "\n"
        "to know:\n"
        "  - Nova 25.2.1 offers nvidia-232 on every GPU that has it, named or not\n"
        "\n"
        "for other hosts:\n"
        "  - A40-2Q: 10de:2235"
    )
    assert on.databag == before


def test_show_plan_says_what_is_wrong_with_a_mapping(unit):
    on = unit("t4-pair")
    plan = json.loads(on.action("show-plan", mappings="[", format="json")["output"])
    assert plan["keeps_published"] is True
    assert [problem["kind"] for problem in plan["problems"]] == ["mapping-syntax"]


# Devices


def test_virtual_functions_are_enabled_on_the_cards_that_are_named(unit):
    on = unit(recorded.without_functions("a40-mdev"))
    on.configure("{A40-8Q: ['10de:2235']}")
    assert on.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert len(on.sections["mdev_nvidia-562"][0][1].split(",")) == 6
    history = [status.message for status in on.context.unit_status_history]
    assert "Preparing the cards; this may take minutes" in history


def test_the_boot_service_brings_them_back_without_a_hook(unit):
    on = unit(recorded.without_functions("a40-mdev"))
    on.configure("{A40-8Q: ['10de:2235']}")
    before = on.databag
    on.machine.reboot()
    on.hook("start")
    assert on.databag == before
    assert on.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_cards_that_are_not_named_get_none(unit):
    on = unit(recorded.without_functions("mixed"))
    on.configure("{T4-8Q: ['10de:1eb8']}")
    assert on.machine.did("/usr/lib/nvidia/sriov-manage") == []


def test_what_keeps_them_from_being_enabled_is_said_and_nothing_is_lost(unit, monkeypatch):
    monkeypatch.setattr("cards.virtual_functions._PAUSE", 0)
    on = unit(recorded.without_functions("a40-mdev"))
    on.configure("{A40-8Q: ['10de:2235']}")
    before = on.databag
    on.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    on.machine.reboot()
    for hook in ("start", "update_status", "config_changed"):
        on.hook(hook)
        assert on.status == testing.BlockedStatus(
            "No virtual functions on 0000:41:00.0: Cannot obtain unbindLock; "
            "see journalctl -u nova-compute-nvidia-vgpu"
        )
        assert on.databag == before
    on.machine.mend("/usr/lib/nvidia/sriov-manage")
    on.hook("update_status")
    assert on.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_a_systemd_that_does_not_take_the_service_is_said(unit):
    on = unit(recorded.without_functions("a40-mdev"))
    on.machine.fail("systemctl enable")
    on.configure("{A40-8Q: ['10de:2235']}")
    assert on.status == testing.BlockedStatus(
        "Boot service: systemctl enable failed; see journalctl -u nova-compute-nvidia-vgpu"
    )


def test_while_paused_no_card_is_touched(unit):
    on = unit(recorded.without_functions("a40-mdev"))
    on.action("pause")
    on.configure("{A40-8Q: ['10de:2235']}")
    assert on.machine.did("/usr/lib/nvidia/sriov-manage") == []
    on.action("resume")
    assert len(on.machine.did("/usr/lib/nvidia/sriov-manage")) == 1


def test_removing_leaves_the_driver_and_nothing_of_ours(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.hook("remove")
    names = "*nova-compute-nvidia-vgpu*"
    assert [path for path in on.machine.root.rglob(names) if not path.is_dir()] == []
    assert "nvidia-vgpu-ubuntu-535" in on.machine.packages()


# Vendor-specific VFIO

L40S_FUNCTIONS = [f"0000:3d:00.{number}" for number in (4, 5)]


@pytest.fixture
def l40s(unit, monkeypatch):
    """A unit on a host with an L40S, just after a boot."""
    return unit(recorded.without_functions("l40s-vendor-vfio"))


def test_exactly_the_functions_that_carry_a_type_are_published(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")
    assert l40s.sections == {
        "pci": [
            *(
                ["device_spec", json.dumps({"address": function, "managed": "no"})]
                for function in L40S_FUNCTIONS
            ),
            [
                "alias",
                '{"name": "L40S-24Q", "device_type": "type-VF", '
                '"vendor_id": "10de", "product_id": "26b9"}',
            ],
        ]
    }


def test_with_placement_the_functions_have_a_class_of_their_type(l40s):
    l40s.change(
        config={"report-in-placement": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    )
    l40s.hook("config_changed")
    assert l40s.sections == {
        "pci": [
            ["report_in_placement", "true"],
            [
                "device_spec",
                '{"address": "0000:3d:00.4", "managed": "no", '
                '"resource_class": "CUSTOM_L40S_48Q"}',
            ],
            [
                "alias",
                '{"name": "L40S-48Q", "device_type": "type-VF", '
                '"resource_class": "CUSTOM_L40S_48Q"}',
            ],
        ]
    }


def test_types_of_ours_do_not_stand_in_the_way_of_a_pause(l40s):
    l40s.configure("{L40S-48Q: ['10de:26b9']}")
    l40s.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")
    l40s.action("pause")
    assert l40s.status == PAUSED


def test_report_in_placement_is_for_good(l40s):
    """Nova refuses to start without it on a node that has said it once."""
    options = {"report-in-placement": True, "vgpu-device-mappings": "{L40S-48Q: ['3d:00.0']}"}
    l40s.change(config=options)
    l40s.hook("config_changed")
    l40s.change(config={**options, "report-in-placement": False})
    l40s.hook("config_changed")
    assert l40s.sections["pci"][0] == ["report_in_placement", "true"]
    l40s.configure("")
    assert l40s.sections == {"pci": [["report_in_placement", "true"]]}
    l40s.relation_hook("departed")
    assert l40s.sections == {"pci": [["report_in_placement", "true"]]}


def test_a_wish_that_is_refused_is_not_carried_out_at_the_next_boot(l40s):
    l40s.configure("{L40S-8Q: ['10de:26b9']}")
    before = l40s.databag
    l40s.configure("{L40S-9Q: ['10de:26b9']}")
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.databag == before
    assert l40s.status == testing.BlockedStatus(
        "0000:3d:00.0 does not offer L40S-9Q; choose from the action list-vgpu-types"
    )


def test_functions_without_a_type_are_never_published(l40s, monkeypatch):
    l40s.configure("{L40S-8Q: ['10de:26b9']}")

    def refuse(path: Path, text: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("system.sysfs.write", refuse)
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.sections == {}


def test_a_card_that_lost_its_driver_is_bound_again(unit, monkeypatch):
    data = recorded.without_functions("a40-mdev")
    on = unit({**data, "functions": [{**card, "driver": None} for card in data["functions"]]})
    bind = on.machine.root / "sys/bus/pci/drivers/nvidia/bind"
    bind.parent.mkdir(parents=True)
    bind.touch()
    monkeypatch.setattr("cards.virtual_functions._PAUSE", 0)
    on.machine.fail("/usr/lib/nvidia/sriov-manage", output="x\n")
    on.configure("{nvidia-562: ['0000:41:00.0']}")
    assert bind.read_text() == "0000:41:00.0\n"


def test_a_driver_that_no_package_brought_is_served_as_well(unit):
    on = unit(recorded.without_functions("a40-mdev"), driver={"loaded": "550.163.02"})
    on.machine.provide(recorded.SRIOV_MANAGE)
    on.configure("{A40-8Q: ['10de:2235']}")
    assert len(on.sections["mdev_nvidia-562"][0][1].split(",")) == 6


def test_show_plan_says_what_the_controllers_need(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    output = l40s.action("show-plan")["output"]
    assert (
        "on the controllers:\n"
        "  nova-cloud-controller's scheduler-default-filters has PciPassthroughFilter;\n"
        "  its pci-alias is a list, which has, beside what other hosts need:\n"
        '    {"name": "L40S-24Q", "device_type": "type-VF", '
        '"vendor_id": "10de", "product_id": "26b9"}\n'
        "\n"
        "for flavors:\n"
        "  pci_passthrough:alias=L40S-24Q:1  nvidia-1155 (NVIDIA L40S-24Q)"
    ) in output


def test_show_plan_says_what_the_controllers_need_for_placement(l40s):
    l40s.change(
        config={"vgpu-device-mappings": "{L40S-24Q: ['10de:26b9']}", "report-in-placement": True}
    )
    l40s.hook("config_changed")
    output = l40s.action("show-plan")["output"]
    assert (
        '    {"name": "L40S-24Q", "device_type": "type-VF", '
        '"resource_class": "CUSTOM_L40S_24Q"}\n'
        "  its nova.conf says [filter_scheduler] pci_in_placement = true.\n"
    ) in output


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("l40s-vendor-vfio", "{L40S-24Q: ['10de:26b9']}"),
        ("rtx-pro-6000", "{DC-48Q: {devices: ['10de:2bb5'], max-instances: 1}}"),
        ("h200", "{H200X-1-18C: ['10de:2335']}"),
        ("rtx-pro-6000", "{DC-1-2Q: ['10de:2bb5']}"),
        ("a100-80-pair", "{A100D-1-10C: ['31:00.0'], A100D-20C: ['b1:00.0']}"),
        ("two L40S", "{L40S-8Q: {devices: ['10de:26b9'], max-instances: 8}}"),
        ("two L40S", "{L40S-8Q: {devices: ['3d:01.0', 'c1:00.0'], max-instances: 4}}"),
        ("a40-mdev", "{A40-2Q: ['41:00.4', '41:00.5'], A40-8Q: ['41:00.6']}"),
    ],
)
def test_show_plan_says_beforehand_what_will_be(unit, host, text):
    """And it was so: the boot service and the plan agree on every function."""
    if host == "two L40S":
        data = recorded.host("l40s-vendor-vfio")
        (card,) = data["functions"]
        host = {**data, "functions": [card, {**card, "address": "0000:c1:00.0"}]}
    on = unit(host)
    before = json.loads(on.action("show-plan", mappings=text, format="json")["output"])
    on.configure(text)
    after = json.loads(on.action("show-plan", format="json")["output"])
    assert before["pending_changes"]
    assert after["pending_changes"] == []
    kept = ("sections", "aliases", "cards", "problems", "keeps_published")
    assert [before[key] for key in kept] == [after[key] for key in kept]
    assert after["published"] == after["sections"] == on.sections


def test_show_plan_says_when_mig_mode_will_go(unit):
    on = unit("h200")
    on.configure("{H200X-1-18C: ['10de:2335']}")
    text = "{H200X-141C: ['10de:2335']}"
    before = json.loads(on.action("show-plan", mappings=text, format="json")["output"])
    assert before["pending_changes"] == [
        "take 0000:18:00.0 out of MIG mode",
        "set nvidia-1428 (H200X-141C) on functions of 0000:18:00.0",
    ]
    on.configure(text)
    assert before["sections"] == on.sections


def test_types_come_back_after_a_boot_and_the_data_is_the_same(l40s):
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    before = l40s.databag
    l40s.machine.reboot()
    l40s.hook("start")
    assert l40s.databag == before
    assert l40s.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_before_epoxy_vendor_vfio_is_refused_with_that_reason(unit):
    on = unit("l40s-vendor-vfio", nova="3:29.2.0-0ubuntu1")
    on.configure("{L40S-24Q: ['10de:26b9']}")
    assert on.status == testing.BlockedStatus(
        "0000:3d:00.0 needs Nova 31 (kernel variant driver), here is 29.2.0; upgrade OpenStack"
    )
    assert "subordinate_configuration" not in on.databag


def test_a_class_without_placement_is_refused(l40s):
    l40s.configure("{L40S-24Q: {devices: ['10de:26b9'], resource-class: CUSTOM_X}}")
    assert l40s.status == testing.BlockedStatus(
        "resource-class of L40S-24Q needs report-in-placement=true, for good; or leave it out"
    )


def test_a_type_that_the_driver_refuses_is_said(l40s, monkeypatch):
    def refuse(path: Path, text: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("system.sysfs.write", refuse)
    l40s.configure("{L40S-24Q: ['10de:26b9']}")
    assert l40s.status == testing.BlockedStatus(
        "0000:3d:00.4 refuses nvidia-1155: the driver says no; "
        "see journalctl -u nova-compute-nvidia-vgpu"
    )


def test_a_guest_s_device_that_did_not_come_back_is_said(unit, monkeypatch):
    on = unit("t4-pair")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    recorded.define_guest(on.machine.root, "instance-00000001", UUID)
    on.configure(MAPPING)
    (on.machine.root / "etc/libvirt/qemu/instance-00000001.xml").unlink()
    on.machine.reboot()
    recorded.define_guest(on.machine.root, "instance-00000001", UUID)
    other = UUID.replace("1111", "2222")
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-232", other)
    on.hook("update_status")
    assert on.status.message.startswith(f"vGPU {UUID} of a guest did not come back")


# What a hostile reader found


@pytest.mark.parametrize("value", ['{nvidia-35: ["\\UFFFFFFFF"]}', "%YAML 1." + "9" * 5000])
def test_what_yaml_itself_trips_over_is_no_hook_error(unit, value):
    on = unit("t4-pair")
    on.configure(value)
    assert on.status == testing.BlockedStatus(
        "vgpu-device-mappings: the value: a character that YAML does not allow; "
        "write {nvidia-35: ['0000:84:00.0']}"
    )


def test_functions_that_a_boot_took_do_not_withdraw_their_mapping(unit, monkeypatch):
    monkeypatch.setattr("cards.virtual_functions._PAUSE", 0)
    on = unit("a40-mdev")
    on.configure("{nvidia-558: ['0000:41:00.4', '0000:41:00.5']}")
    before = on.databag
    on.machine.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n")
    on.machine.reboot()
    on.hook("start")
    assert on.databag == before
    on.machine.mend("/usr/lib/nvidia/sriov-manage")
    on.hook("update_status")
    assert on.databag == before
    assert on.status == ready("1 NVIDIA GPU, 1 vGPU type")


def test_one_broken_link_costs_one_virtual_function(unit):
    on = unit("a40-mdev")
    link = on.machine.root / "sys/bus/pci/devices/0000:41:00.0/virtfn7"
    link.unlink()
    link.write_text("")
    on.configure("{A40-1Q: ['10de:2235']}")
    assert len(on.sections["mdev_nvidia-557"][0][1].split(",")) == 31


def test_a_card_that_does_not_tell_its_class_keeps_what_was_published(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    before = on.databag
    attribute = on.machine.root / "sys/bus/pci/devices/0000:d8:00.0/class"
    attribute.unlink()
    attribute.mkdir()
    on.hook("config_changed")
    assert on.databag == before
    assert on.status == testing.BlockedStatus(
        "0000:d8:00.0 cannot be read, its mapping is kept; see dmesg, then reboot the host"
    )


def test_a_card_whose_types_cannot_be_listed_is_no_hook_error(unit):
    on = unit("t4-pair")
    folder = on.machine.root / "sys/bus/pci/devices/0000:d8:00.0/mdev_supported_types"
    folder.rename(folder.with_name("gone"))
    folder.mkdir()
    on.machine.fail("systemctl restart nvidia-vgpud")
    on.configure(MAPPING)
    assert on.status == testing.WaitingStatus(
        "Waiting for 0000:d8:00.0 to tell its types, T4-8Q among them: journalctl -u nvidia-vgpud"
    )


def test_a_card_whose_types_came_to_nothing_is_registered_again(unit):
    """nvidia-vgpud may have run before the card was there."""
    on = unit("t4-pair")
    folder = on.machine.root / "sys/bus/pci/devices/0000:d8:00.0/mdev_supported_types"
    folder.rename(folder.with_name("gone"))
    folder.mkdir()
    on.configure(MAPPING)
    assert on.machine.did("systemctl restart nvidia-vgpud")
    assert on.status == testing.ActiveStatus("Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")


def test_a_guest_that_starts_while_headers_are_installed_keeps_its_driver(
    unit, tmp_path, monkeypatch
):
    on = unit("t4-pair")
    simulated = on.machine

    def with_a_guest(*argv: str, **options: Any) -> Any:
        if "dkms" in argv and "install" in argv:
            recorded.add_mdev(simulated.root, "0000:84:00.0", "nvidia-233", UUID)
        return simulated(*argv, **options)

    monkeypatch.setattr(NovaComputeNvidiaVgpuCharm, "run", staticmethod(with_a_guest))
    on.attach(simulated.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert simulated.packages()["nvidia-vgpu-ubuntu-535"] == ("535.161.05", "installed")
    assert on.status == ready(
        "2 NVIDIA GPUs, none set in vgpu-device-mappings; "
        "host software 570.172.07 waits for the guests"
    )


def test_a_type_in_use_is_not_taken_from_its_guests(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    before = on.databag
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    on.configure("{T4-4Q: ['10de:1eb8']}")
    assert on.databag == before
    assert on.status == testing.WaitingStatus(
        "Waiting for the guests of 0000:84:00.0 to leave nvidia-233; or keep it in the mapping"
    )
    recorded.remove_mdev(on.machine.root, UUID)
    on.hook("update_status")
    assert "mdev_nvidia-232" in on.sections


def test_a_pause_that_was_killed_can_be_resumed(unit):
    on = unit("t4-pair")
    on.machine.fail("systemctl disable", returncode=None)
    with pytest.raises(testing.ActionFailed):
        on.action("pause")
    on.machine.mend("systemctl disable")
    on.action("resume")
    assert on.status == ready("2 NVIDIA GPUs, none set in vgpu-device-mappings")


def test_a_mask_of_ours_that_was_forgotten_is_ours_where_nova_is_not_masked(unit):
    on = unit("t4-pair")
    on.machine.provide("lib/systemd/system/nova-compute.service")
    on.machine("systemctl", "mask", "nvidia-vgpu-mgr")
    on.action("resume")
    assert on.status == ready("2 NVIDIA GPUs, none set in vgpu-device-mappings")


def test_under_the_principals_pause_ours_is_not_ended(unit):
    on = unit("t4-pair")
    on.action("pause")
    on.machine("systemctl", "mask", "nova-compute")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("resume")
    assert failure.value.message == PRINCIPAL_PAUSED.message


def test_under_the_principals_pause_nothing_is_installed(unit, tmp_path):
    on = unit("t4-fresh")
    on.machine("systemctl", "mask", "nova-compute")
    on.attach(on.machine.make_deb(tmp_path / "nvidia-vgpu.deb"))
    assert on.machine.did("apt-get install") == []
    assert on.status == PRINCIPAL_PAUSED


def test_a_missing_relation_is_said_at_every_event(unit):
    on = unit("t4-pair")
    on.change(relations=set())
    for hook in ("config_changed", "leader_elected", "update_status"):
        on.hook(hook)
        assert on.status.message.startswith("No relation to nova-compute"), hook
    on.action("list-vgpu-types")
    assert on.status.message.startswith("No relation to nova-compute")


def test_a_relation_that_broke_is_missing(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    on.relation_hook("departed")
    on.relation_hook("broken")
    on.change(relations=set())
    on.hook("update_status")
    assert on.status.message.startswith("No relation to nova-compute")


def test_a_new_unit_does_not_inherit_the_memory_of_an_old_one(unit):
    on = unit("t4-pair")
    on.hook("start")
    on.action("pause")
    on.machine("systemctl", "unmask", "nvidia-vgpu-mgr")
    on.change(workload_version="")
    on.hook("install")
    assert on.state.workload_version == "535.161.05"
    assert on.status == ready("2 NVIDIA GPUs, none set in vgpu-device-mappings")


def test_a_boot_answers_a_restart_that_waited(unit):
    on = unit("t4-pair")
    on.configure(MAPPING)
    recorded.add_mdev(on.machine.root, "0000:84:00.0", "nvidia-233", UUID)
    on.relation_hook("changed", remote_unit_data={"restart-trigger": "a"})
    on.hook("start")
    assert on.status == ready("2 NVIDIA GPUs, 1 vGPU type")


def test_no_reboot_that_would_bring_nouveau_back(unit, tmp_path):
    on = unit("t4-fresh")
    path = on.machine.make_deb(tmp_path / "nvidia-vgpu.deb")
    on.change(resources={testing.Resource(name="nvidia-vgpu-software", path=path)})
    on.machine.fail("update-initramfs")
    with pytest.raises(testing.ActionFailed) as failure:
        on.action("reboot-install", i_really_mean_it=True)
    assert "update-initramfs failed" in failure.value.message
    assert on.machine.did("systemd-run") == []


def test_a_full_disk_is_no_hook_error(unit):
    on = unit("t4-pair")
    folder = on.machine.root / "var/lib/nova-compute-nvidia-vgpu"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    on.configure(MAPPING)
    assert on.status.message.startswith("Cannot write ")
    assert on.status.message.endswith("; make room on the disk")
    assert "mdev_nvidia-233" in on.sections


# The house


def test_only_the_charm_speaks_to_juju():
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {name.split(".")[0] for node in ast.walk(tree) for name in _imported(node)}
        assert ("ops" in imported) == (path == SOURCE / "charm.py"), path


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
