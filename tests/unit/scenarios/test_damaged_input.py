# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Damaged or excessive input from a host does not stop the charm or fill its memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from ops import testing

import boot
import recorded
from actions import list_vgpu_types
from cards import nvidia_smi
from driver import host_package, legacy_charm
from gpu.card import VgpuType
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from host import libvirt_guests, lspci
from host.facts import gather
from host.gpus import scan
from nova_compute import compatibility, nova_conf
from nova_compute.nova_conf import PciOptions
from nova_compute.release import NovaVersion
from planning import mappings, plan
from state import assigned_types, boot_result, charm_state
from state.mapping_history import MappingHistory
from status import unit_status
from system import apt, commands
from system.commands import CommandError


def test_type_in_digits_of_another_script_is_ignored(host):
    root = host("l40s-vendor-vfio")
    path = root / "sys/bus/pci/devices/0000:3d:00.4/nvidia/current_vgpu_type"
    path.write_text("\u00b2\n", encoding="utf-8")
    assert len(gather(root).cards[0].parents) == 31


def test_package_with_an_incomplete_status_is_not_installed(host):
    root = host("t4-pair")
    path = root / "var/lib/dpkg/status"
    path.write_text(path.read_text().replace("Status: install ok installed", "Status: install ok"))
    assert gather(root).nova is None


def test_excessive_version_is_ignored(host):
    root = host("t4-pair")
    recorded.write_dpkg_status(root, [("libvirt0", "9" * 5000 + ".0.0", "installed")])
    assert gather(root).libvirt is None


def test_lspci_record_without_a_slot_is_skipped(machine, caplog):
    simulated = machine("t4-pair")
    simulated.fail("lspci", returncode=0, stdout="Class:\t0302\nVendor:\t10de\n\n")
    lspci.compare(simulated.root, simulated, scan(simulated.root).gpus)
    assert "only sysfs shows 0000:84:00.0 as an NVIDIA GPU" in caplog.messages


def test_two_links_to_one_function_are_one_function(host):
    root = host("a40-mdev")
    card = root / "sys/bus/pci/devices/0000:41:00.0"
    (card / "virtfn32").symlink_to("../0000:41:00.4")
    assert len(scan(root).gpus[0].virtual_functions) == 32


def test_unclosed_guest_definition_is_read_quickly(tmp_path):
    path = tmp_path / "etc/libvirt/qemu/instance-00000001.xml"
    path.parent.mkdir(parents=True)
    path.write_text("<hostdev type='mdev'><source>" * 40_000)
    start = time.process_time()
    assert libvirt_guests.defined_mdevs(tmp_path) == frozenset()
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["a40-mdev", "l40s-vendor-vfio"])
def test_excessive_number_is_ignored(host, name):
    """Python 3.11 and later refuse to convert such a number."""
    root = host(name)
    attributes = {"available_instances", "current_vgpu_type"}
    paths = [path for path in root.glob("sys/devices/**/*") if path.name in attributes]
    for path in paths[1:]:
        path.write_text("9" * 5000)
    (card,) = gather(root, count=True).cards
    assert paths
    assert card.parents


def test_excessive_count_is_ignored(machine):
    """A false number from a driver must not become a list of that length."""
    simulated = machine("a100-80-pair")
    block = "vGPU Type ID : 0x2bb\nName : GRID A100D-1-10C\nMax Instances : 99999999999\n"
    simulated.fail("nvidia-smi vgpu -s", returncode=0, stdout=block)
    (vgpu_type,) = nvidia_smi.supported_types(simulated, scan(simulated.root).gpus[0].address)
    assert (vgpu_type.id, vgpu_type.max_instances) == ("nvidia-699", None)


def test_id_replaces_a_blank_type_name(host):
    root = host("l40s-vendor-vfio")
    for path in root.glob("sys/devices/pci0000:3d/*/nvidia/creatable_vgpu_types"):
        path.write_text("ID    : vGPU Name\n1152  : \u00a0\n", encoding="utf-8")
    card = gather(root).cards[0]
    assert card.find_type("L40S-8Q") is None
    assigned = plan.Assignment(
        "nvidia-1152", card.parents[:1], name=card.types[0].name, function_id=card.function_id
    )
    assert '"name": "nvidia-1152"' in nova_conf.alias(assigned, PciOptions())


def test_resource_class_of_a_long_name_is_truncated():
    assigned = plan.Assignment("nvidia-1152", (), name="A" * 400)
    alias = nova_conf.alias(assigned, PciOptions(report_in_placement=True))
    assert len(json.loads(alias)["resource_class"]) == 255


def test_assigned_type_that_is_not_text_is_a_failure(machine):
    simulated = machine("l40s-vendor-vfio")

    def write(path, _):
        Path(path).write_bytes(b"\xff\n")

    with mock.patch("system.sysfs.write", write):
        (problem,) = simulated.prepare_cards("{L40S-8Q: ['3d:00.0']}")
    assert (problem.kind, problem.argument("reason")) == (
        ProblemKind.TYPE_REFUSED,
        "the driver rejects it",
    )


@pytest.mark.parametrize("count", ["1000", "999999", "-1"])
def test_implausible_count_is_ignored(machine, count):
    simulated = machine("a100-80-pair")
    block = f"vGPU Type ID : 0x2bb\nName : GRID A100D-1-10C\nMax Instances : {count}\n"
    simulated.fail("nvidia-smi vgpu -s", returncode=0, stdout=block)
    assert (
        nvidia_smi.supported_types(simulated, scan(simulated.root).gpus[0].address)[
            0
        ].max_instances
        is None
    )


def test_implausible_cached_count_is_ignored(host):
    root = host("l40s-vendor-vfio")
    path = root / "var/lib/nova-compute-nvidia-vgpu/types.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"10de:26b9": {"nvidia-1": {"name": "A-1-1C", "max_instances": 999999999}}}')
    assert gather(root).cards[0].known_types == ()


def test_excessive_blanks_are_read_quickly(machine):
    simulated = machine("t4-pair")
    simulated.fail("nvidia-smi", returncode=0, stdout=("vGPU Type ID" + " " * 200_000 + "x\n") * 2)
    card = scan(simulated.root).gpus[0].address
    start = time.process_time()
    assert nvidia_smi.supported_types(simulated, card) == ()
    assert nvidia_smi.mixed_size(simulated, card) is None
    assert time.process_time() - start < 5


def test_control_characters_in_a_name_are_replaced(host):
    root = host("t4-pair")
    for path in root.glob("sys/devices/*/*/mdev_supported_types/nvidia-233/name"):
        path.write_text("GRID T4\n\x1b[2J-8Q" + "x" * 400)
    name = gather(root).cards[0].find_type("nvidia-233").name
    assert (len(name), name[:15]) == (100, "GRID T4??[2J-8Q")


def test_alias_of_a_long_name_is_truncated():
    assigned = plan.Assignment("nvidia-1152", (), name="A" * 400)
    assert len(json.loads(nova_conf.alias(assigned, PciOptions()))["name"]) == 255


def test_functions_without_a_pci_id_get_no_alias(host):
    """Without IDs an alias matches every function, or keeps nova-compute from starting."""
    root = host("l40s-vendor-vfio")
    function = root / "sys/bus/pci/devices/0000:3d:00.4"
    (function / "nvidia/current_vgpu_type").write_text("1152\n")
    (function / "device").unlink()
    assigned_types.record(root, [PciAddress.parse("0000:3d:00.4")], "nvidia-1152")
    facts = gather(root)
    requests = mappings.requests(mappings.OPTION.parse("{L40S-8Q: ['3d:00.0']}"))
    planned = plan.make_plan(requests, facts.cards)
    for options in (PciOptions(), PciOptions(report_in_placement=True)):
        applied = compatibility.apply_release(planned, facts.cards, NovaVersion(31), options)
        assert applied.keeps_published
        problem = Problem(ProblemKind.CARD_UNREADABLE, PciAddress.parse("0000:3d:00.0"))
        assert problem in applied.problems


@pytest.mark.parametrize("output", ["x\x1b[2J", "a\0b", "x\u2028[DEFAULT]", "x" * 5000], ids=ascii)
def test_program_output_is_one_short_line_of_the_log(output):
    problem = Problem(ProblemKind.INSTALL_FAILED, reason=output)
    for text in (str(CommandError(("x",), output)), str(HostError(problem))):
        assert text.isprintable()
        assert len(text) <= 600


def test_resource_path_with_a_nul_is_a_missing_resource(machine, tmp_path):
    assert host_package.stamp(tmp_path / "a\0b") == ""
    with pytest.raises(HostError) as error:
        host_package.inspect(tmp_path / "a\0b", machine("t4-pair"))
    assert error.value.problem.kind is ProblemKind.RESOURCE_MISSING


def test_folder_with_the_name_of_the_legacy_service_is_removed(machine):
    simulated = machine("t4-pair")
    path = simulated.root / "etc/systemd/system/systemd-mdev-workaround.service"
    path.mkdir(parents=True)
    legacy_charm.take_over(simulated.root, simulated)
    assert not path.exists()


@pytest.mark.parametrize("text", ["[a]", "{a: b}", "a: {devices: [x]}", "{T4-8Q: 1}"])
def test_damaged_mapping_is_reported_by_the_boot_service(machine, text):
    simulated = machine("t4-pair")
    charm_state.save(simulated.root, charm_state.CharmState(mapping=MappingHistory(text)))
    assert boot.main(simulated.root, simulated) == 1
    assert [problem.kind for problem in boot_result.failures(simulated.root)] == [
        ProblemKind.OPTION_INVALID
    ]


def test_excessive_output_does_not_fill_memory():
    tracemalloc.start()
    output = commands.run("sh", "-c", "head -c 50000000 /dev/zero; echo end").stdout
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(output), output[-4:]) == (4 * 1024 * 1024, "end\n")
    assert peak < 25_000_000


def test_truncated_result_states_the_number_of_omitted_lines(cards):
    (card,) = cards("l40s-vendor-vfio")
    types = tuple(VgpuType(f"nvidia-{number}", "\u00e9" * 100) for number in range(2000))
    lines = list_vgpu_types.types_text([card._replace(types=types)]).splitlines()
    assert lines[-1] == (f"... and {2001 - len(lines)} more lines, which exceed the limit of Juju")
    assert len("\n".join(lines).encode()) < 120 * 1024


@pytest.mark.parametrize("action", ["list-vgpu-types", "show-plan"])
def test_json_result_that_is_too_large_for_juju_is_an_error(deploy, action):
    unit = deploy("t4-pair")
    if action == "list-vgpu-types":
        types = unit.machine.root / "sys/bus/pci/devices/0000:84:00.0/mdev_supported_types"
        for number in range(1000, 2000):
            (types / f"nvidia-{number}").mkdir()
    else:
        others = [f"{domain:04x}:99:00.0" for domain in range(4000)]
        unit.configure(f"{{nvidia-233: ['0000:84:00.0'], nvidia-35: [{','.join(others)}]}}")
        assert unit.status.name == "active"
    with pytest.raises(testing.ActionFailed, match="too large for Juju"):
        unit.action(action, format="json")


def test_missing_apt_cache_is_reported(machine):
    simulated = machine("t4-pair")
    simulated.fail("apt-cache", returncode=None)
    with pytest.raises(HostError) as error:
        apt.ensure_available_installed(simulated.root, simulated, "dkms")
    assert error.value.problem.kind is ProblemKind.INSTALL_FAILED


@pytest.mark.parametrize("command", ["systemctl is-active", "modprobe nvidia-vgpu-vfio"])
def test_missing_program_does_not_fail_the_hook(deploy, command):
    unit = deploy(recorded.without_driver("t4-pair"))
    unit.machine.fail(command, returncode=None)
    unit.attach(unit.machine.make_deb(unit.machine.root / "x.deb"))
    unit.action("pause")
    assert unit.status.name == "maintenance"


def test_excessive_dpkg_record_is_read_quickly(host):
    root = host("t4-pair")
    (root / "var/lib/dpkg/status").write_text("Package: nova-common\n" * 20_000)
    start = time.process_time()
    assert gather(root).nova is None
    assert time.process_time() - start < 5


def test_virtfn_link_to_the_card_itself_is_ignored(host):
    """Nova refuses to start with an address that appears twice."""
    root = host("t4-pair")
    (root / "sys/bus/pci/devices/0000:84:00.0/virtfn0").symlink_to("../0000:84:00.0")
    requests = mappings.requests(mappings.OPTION.parse("{T4-8Q: ['10de:1eb8']}"))
    (assignment,) = plan.make_plan(requests, gather(root).cards).assignments
    assert list(map(str, assignment.addresses)) == ["0000:84:00.0", "0000:d8:00.0"]


def test_two_long_arguments_leave_room_for_the_instruction():
    arguments = {"place": "9" * 150, "reason": "x" * 130}
    option, example = mappings.OPTION.name, mappings.OPTION.example
    problem = Problem(ProblemKind.OPTION_SYNTAX, option=option, example=example, **arguments)
    text = unit_status.format_problem(problem, "nova-compute-nvidia-vgpu")
    assert text.endswith("; example: {nvidia-35: ['0000:84:00.0']}")


def test_long_version_leaves_room_for_the_instruction():
    problem = Problem(ProblemKind.OPEN_MODULE, PciAddress.parse("0000:84:00.0"), version="9" * 30)
    assert unit_status.format_problem(problem, "nova-compute-nvidia-vgpu").endswith(", reboot")
