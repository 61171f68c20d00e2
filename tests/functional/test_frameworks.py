# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Each way in which cards offer vGPUs, under a driver that answers: what Nova finds at its start.

After each boot no hook is run before that: what is there, the boot service has made.
"""

from __future__ import annotations

import contextlib
import json

import pytest
from bed import kernel, principal

import recorded

# What nova-compute looks at when it starts: functions that carry a type,
CARRIED = "cd /sys/bus/pci/devices; grep -Hsv '^0$' */nvidia/current_vgpu_type"
# functions that have room for a type,
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
def at_work(boot, ready_image):
    """Boots recorded hosts that have NVIDIA's package and the relation, and a nova-compute."""
    if kernel.why_still():
        pytest.skip(f"no /sys reacts here: {kernel.why_still()}")
    with contextlib.ExitStack() as stack:

        def start(name, look="true", **changes):
            host = recorded.host(name, **changes)
            booted, unit = stack.enter_context(boot(host, ready_image))
            booted.install_nova(host["nova"])
            booted.install_nova_compute(look)
            return booted, unit

        yield start


def functions(card, first, number):
    """Return the addresses of virtual functions, from one on."""
    bus = card[: card.rindex(":")]
    return [f"{bus}:{each // 8:02x}.{each % 8}" for each in range(first, first + number)]


def carried(host):
    """Return what the functions carry, by their address, as the kernel shows it now."""
    return found(host.run("sh", "-c", CARRIED, check=False).stdout.splitlines())


def found(lines):
    return {line.split("/")[0]: line.split(":")[-1] for line in lines}


def published(unit):
    """Return the functions that Nova is told of, and the alias."""
    pairs = principal.read(unit.databag)[0]["pci"]
    specs = [json.loads(text) for option, text in pairs if option == "device_spec"]
    (alias,) = [json.loads(text) for option, text in pairs if option == "alias"]
    assert {spec["managed"] for spec in specs} == {"no"}
    return [spec["address"] for spec in specs], alias


def journal(host):
    """Return what the boot service did in this boot."""
    return host.run("journalctl", "-b", "-u", "nova-compute-nvidia-vgpu", "-o", "cat").stdout


def create(host, parent, type_id, uuid):
    """Make a mediated device, from within the host."""
    folder = f"/sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}"
    host.run("sh", "-c", f"echo {uuid} | tee {folder}/create")


def hold_open(host, function):
    """Let a process hold the VFIO group of a function, as QEMU does."""
    folder = (host.driver.root / "sys/bus/pci/devices" / function).resolve()
    (folder / "iommu_group").symlink_to("../../../kernel/iommu_groups/77")
    host.run("install", "-D", "/dev/null", "/dev/vfio/77")
    host.run("systemd-run", "--unit=guest", "sh", "-c", "exec sleep infinity </dev/vfio/77")


def test_l40s_from_the_package_to_the_types_that_nova_finds_at_every_boot(boot, nvidia_deb):
    if kernel.why_still():
        pytest.skip(f"no /sys reacts here: {kernel.why_still()}")
    six = dict.fromkeys(functions("0000:3d:00.0", 4, 6), "1152")
    with boot("l40s-vendor-vfio") as (host, unit):
        host.install_nova_compute(CARRIED)
        unit.store(nvidia_deb)
        for hook in ("install", "config-changed", "start"):
            unit.hook(hook)
        unit.integrate()
        assert carried(host) == {}
        unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
        assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
        assert carried(host) == six
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
            assert found(host.found_by_nova()) == six
        unit.hook("start")
        assert unit.databag == before
        assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")


def test_a100_is_parted_for_a_mig_backed_type_and_its_guests_are_back_after_a_boot(at_work):
    host, unit = at_work("a100-sriov-off", MDEVS + FREE.format("nvidia-474"))
    unit.configure(vgpu_device_mappings="{A100-1-5C: ['10de:20f1']}")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    sections, _ = principal.read(unit.databag)
    addresses = functions("0000:41:00.0", 4, 7)
    assert sections["mdev_nvidia-474"] == [["device_addresses", ",".join(addresses)]]
    create(host, "0000:41:00.5", "nvidia-474", FIRST)
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    host.reboot()
    mdev, *free = host.found_by_nova()
    assert mdev == f"{FIRST} nvidia-474 0000:41:00.5"
    every = functions("0000:41:00.0", 4, 16)
    assert list(found(free)) == [address for address in every if address != "0000:41:00.5"]
    card = host.driver.card("0000:41:00.0")
    assert card["mig"] == {"enabled": True, "instances": [19] * 7}
    assert "switching MIG mode" not in journal(host)  # which Ampere keeps
    # Nova can use all that are published, and the card holds no more.
    for number, address in enumerate(set(addresses) - {"0000:41:00.5"}):
        create(host, address, "nvidia-474", f"{FIRST[:-2]}{number + 10}")
    with pytest.raises(AssertionError, match="No space left on device"):
        create(host, "0000:41:01.3", "nvidia-474", SECOND)


def test_rtx_pro_6000_loses_its_mig_mode_and_nova_does_not_see_it(at_work):
    """In PCI domain 1, its functions from offset 2 on, its types' names with blanks."""
    host, unit = at_work("rtx-pro-6000", CARRIED)
    name = "NVIDIA RTX Pro 6000 Blackwell DC-1-24Q"
    unit.configure(vgpu_device_mappings=f"{{{name}: ['10de:2bb5']}}")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    four = dict.fromkeys(functions("0001:c8:00.0", 2, 4), "1561")
    addresses, alias = published(unit)
    assert (addresses, alias["name"]) == (list(four), "DC-1-24Q")
    host.reboot()
    assert "0001:c8:00.0: switching MIG mode on" in journal(host)
    assert found(host.found_by_nova()) == four
    assert host.driver.card("0001:c8:00.0")["mig"]["instances"] == [47] * 4


def test_a40_carries_two_sizes_at_once_after_a_boot(at_work):
    """Mixed-size mode goes with every boot, and cannot come once there is a vGPU."""
    query = "nvidia-smi -q -i 0000:41:00.0 | grep Heterogeneous"
    host, unit = at_work("a40-mdev", MDEVS + query)
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
    assert host.found_by_nova() == [
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
    ids=["on-a-card", "on-a-function"],
)
def test_guests_mdevs_are_back_before_nova(at_work, name, mapping, type_id, parent, other):
    host, unit = at_work(name, MDEVS)
    unit.configure(vgpu_device_mappings=mapping)
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    create(host, parent, type_id, FIRST)
    create(host, other, type_id, SECOND)  # which no guest has
    assert host.run("ls", "/sys/bus/mdev/devices").stdout.split() == [FIRST, SECOND]
    for _ in range(2):
        host.reboot()
        assert host.found_by_nova() == [f"{FIRST} {type_id} {parent}"]
    unit.hook("start")
    assert unit.status[0] == "active"
    host.run("sh", "-c", f"echo 1 | tee /sys/bus/mdev/devices/{FIRST}/remove")
    assert host.run("ls", "/sys/bus/mdev/devices").stdout == ""


def test_nova_30_brings_guests_mdevs_back_by_itself(at_work):
    host, unit = at_work("t4-pair", MDEVS, nova="3:30.0.0-0ubuntu1")
    host.install("libvirt0", "7.3.0-1")
    unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
    recorded.define_guest(host.root, "instance-00000001", FIRST)
    create(host, "0000:84:00.0", "nvidia-233", FIRST)
    definition = host.root / "etc/mdevctl.d/0000:84:00.0" / FIRST
    definition.parent.mkdir(parents=True)
    definition.write_text('{"mdev_type": "nvidia-233", "start": "auto"}')
    unit.hook("update-status")
    host.reboot()
    assert host.found_by_nova() == []
    host.install("libvirt0", "7.0.0-3")
    host.reboot()
    assert host.found_by_nova() == [f"{FIRST} nvidia-233 0000:84:00.0"]


def test_a_function_that_a_guest_holds_open_keeps_its_type(at_work):
    host, unit = at_work("l40s-vendor-vfio")
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    before = carried(host)
    hold_open(host, "0000:3d:00.5")
    for _ in range(2):
        unit.configure(vgpu_device_mappings="{L40S-24Q: ['10de:26b9']}")
        assert carried(host) == before
    host.run("systemctl", "stop", "guest")
    unit.hook("update-status")
    assert carried(host) == dict.fromkeys(functions("0000:3d:00.0", 4, 2), "1155")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    addresses, alias = published(unit)
    assert (addresses, alias["name"]) == (functions("0000:3d:00.0", 4, 2), "L40S-24Q")


def test_what_a_guest_holds_open_stays_published(at_work):
    """Nova would lose the device of a guest that runs, and its alias."""
    host, unit = at_work("l40s-vendor-vfio")
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    before = unit.databag
    hold_open(host, "0000:3d:00.5")
    unit.configure(vgpu_device_mappings="{L40S-24Q: ['10de:26b9']}")
    assert unit.databag == before
    assert unit.status[0] == "waiting"
    assert unit.status[1].startswith("Waiting for the guests of 0000:3d:00.0 to leave ")


def test_a_client_that_holds_the_card_and_one_left_without_a_driver_are_got_over(at_work):
    host, unit = at_work("a40-mdev")
    by_hand = "echo 32 | tee /sys/bus/pci/devices/0000:41:00.0/sriov_numvfs"
    assert "Input/output error" in host.run("sh", "-c", by_hand, check=False).stderr
    (host.bed / "sriov-fault").write_text(
        "n=$(cat /run/tries 2>/dev/null || echo 0); echo $((n + 1)) >/run/tries\n"
        "[ $n -eq 2 ] && { rm /bed/sriov-fault; exec /usr/lib/nvidia/sriov-manage -e $1; }\n"
        "[ $n -eq 1 ] && echo $1 >/sys/bus/pci/drivers/nvidia/unbind\n"
        "echo 'Cannot obtain unbindLock'; exit 1\n"
    )
    unit.configure(vgpu_device_mappings="{A40-8Q: ['10de:2235']}")
    assert host.run("cat", "/run/tries").stdout == "3\n"
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert host.driver.card("0000:41:00.0")["sriov"]["enabled"] == 32


def test_a_type_that_the_driver_refuses_is_said(at_work):
    host, unit = at_work("l40s-vendor-vfio")
    host.driver.refused = {1152}
    unit.configure(vgpu_device_mappings="{L40S-8Q: ['10de:26b9']}")
    assert unit.status == (
        "blocked",
        "0000:3d:00.4 refuses nvidia-1152: the driver says no; "
        "see journalctl -u nova-compute-nvidia-vgpu",
    )
    path = "/sys/bus/pci/devices/0000:3d:00.4/nvidia/current_vgpu_type"
    assert f"{path} refuses 1152: [Errno 5] Input/output error" in journal(host)
    assert carried(host) == principal.read(unit.databag)[0] == {}
    host.driver.refused.clear()
    unit.hook("update-status")
    assert unit.status == ("active", "Unit is ready: 1 NVIDIA GPU, 1 vGPU type")
    assert len(carried(host)) == 6
