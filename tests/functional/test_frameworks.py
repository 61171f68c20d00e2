# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Each vGPU framework with a driver that reacts to writes: what Nova finds when it starts.

No hook runs between a boot and that moment, so the boot service alone has prepared the cards.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from bed import kernel, principal

import recorded

# What nova-compute looks for when it starts: functions that have a type,
ASSIGNED_TYPES = "cd /sys/bus/pci/devices; grep -Hsv '^0$' */nvidia/current_vgpu_type"
# functions that can still offer a type,
FREE = "cd /sys/bus/pci/devices; grep -Hs '^[1-9]' */mdev_supported_types/{}/available_instances"
# and mediated devices.
MDEVS = """\
cd /sys/bus/mdev/devices
for uuid in $(ls); do
    parent=$(dirname $(readlink -f $uuid))
    echo $uuid $(basename $(readlink $uuid/mdev_type)) ${parent##*/}
done
"""
FIRST, SECOND = (f"6f6d5a5e-1111-4000-8000-00000000000{number}" for number in (1, 2))


@pytest.fixture
def start_host(boot, ready_image):
    """Boots recorded hosts with NVIDIA's package, the relation and a nova-compute."""
    if kernel.why_sys_is_static():
        pytest.skip(f"/sys is static here: {kernel.why_sys_is_static()}")
    with contextlib.ExitStack() as stack:

        def start(name, script="true", **changes):
            host = recorded.host(name, **changes)
            booted, unit = stack.enter_context(boot(host, ready_image))
            booted.install_nova(host["nova"])
            booted.install_nova_compute(script)
            return booted, unit

        yield start


def functions(card, first, number):
    """Return the addresses of a number of virtual functions, from the first offset on."""
    bus = card[: card.rindex(":")]
    return [f"{bus}:{offset // 8:02x}.{offset % 8}" for offset in range(first, first + number)]


def assigned_types(host):
    """Return the types that the kernel shows on the functions now, by address."""
    return by_address(host.run("sh", "-c", ASSIGNED_TYPES, check=False).stdout.splitlines())


def by_address(lines):
    return {line.split("/")[0]: line.split(":")[-1] for line in lines}


def published(unit):
    """Return the published functions, and the alias."""
    pairs = principal.read(unit.databag)[0]["pci"]
    specs = [json.loads(text) for option, text in pairs if option == "device_spec"]
    (alias,) = [json.loads(text) for option, text in pairs if option == "alias"]
    assert {spec["managed"] for spec in specs} == {"no"}
    return [spec["address"] for spec in specs], alias


def journal(host):
    """Return the boot service's journal of this boot."""
    return host.run("journalctl", "-b", "-u", "nova-compute-nvidia-vgpu", "-o", "cat").stdout


def create(host, parent, type_id, uuid):
    """Create a mediated device, from within the host."""
    folder = f"/sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}"
    host.run("sh", "-c", f"echo {uuid} | tee {folder}/create")


def open_function(host, function):
    """Keep the VFIO group of a function open in a process, as QEMU does."""
    folder = (host.driver.root / "sys/bus/pci/devices" / function).resolve()
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/77")
    host.run("install", "-D", "/dev/null", "/dev/vfio/77")
    host.run("systemd-run", "--unit=guest", "sh", "-c", "exec sleep infinity </dev/vfio/77")


def test_l40s_has_its_types_before_nova_starts_at_every_boot(boot, nvidia_deb):
    if kernel.why_sys_is_static():
        pytest.skip(f"/sys is static here: {kernel.why_sys_is_static()}")
    six = dict.fromkeys(functions("0000:3d:00.0", 4, 6), "1152")
    with boot("l40s-vendor-vfio") as (host, unit):
        host.install_nova_compute(ASSIGNED_TYPES)
        unit.store(nvidia_deb)
        for hook in ("install", "config-changed", "start"):
            unit.hook(hook)
        unit.integrate()
        assert assigned_types(host) == {}
        unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
        assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
        assert assigned_types(host) == six
        before = unit.databag
        assert published(unit) == (
            list(six),
            {
                "name": "L40S-8Q",
                "device_type": "type-VF",
                "vendor_id": "10de",
                "product_id": "26b9",
            },
        )
        for _ in range(2):
            host.reboot()
            assert by_address(host.nova_start_output()) == six
        unit.hook("start")
        assert unit.databag == before
        assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")


def test_a100_is_partitioned_and_the_guests_mdev_is_recreated_after_a_boot(start_host):
    host, unit = start_host("a100-sriov-off", MDEVS + FREE.format("nvidia-474"))
    unit.configure(vgpu_device_mappings="{A100-1-5C: ['10de:20f1']}")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    sections, _ = principal.read(unit.databag)
    addresses = functions("0000:41:00.0", 4, 7)
    assert sections["mdev_nvidia-474"] == [["device_addresses", ",".join(addresses)]]
    create(host, "0000:41:00.5", "nvidia-474", FIRST)
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    host.reboot()
    mdev, *free = host.nova_start_output()
    assert mdev == f"{FIRST} nvidia-474 0000:41:00.5"
    all_functions = functions("0000:41:00.0", 4, 16)
    assert list(by_address(free)) == [
        address for address in all_functions if address != "0000:41:00.5"
    ]
    card = host.driver.card("0000:41:00.0")
    assert card["mig"] == {"enabled": True, "instances": [19] * 7}
    assert "switching MIG mode" not in journal(host)  # Ampere keeps it
    # Nova can use all published functions, and no more fit on the card.
    for number, address in enumerate(set(addresses) - {"0000:41:00.5"}):
        create(host, address, "nvidia-474", f"{FIRST[:-2]}{number + 10}")
    with pytest.raises(AssertionError, match="No space left on device"):
        create(host, "0000:41:01.3", "nvidia-474", SECOND)


def test_rtx_pro_6000_gets_its_mig_mode_back_before_nova_starts(start_host):
    """The card is in PCI domain 1, with functions from offset 2, and type names with spaces."""
    host, unit = start_host("rtx-pro-6000", ASSIGNED_TYPES)
    name = "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q"
    unit.configure(vgpu_device_mappings=f"{{{name}: ['10de:2bb5']}}")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    four = dict.fromkeys(functions("0001:c8:00.0", 2, 4), "1561")
    addresses, alias = published(unit)
    assert (addresses, alias["name"]) == (list(four), "DC-1-24Q")
    host.reboot()
    assert "0001:c8:00.0: switching MIG mode on" in journal(host)
    assert by_address(host.nova_start_output()) == four
    assert host.driver.card("0001:c8:00.0")["mig"]["instances"] == [47] * 4


def test_a40_offers_two_sizes_at_once_after_a_boot(start_host):
    """Every boot resets mixed-size mode, and it cannot be set while the card has a vGPU."""
    query = "nvidia-smi -q -i 0000:41:00.0 | grep Heterogeneous"
    host, unit = start_host("a40-mdev", MDEVS + query)
    text = "{A40-2Q: ['0000:41:00.4'], A40-4Q: ['0000:41:00.5']}"
    unit.configure(vgpu_device_mappings=text)
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 2 vGPU types")
    sections, _ = principal.read(unit.databag)
    assert sections["mdev_nvidia-558"] == [["device_addresses", "0000:41:00.4"]]
    assert sections["mdev_nvidia-560"] == [["device_addresses", "0000:41:00.5"]]
    create(host, "0000:41:00.4", "nvidia-558", FIRST)
    create(host, "0000:41:00.5", "nvidia-560", SECOND)
    recorded.define_guest(host.root, "instance-00000001", FIRST, SECOND)
    host.reboot()
    assert host.nova_start_output() == [
        f"{FIRST} nvidia-558 0000:41:00.4",
        f"{SECOND} nvidia-560 0000:41:00.5",
        "        vGPU Heterogeneous Mode           : Enabled",
    ]


@pytest.mark.parametrize(
    ("name", "mapping", "type_id", "parent", "other"),
    [
        ("t4-pair", "{T4-8Q: ['10de:1eb8']}", "nvidia-233", "0000:d8:00.0", "0000:84:00.0"),
        ("a40-mdev", "{A40-8Q: ['10de:2235']}", "nvidia-562", "0000:41:00.6", "0000:41:00.4"),
    ],
    ids=["card", "virtual function"],
)
def test_mdevs_of_guests_are_recreated_before_nova_starts(
    start_host, name, mapping, type_id, parent, other
):
    host, unit = start_host(name, MDEVS)
    unit.configure(vgpu_device_mappings=mapping)
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    create(host, parent, type_id, FIRST)
    create(host, other, type_id, SECOND)  # no guest has this one
    assert host.run("ls", "/sys/bus/mdev/devices").stdout.split() == [FIRST, SECOND]
    for _ in range(2):
        host.reboot()
        assert host.nova_start_output() == [f"{FIRST} {type_id} {parent}"]
    unit.hook("start")
    assert unit.status[0] == "active"
    host.run("sh", "-c", f"echo 1 | tee /sys/bus/mdev/devices/{FIRST}/remove")
    assert host.run("ls", "/sys/bus/mdev/devices").stdout == ""


def test_nova_30_recreates_mdevs_of_guests_itself(start_host):
    host, unit = start_host("t4-pair", MDEVS, nova="3:30.0.0-0ubuntu1")
    host.install("libvirt0", "7.3.0-1")
    unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    create(host, "0000:84:00.0", "nvidia-233", FIRST)
    definition = host.root / "etc/mdevctl.d/0000:84:00.0" / FIRST
    definition.parent.mkdir(parents=True)
    definition.write_text('{"mdev_type": "nvidia-233", "start": "auto"}')
    unit.hook("update-status")
    host.reboot()
    assert host.nova_start_output() == []
    host.install("libvirt0", "7.0.0-3")
    host.reboot()
    assert host.nova_start_output() == [f"{FIRST} nvidia-233 0000:84:00.0"]


def test_a_function_that_a_guest_uses_keeps_its_type(start_host):
    host, unit = start_host("l40s-vendor-vfio")
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    before = assigned_types(host)
    open_function(host, "0000:3d:00.5")
    for _ in range(2):
        unit.configure(vgpu_device_mappings="{L40S-24Q: ['10de:26b9']}")
        assert assigned_types(host) == before
    host.run("systemctl", "stop", "guest")
    unit.hook("update-status")
    assert assigned_types(host) == dict.fromkeys(functions("0000:3d:00.0", 4, 2), "1155")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    addresses, alias = published(unit)
    assert (addresses, alias["name"]) == (functions("0000:3d:00.0", 4, 2), "L40S-24Q")


def test_a_function_that_a_guest_uses_stays_published(start_host):
    """Otherwise Nova would lose the device of a running guest, and its alias."""
    host, unit = start_host("l40s-vendor-vfio")
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    before = unit.databag
    open_function(host, "0000:3d:00.5")
    unit.configure(vgpu_device_mappings="{L40S-24Q: ['10de:26b9']}")
    assert unit.databag == before
    assert unit.status[0] == "waiting"
    assert unit.status[1].startswith("Guests on 0000:3d:00.0 use nvidia-1152 (L40S-8Q); ")


def test_sriov_manage_is_retried_on_a_busy_card_and_on_one_without_a_driver(start_host):
    host, unit = start_host("a40-mdev")
    by_hand = "echo 32 | tee /sys/bus/pci/devices/0000:41:00.0/sriov_numvfs"
    assert "Input/output error" in host.run("sh", "-c", by_hand, check=False).stderr
    unit.configure(vgpu_device_mappings="{A40-8Q: ['10de:2235']}")
    (host.bed / "sriov-fault").write_text(
        "n=$(cat /bed/tries 2>/dev/null || echo 0); echo $((n + 1)) >/bed/tries\n"
        "[ $n -eq 2 ] && { rm /bed/sriov-fault; exec /usr/lib/nvidia/sriov-manage -e $1; }\n"
        "[ $n -eq 1 ] && echo $1 >/sys/bus/pci/drivers/nvidia/unbind\n"
        "echo 'Cannot obtain unbindLock'; exit 1\n"
    )
    host.reboot()
    unit.hook("start")
    assert host.run("cat", "/bed/tries").stdout == "3\n"
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert host.driver.card("0000:41:00.0")["sriov"]["enabled"] == 32


def test_a_type_that_the_driver_refuses_is_reported(start_host):
    host, unit = start_host("l40s-vendor-vfio")
    host.driver.refused = {1152}
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    assert unit.status == (
        "blocked",
        (
            "No nvidia-1152 on 0000:3d:00.4: the driver rejects it; fix this, "
            "then run reboot-install (next try HH:MM UTC)"
        ),
    )
    path = "/sys/bus/pci/devices/0000:3d:00.4/nvidia/current_vgpu_type"
    assert f"{path} refuses 1152: [Errno 5] Input/output error" in journal(host)
    assert assigned_types(host) == principal.read(unit.databag)[0] == {}
    host.driver.refused.clear()
    unit.hook_after_delay("update-status")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert len(assigned_types(host)) == 6
