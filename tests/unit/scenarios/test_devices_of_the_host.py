# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that the host or a program uses are never taken, neither by a hook nor at a boot."""

from __future__ import annotations

import os
import shutil

import pytest

import early_boot
import recorded
from cards import boot_service
from host import libvirt_guests
from unit import ready

T4, H200, NIC, OTHER_PORT = "0000:3b:00.0", "0000:af:00.0", "0000:b1:00.0", "0000:b1:00.1"
DISK = "0000:b2:00.0"
GPUDIRECT = "{h200: {devices: ['10de:2335'], nics: ['15b3:1021']}}"


def functions(*more, **changes):
    """Return the functions of the host with others, and with changes to some."""
    functions = recorded.host("whole-cards")["functions"]
    return [*({**item, **changes.get(item["address"], {})} for item in functions), *more]


def configure(unit, passthrough):
    unit.change(config={"passthrough-devices": passthrough})
    unit.hook("config_changed")


def folder(unit, address):
    return (unit.machine.root / "sys/bus/pci/devices" / address).resolve()


def driver_of(unit, address):
    return os.path.basename(os.readlink(folder(unit, address) / "driver"))


def use_for_network(unit, address=NIC, name="ibs1"):
    """Give the host's default route to a network function."""
    root = unit.machine.root
    (folder(unit, address) / "net" / name).mkdir(parents=True)
    route = root / "proc/net/route"
    route.parent.mkdir(parents=True, exist_ok=True)
    route.write_text(f"Iface\tDestination\n{name}\t00000000\n")
    return route


def open_in_program(unit, device, program="ovs-vswitchd"):
    process = unit.machine.root / "proc/55"
    (process / "fd").mkdir(parents=True)
    (process / "fd/9").symlink_to(device)
    (process / "comm").write_text(f"{program}\n")


def group_of(unit, address):
    return os.path.basename(os.readlink(folder(unit, address) / "iommu_group"))


# The network of the host


def test_boot_does_not_take_a_function_whose_address_is_not_configured_yet(deploy):
    """The boot service starts before DHCP has ended; each hook sees the address."""
    unit = deploy("whole-cards")
    route = use_for_network(unit)
    configure(unit, GPUDIRECT)
    assert "in use by the host: ibs1" in unit.status.message
    route.write_text("Iface\tDestination\n")
    unit.machine.reboot()
    assert driver_of(unit, NIC) == "mlx5_core"


def test_card_that_appears_at_a_boot_waits_for_a_hook(deploy):
    unit = deploy("whole-cards", functions=functions()[1:])
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.host = {**unit.machine.host, "functions": functions()}
    unit.machine.reboot()
    assert driver_of(unit, T4) == "nvidia"
    unit.hook("start")
    assert driver_of(unit, T4) == "vfio-pci"
    assert unit.status == ready("5 NVIDIA GPUs, 1 whole card")


def with_stale_guest(unit):
    """A guest is still defined with the function, though it is shut off."""
    unit.machine.define_guest(NIC)


def with_pause(unit):
    unit.action("pause")


def with_pause_of_nova_compute(unit):
    unit.machine("systemctl", "mask", "nova-compute")


def without_any_request(unit):
    """A guest is still defined with it, so it is not to be returned either."""
    unit.machine.define_guest(NIC)
    configure(unit, "")


def with_disk_in_its_group(unit):
    """The unit names this reason first."""
    unit.machine.driver.bind(DISK, "nvme")


@pytest.mark.parametrize(
    "change",
    [
        *(None, with_stale_guest, without_any_request, with_pause, with_pause_of_nova_compute),
        with_disk_in_its_group,
    ],
    ids=lambda change: getattr(change, "__name__", "alone"),
)
def test_boot_spares_a_function_that_went_back_to_the_host(deploy, change):
    disk = {"address": DISK, "id": "144d:a824", "class": "010802", "iommu-group": 9}
    unit = deploy("whole-cards", functions=functions(disk, **{NIC: {"iommu-group": 9}}))
    configure(unit, GPUDIRECT)
    assert driver_of(unit, NIC) == "vfio-pci"
    driver = unit.machine.driver
    driver.overrides.clear()
    driver.bind(NIC, "mlx5_core")  # by an operator, who configures it
    use_for_network(unit)
    if change is not None:
        change(unit)
    unit.hook("update_status")
    driver.bind(NIC, None)  # as the kernel shows it before udev
    early_boot.main(unit.machine.root, unit.machine)
    assert not (folder(unit, NIC) / "driver").exists()


def enable_functions(unit):
    (folder(unit, NIC) / "sriov_totalvfs").write_text("8\n")
    (folder(unit, NIC) / "sriov_numvfs").write_text("4\n")


def run_dpdk(unit):
    """The driver of ConnectX serves DPDK beside the kernel."""
    node = folder(unit, NIC) / "infiniband_verbs/uverbs0"
    node.mkdir(parents=True)
    numbers = unit.machine.root / "sys/dev/char"
    numbers.mkdir(parents=True)
    (numbers / "231:192").symlink_to(node)
    open_in_program(unit, "/dev/infiniband/uverbs0")


@pytest.mark.parametrize("use", [enable_functions, run_dpdk])
def test_boot_spares_a_function_without_an_address_that_the_host_uses(deploy, use):
    unit = deploy("whole-cards")
    configure(unit, GPUDIRECT)
    driver = unit.machine.driver
    driver.overrides.clear()
    driver.bind(NIC, "mlx5_core")
    use(unit)
    unit.hook("update_status")
    driver.bind(NIC, None)
    early_boot.main(unit.machine.root, unit.machine)
    assert not (folder(unit, NIC) / "driver").exists()


@pytest.mark.parametrize("place", ["net", "mlx5_core.sf.2/net"])
def test_interface_in_another_network_namespace_is_in_use(deploy, place):
    """Such as that of a container; the kernel shows an empty folder of interfaces."""
    unit = deploy("whole-cards")
    (folder(unit, NIC) / place).mkdir(parents=True)
    configure(unit, GPUDIRECT)
    assert "its interface (in another network namespace)" in unit.status.message
    assert driver_of(unit, NIC) == "mlx5_core"


def test_card_is_not_approved_while_the_boot_service_is_masked(deploy):
    unit = deploy("whole-cards")
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine("systemctl", "mask", boot_service.SERVICE)
    configure(unit, "{t4: ['10de:1eb8'], h200: ['af:00.0']}")
    assert unit.status.message.startswith("The boot service is masked")
    unit.machine.reboot()
    assert (driver_of(unit, T4), driver_of(unit, H200)) == ("vfio-pci", "nvidia")


def test_program_that_had_a_card_once_does_not_keep_it_at_the_next_boot(deploy):
    """As nvidia-persistenced, at a boot at which the early service did not run."""
    unit = deploy("whole-cards")
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.reboot(starts=False)
    open_in_program(unit, "/dev/nvidia0", "nvidia-persistenced")
    unit.hook("start")
    assert unit.status.message.startswith(f"nvidia-persistenced uses {T4}; stop it")
    shutil.rmtree(unit.machine.root / "proc/55")
    unit.machine.reboot()
    assert driver_of(unit, T4) == "vfio-pci"


@pytest.mark.parametrize("is_boot", [True, False], ids=["boot", "hook"])
def test_device_that_an_operator_binds_in_the_slot_of_a_removed_card_stays(deploy, is_boot):
    unit = deploy("whole-cards")
    configure(unit, "{t4: ['10de:1eb8']}")
    machine = unit.machine
    disk = {"id": "144d:a824", "class": "010802", "types": None}
    machine.host = {**machine.host, "functions": functions(**{T4: disk})}
    machine.reboot(starts=False)
    machine.driver.overrides[T4] = "vfio-pci"
    machine.driver.bind(T4, "vfio-pci")  # by driverctl
    if is_boot:
        machine("systemctl", "start", boot_service.SERVICE)
    else:
        unit.hook("start")
    assert driver_of(unit, T4) == "vfio-pci"


# Programs


@pytest.mark.parametrize(
    ("driver", "node"), [("igb_uio", "uio/uio0"), ("mlx5_vfio_pci", "vfio-dev/vfio3")]
)
def test_function_with_a_driver_for_programs_is_left_to_them(deploy, driver, node):
    """Such as a port of DPDK. Removing the driver would wait until the program ends."""
    unit = deploy("whole-cards", functions=functions(**{NIC: {"driver": driver}}))
    (folder(unit, NIC) / node).mkdir(parents=True)
    configure(unit, GPUDIRECT)
    assert f"{NIC} is bound to {driver}; unbind it" in unit.action("show-plan")["output"]
    assert not unit.machine.did(f"sh {NIC}")
    assert driver_of(unit, NIC) == driver


@pytest.mark.parametrize(
    ("address", "passthrough", "program"),
    [(NIC, GPUDIRECT, "ovs-vswitchd"), (T4, "{t4: ['10de:1eb8']}", "qemu-system-x86")],
)
def test_device_on_vfio_that_a_program_has_open_is_not_offered(
    deploy, address, passthrough, program
):
    """A port of DPDK, or a card of a virtual machine that libvirt does not define."""
    unit = deploy("whole-cards", functions=functions(**{address: {"driver": "vfio-pci"}}))
    open_in_program(unit, f"/dev/vfio/{group_of(unit, address)}", program)
    configure(unit, passthrough)
    assert f"{program} uses {address}; stop it" in unit.action("show-plan")["output"]
    assert "pci" not in unit.sections


def test_switch_that_fabric_manager_uses_is_left_alone(deploy):
    switch = "0000:83:00.0"
    function = {"id": "10de:22a3", "class": "068000", "driver": "nvidia-nvswitch"}
    unit = deploy("whole-cards", functions=functions({"address": switch, **function}))
    open_in_program(unit, "/dev/nvidia-nvswitch0", "nv-fabricmanager")
    configure(unit, "{nvswitch: ['10de:22a3']}")
    assert unit.status.message.startswith(f"nv-fabricmanager uses {switch}; stop it")
    assert driver_of(unit, switch) == "nvidia-nvswitch"


# IOMMU groups


def pair_in_one_group(deploy):
    cards = [item for item in recorded.host("t4-pair")["functions"] if item.get("types")]
    functions = [{**card, "iommu-group": 7} for card in cards]
    return deploy("t4-pair", nova="3:31.0.0-0ubuntu1", functions=functions)


def port(group=None):
    function = {"address": OTHER_PORT, "id": "15b3:1021", "class": "020000", "numa": 1}
    return {**function, "driver": "mlx5_core", **({"iommu-group": group} if group else {})}


def test_group_with_a_requested_function_that_the_host_uses_is_not_offered(deploy):
    group = 45312
    unit = deploy("whole-cards", functions=functions(port(group), **{NIC: {"iommu-group": group}}))
    use_for_network(unit, OTHER_PORT, "ens1")
    configure(unit, GPUDIRECT)
    assert driver_of(unit, OTHER_PORT) == "mlx5_core"
    shown = unit.action("show-plan")["output"]
    assert f"{NIC} shares its IOMMU group with {OTHER_PORT} (mlx5_core); use another slot" in shown
    assert "pci" not in unit.sections


def test_group_with_a_card_that_is_too_far_from_a_nic_is_not_offered(deploy):
    changes = {T4: {"iommu-group": 9, "numa": 0}, H200: {"iommu-group": 9}}
    unit = deploy("whole-cards", functions=functions(**changes))
    configure(unit, "{gpu: {devices: ['10de:2335', '10de:1eb8'], nics: ['15b3:1021']}}")
    assert (driver_of(unit, T4), driver_of(unit, H200)) == ("nvidia", "nvidia")
    assert "pci" not in unit.sections


def test_cards_of_one_group_are_for_one_guest(deploy):
    unit = pair_in_one_group(deploy)
    configure(unit, "{t4: ['10de:1eb8']}")
    assert unit.status == ready(
        "2 NVIDIA GPUs, 2 whole cards; 0000:d8:00.0 shares its IOMMU group with 0000:84:00.0; "
        "only one guest c..."
    )


def test_port_that_is_no_longer_named_goes_back_although_the_other_one_stays(deploy):
    unit = deploy("whole-cards", functions=functions(port()))
    text = "{{h200: {{devices: ['10de:2335'], nics: [{}]}}}}"
    configure(unit, text.format(f"'{NIC}', '{OTHER_PORT}'"))
    assert driver_of(unit, OTHER_PORT) == "vfio-pci"
    configure(unit, text.format(f"'{NIC}'"))
    assert driver_of(unit, OTHER_PORT) == "mlx5_core"
    assert driver_of(unit, NIC) == "vfio-pci"


def test_guest_with_one_card_of_a_group_leaves_the_other_one_offered(deploy):
    """It has the complete group open, as a program would have."""
    unit = pair_in_one_group(deploy)
    configure(unit, "{t4: ['10de:1eb8']}")
    before = unit.sections
    unit.machine.define_guest("0000:84:00.0")
    open_in_program(unit, "/dev/vfio/7", "qemu-system-x86")
    unit.hook("update_status")
    assert unit.sections == before


def test_card_is_not_offered_while_another_one_of_its_group_is_not_bound(deploy):
    unit = pair_in_one_group(deploy)
    unit.machine.driver.unbindable.add("0000:d8:00.0")
    configure(unit, "{t4: ['10de:1eb8']}")
    assert unit.status.message.startswith("0000:d8:00.0 cannot be bound to vfio-pci")
    assert "pci" not in unit.sections


def test_network_function_that_a_guest_has_by_other_means_is_left_alone(deploy):
    """Such as a port of Neutron; the guest is shut off, so the host has the function now."""
    far = {**port(), "address": "0000:5f:00.0", "numa": 0}
    unit = deploy("whole-cards", functions=functions(far))
    unit.machine.define_guest("0000:5f:00.0")
    configure(unit, GPUDIRECT)
    assert driver_of(unit, "0000:5f:00.0") == "mlx5_core"
    assert unit.device_specs() == [H200, NIC]


def test_port_beside_that_of_a_guest_is_not_its(deploy):
    group = 45312
    unit = deploy("whole-cards", functions=functions(port(group), **{NIC: {"iommu-group": group}}))
    unit.machine.define_guest(NIC)
    use_for_network(unit)
    configure(unit, GPUDIRECT)
    assert (driver_of(unit, NIC), driver_of(unit, OTHER_PORT)) == ("mlx5_core", "mlx5_core")
    assert "pci" not in unit.sections


def test_card_in_the_group_of_a_guest_stays_bound(deploy):
    """Without it the guest, which is shut off, could not start again."""
    unit = pair_in_one_group(deploy)
    configure(unit, "{t4: ['10de:1eb8']}")
    unit.machine.define_guest("0000:84:00.0")
    configure(unit, "")
    assert driver_of(unit, "0000:d8:00.0") == "vfio-pci"


def test_guest_that_starts_while_the_host_is_read_is_not_another_program(deploy, monkeypatch):
    unit = deploy("whole-cards", functions=functions(**{T4: {"driver": "vfio-pci"}}))
    configure(unit, "{t4: ['10de:1eb8']}")
    before = unit.sections
    find_open = libvirt_guests.open_functions

    def start_guest(root, addresses):
        unit.machine.define_guest(T4)
        if not (root / "proc/55").exists():
            open_in_program(unit, f"/dev/vfio/{group_of(unit, T4)}", "qemu-system-x86")
        return find_open(root, addresses)

    monkeypatch.setattr(libvirt_guests, "open_functions", start_guest)
    unit.hook("update_status")
    assert unit.sections == before
