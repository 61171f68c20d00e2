# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a spoilt host shows is no crash and costs little: found with made-up input."""

from __future__ import annotations

import json
import time

import devices
import guests
import mappings
import nova_conf
import nvidia_smi
import plan
import recorded
from facts import gather
from pci import list_gpus
from problem import Kind


def test_type_in_digits_of_another_script_is_none(host):
    root = host("l40s-vendor-vfio")
    path = root / "sys/bus/pci/devices/0000:3d:00.4/nvidia/current_vgpu_type"
    path.write_text("\u00b2\n", encoding="utf-8")
    assert len(gather(root).cards[0].parents) == 31


def test_status_of_two_words_is_a_package_that_is_not_there(host):
    root = host("t4-pair")
    path = root / "var/lib/dpkg/status"
    path.write_text(path.read_text().replace("Status: install ok installed", "Status: install ok"))
    assert gather(root).nova is None


def test_version_without_end_is_none(host):
    root = host("t4-pair")
    recorded.write_dpkg_status(root, [("libvirt0", "9" * 5000 + ".0.0", "installed")])
    assert gather(root).libvirt is None


def test_record_of_lspci_without_a_slot_is_passed_over(machine):
    on = machine("t4-pair")
    on.fail("lspci", returncode=0, stdout="Class:\t0302\nVendor:\t10de\n\n")
    assert len(list_gpus(on.root, on).gpus) == 2


def test_two_links_to_one_function_are_one_function(host):
    root = host("a40-mdev")
    card = root / "sys/bus/pci/devices/0000:41:00.0"
    (card / "virtfn32").symlink_to("../0000:41:00.4")
    assert len(list_gpus(root).gpus[0].virtual_functions) == 32


def test_definition_that_never_closes_is_read_in_no_time(tmp_path):
    path = tmp_path / "etc/libvirt/qemu/instance-00000001.xml"
    path.parent.mkdir(parents=True)
    path.write_text("<hostdev type='mdev'><source>" * 40_000)
    start = time.process_time()
    assert guests.defined_mdevs(tmp_path) == frozenset()
    assert time.process_time() - start < 5


def test_count_without_end_is_none(machine):
    """A number that a driver makes up must not become a list of that length."""
    on = machine("a100-80-pair")
    block = "vGPU Type ID : 0x2bb\nName : GRID A100D-1-10C\nMax Instances : 99999999999\n"
    on.fail("nvidia-smi vgpu -s", returncode=0, stdout=block)
    (told,) = nvidia_smi.supported_types(on, list_gpus(on.root).gpus[0].address)
    assert (told.id, told.maximum) == ("nvidia-699", None)


def test_blank_name_is_called_by_its_id(host):
    root = host("l40s-vendor-vfio")
    for path in root.glob("sys/devices/pci0000:3d/*/nvidia/creatable_vgpu_types"):
        path.write_text("ID    : vGPU Name\n1152  : \u00a0\n", encoding="utf-8")
    card = gather(root).cards[0]
    assert card.find_type("L40S-8Q") is None
    assigned = plan.Assignment(
        "nvidia-1152", card.parents[:1], name=card.types[0].name, function_id=card.function_id
    )
    assert '"name": "nvidia-1152"' in nova_conf.alias(assigned, plan.PciOptions())


def test_name_without_end_makes_a_class_that_placement_takes():
    assigned = plan.Assignment("nvidia-1152", (), name="A" * 400)
    found = nova_conf.alias(assigned, plan.PciOptions(report_in_placement=True))
    assert len(json.loads(found)["resource_class"]) == 255


def test_value_that_is_read_back_as_no_text_is_no_type(machine):
    on = machine("l40s-vendor-vfio")

    def write(path, _):
        path.write_bytes(b"\xff\n")

    requests = mappings.requests(mappings.parse("{L40S-8Q: ['3d:00.0']}"))
    (problem,) = devices.ensure(on.root, on, requests, write=write)
    assert (problem.kind, problem.more) == (Kind.TYPE_REFUSED, "the driver says no")
