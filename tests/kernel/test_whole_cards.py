# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whole cards on a real kernel: bound before any other driver, kept over boots, and released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
import topology
from bed import juju
from virtual_machine import VirtualMachine

CHARM = "/var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm"
STATE = "/var/lib/nova-compute-nvidia-vgpu"
DISPLAY = ["-device", "VGA,bus=pcie.0"]  # as the BMC of a server has
CARDS = [
    *topology.root_port("rp1"),
    *topology.card("t4", "rp1"),
    *topology.root_port("rp2"),
    *topology.card("t4", "rp2"),
    *topology.root_port("rp3"),
    *topology.board(["rtx", "audio"], "rp3"),
    *topology.root_port("rp4"),
    *topology.network_card("rp4"),
    *topology.root_port("rp5"),
    *topology.card("a100", "rp5"),
]
# What the charm does once it has accepted a value of the option.
APPLY = """
import json, sys
from pathlib import Path
from cards import boot_service, whole_cards
from gpu.problems import HostError
from host.facts import gather
from planning import passthrough
from planning.whole_cards import plan_whole_cards
from state import boot_result, charm_state
from system import commands

root = Path("/")
state = charm_state.load(root)._replace(requested_passthrough=sys.argv[1])
charm_state.save(root, state)
requests = passthrough.requests(passthrough.OPTION.read(sys.argv[1]))
facts = gather(root, passthrough.whole_devices(requests))
plan = plan_whole_cards(requests, facts.whole_cards, (), facts.functions_to_return)
whole_cards.approve(root, facts, plan)
boot_service.ensure_installed(root, commands.run, Path(sys.argv[2]))
try:
    boot_service.run_now(root, commands.run)
except HostError:
    pass
print(json.dumps([problem.to_row() for problem in boot_result.failures(root)]))
"""
# Takes the place of Nova: it writes down which drivers the cards have when it starts.
NOVA = """
[Unit]
After=network.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ls -l /sys/bus/pci/devices/*/driver >/run/drivers-at-nova'

[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def charm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charm as Juju unpacks it."""
    return juju.make_charm(tmp_path_factory.mktemp("charm") / "charm")


class Host:
    """A machine with the charm.

    Attributes:
        machine: the machine.
    """

    def __init__(self, machine: VirtualMachine, charm: Path) -> None:
        self.machine = machine
        machine.copy_in(charm, CHARM)
        machine.write("/etc/systemd/system/nova-compute.service", NOVA)
        machine.run("systemctl", "enable", "nova-compute")

    def configure(self, passthrough: str) -> list[list[object]]:
        """Apply a value of the option; return the problems that are left."""
        path = f"PYTHONPATH={CHARM}/src:{CHARM}/lib:{CHARM}/venv"
        command = ("env", path, "python3", "-c", APPLY, passthrough, CHARM)
        problems: list[list[object]] = json.loads(self.machine.run(*command, timeout=180).stdout)
        return problems

    def address(self, device: str) -> str:
        return self.machine.address_of(device)

    def drivers(self, *devices: str) -> list[str | None]:
        return [self.machine.driver_of(self.address(device)) for device in devices]

    def drivers_at_nova(self, *devices: str) -> list[str | None]:
        """Return the drivers that cards had when Nova started in this boot."""
        self.machine.wait_until_running()
        rows = [row.split() for row in self.machine.read("/run/drivers-at-nova").splitlines()]
        drivers = {Path(row[-3]).parent.name: Path(row[-1]).name for row in rows}
        return [drivers.get(self.address(device)) for device in devices]

    def has_been_probed(self, device: str, driver: str) -> bool:
        """Return whether a driver has seen a card in this boot."""
        return f"{driver} {self.address(device)}" in self.machine.run("dmesg").stdout


@pytest.fixture(scope="module")
def host(boot, charm) -> Iterator[Host]:
    with boot([*DISPLAY, *CARDS]) as machine:
        yield Host(machine, charm)


def request(host: Host) -> str:
    return f"{{t4: ['{host.address('rp1.0')}'], rtx: ['10de:2230']}}"


def test_requested_cards_are_bound_at_once_and_no_others(host):
    assert host.drivers("rp1.0", "rp2.0", "rp3.0", "rp3.1") == ["nvidia", "nvidia", "nvidia", None]
    assert host.configure(request(host)) == []
    drivers = host.drivers("rp1.0", "rp2.0", "rp3.0", "rp3.1", "rp4.0", "rp5.0")
    assert drivers == ["vfio-pci", "nvidia", "vfio-pci", "vfio-pci", "e1000e", "nvidia"]


@pytest.mark.parametrize("way", ["reboot", "power cut"])
def test_cards_are_bound_at_boot_before_their_driver_sees_them(host, way):
    """Although another card of the same driver is there, whose probe takes all cards it finds."""
    if way == "reboot":
        host.machine.reboot()
    else:
        host.machine.cut_power()
        host.machine.power_on()
    drivers = host.drivers_at_nova("rp1.0", "rp2.0", "rp3.0", "rp3.1")
    assert drivers == ["vfio-pci", "nvidia", "vfio-pci", "vfio-pci"]
    assert host.has_been_probed("rp2.0", "nvidia")
    assert not host.has_been_probed("rp1.0", "nvidia")


def test_card_that_a_guest_has_is_not_released(host):
    """The write would wait in the kernel until the guest ends, and block readers of the card."""
    process = host.machine.hold(host.address("rp1.0"))
    (problem,) = host.configure("{rtx: ['10de:2230']}")
    assert problem == [
        "binding-failed",
        host.address("rp1.0"),
        {"driver": "its own driver", "reason": "a guest uses it"},
    ]
    assert host.drivers("rp1.0") == ["vfio-pci"]
    host.machine.release(process)
    assert host.configure("{rtx: ['10de:2230']}") == []
    assert host.drivers("rp1.0", "rp3.0") == ["nvidia", "vfio-pci"]


def test_virtual_functions_of_another_driver_keep_the_card(host):
    address = host.address("rp5.0")
    host.machine.write(f"/sys/bus/pci/devices/{address}/sriov_numvfs", "2")
    problems = host.configure(f"{{a100: ['{address}']}}")
    assert [problem[0] for problem in problems] == ["virtual-functions-failed"]
    assert host.drivers("rp5.0") == ["nvidia"]
    host.machine.write(f"/sys/bus/pci/devices/{address}/sriov_numvfs", "0")
    assert host.configure(f"{{a100: ['{address}']}}") == []
    assert host.drivers("rp5.0", "rp3.0", "rp3.1") == ["vfio-pci", "nvidia", None]


def test_network_function_with_an_address_is_left_alone(host):
    cards, nics = host.address("rp1.0"), host.address("rp4.0")
    text = f"{{t4: {{devices: ['{cards}'], nics: ['{nics}']}}}}"
    host.machine.run("ip", "link", "set", "eth0", "up")
    host.machine.run("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
    host.configure(text)
    assert host.drivers("rp4.0") == ["e1000e"]
    # The boot service sees the address too, whatever was recorded before.
    host.machine.write(f"{STATE}/bound-functions.json", json.dumps({nics: "8086:10d3"}))
    host.machine.run("systemctl", "restart", "nova-compute-nvidia-vgpu", check=False)
    assert host.drivers("rp4.0") == ["e1000e"]
    host.machine.run("ip", "address", "flush", "dev", "eth0")
    assert host.configure(text) == []
    assert host.drivers("rp1.0", "rp4.0") == ["vfio-pci", "vfio-pci"]
    assert host.configure(f"{{t4: ['{cards}']}}") == []
    assert host.drivers("rp1.0", "rp4.0") == ["vfio-pci", "e1000e"]


def test_driver_that_does_not_release_a_card_does_not_block_the_service(host):
    address = host.address("rp2.0")
    host.machine.write("/sys/module/nvidia/parameters/in_use", address)
    (problem,) = host.configure(f"{{t4: ['{address}']}}")
    assert problem == [
        "binding-failed",
        address,
        {"driver": "vfio-pci", "reason": "nvidia does not release it"},
    ]
    host.machine.write("/sys/module/nvidia/parameters/in_use", "\n")
    host.machine.wait_until(lambda: host.drivers("rp2.0") != ["nvidia"])
    assert host.configure(f"{{t4: ['{address}']}}") == []
    assert host.drivers("rp2.0") == ["vfio-pci"]


def test_nothing_is_bound_and_nova_starts_without_an_iommu(host):
    host.machine.iommu = False
    host.machine.reboot()
    assert host.drivers_at_nova("rp2.0", "rp1.0") == [None, "nvidia"]


def test_cards_are_bound_at_boot_where_vfio_pci_is_built_in(boot, charm):
    """As in Ubuntu's kernels: then no module is loaded, and an override alone binds nothing."""
    with boot(CARDS, vfio_built_in=True) as machine:
        host = Host(machine, charm)
        assert host.configure(request(host)) == []
        machine.reboot()
        assert host.drivers_at_nova("rp1.0", "rp2.0") == ["vfio-pci", "nvidia"]
        assert not host.has_been_probed("rp1.0", "nvidia")
        # Without another display, the firmware uses the card.
        assert host.drivers("rp3.0", "rp3.1") == ["nvidia", None]
