# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenStack in this process: Nova's API, scheduler, conductor and compute service; placement.

All of it is Nova's own code. The fixtures of Nova's functional tests connect the parts: databases
in memory, a message queue of function calls, and a libvirt that records domains but starts none.
Only libvirt's node devices are simulated here, see `node_devices`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping, NamedTuple
from uuid import uuid4
from xml.etree import ElementTree

import fixtures
from node_devices import NodeDevices
from nova import config, context, exception, objects
from nova.privsep import libvirt as privileged
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.libvirt import base
from oslo_config import cfg

from system import sysfs

HOST = "compute"
LIBVIRT, QEMU = 10_000_000, 8_002_002  # the versions in noble


class Device(NamedTuple):
    """A device of a server's domain.

    Attributes:
        address: the function that has the vGPU; for a mediated device, its parent.
        type_id: the vGPU type of the device in the host's tree; empty for a whole card.
        managed: whether libvirt detaches the function from its driver, and reattaches it.
    """

    address: str
    type_id: str
    managed: str


class NodeDevice(fakelibvirt.NodeDevice):
    """A node device of the fixture, with a method that Nova calls since 30."""

    def setAutostart(self, autostart: bool) -> int:
        return 0


class Libvirt(fakelibvirt.Connection):
    """The connection of the fixture, with the node devices of a recorded host."""

    def __init__(self, root: Path) -> None:
        host = fakelibvirt.HostInfo(cpu_nodes=2, cpu_sockets=1, cpu_cores=2, cpu_threads=2)
        super().__init__(
            "qemu:///system", version=LIBVIRT, hv_version=QEMU, host_info=host, hostname=HOST
        )
        self.root = root
        self.node_devices = NodeDevices(root)
        self._domains: dict[str, ElementTree.Element] = {}

    def listDevices(self, cap: str, flags: int) -> list[str]:
        return self.node_devices.names(cap)

    def listAllDevices(self, flags: int) -> list[NodeDevice]:
        if not flags & fakelibvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV:
            return []  # there are no inactive mediated devices
        return [self.nodeDeviceLookupByName(name) for name in self.node_devices.names("pci")]

    def nodeDeviceLookupByName(self, name: str) -> NodeDevice:
        xml = self.node_devices.xml(name)
        if xml is None:
            raise fakelibvirt.make_libvirtError(
                fakelibvirt.libvirtError,
                f"no node device with matching name '{name}'",
                error_code=fakelibvirt.VIR_ERR_NO_NODE_DEVICE,
                error_domain=fakelibvirt.VIR_FROM_NODEDEV,
            )
        return NodeDevice(self, xml)

    def nodeDeviceCreateXML(self, xml: str, flags: int) -> NodeDevice:
        return self.nodeDeviceLookupByName(self.node_devices.create(xml))

    def nodeDeviceDefineXML(self, xml: str, flags: int) -> NodeDevice:
        """Return the device that was created; a definition matters only after a boot."""
        uuid = ElementTree.fromstring(xml).findtext("capability/uuid", "").replace("-", "_")
        names = self.node_devices.names("mdev")
        return self.nodeDeviceLookupByName(next(name for name in names if uuid in name))

    def defineXML(self, xml: str) -> Any:
        """Keep Nova's XML: the fixture's domains represent devices in another form."""
        domain = ElementTree.fromstring(xml)
        self._domains[domain.findtext("uuid", "")] = domain
        return super().defineXML(xml)

    def devices(self, uuid: str) -> list[Device]:
        """Return the devices of a domain, as shown by the host's tree."""
        return [self._device(hostdev) for hostdev in self._domains[uuid].iter("hostdev")]

    def _device(self, hostdev: ElementTree.Element) -> Device:
        address = hostdev.find("source/address")
        assert address is not None
        managed = hostdev.attrib["managed"]
        if hostdev.attrib["type"] == "mdev":
            mdev = (self.root / "sys/bus/mdev/devices" / address.attrib["uuid"]).resolve()
            type_id = os.path.basename(os.readlink(mdev / "mdev_type"))
            return Device(mdev.parent.name, type_id, managed)
        numbers = (address.attrib[key][2:] for key in ("domain", "bus", "slot", "function"))
        name = "{}:{}:{}.{}".format(*numbers)
        path = self.root / "sys/bus/pci/devices" / name / "nvidia/current_vgpu_type"
        type_id = f"nvidia-{path.read_text().strip()}" if path.exists() else ""
        return Device(name, type_id, managed)


class Cloud(base.ServersTestBase):
    """Nova with one compute host that has a recorded host's tree and a nova.conf.

    nova-compute starts with its own file alone. Nova's services share one configuration in this
    process, so what a deployment sets only on the controllers, the arguments, is set afterwards.

    Args:
        root: the tree.
        nova_conf: the file of the compute host.
        pci_in_placement: the option of [filter_scheduler].
        alias: the option of [pci]; None uses the alias of the compute host.
    """

    microversion = "latest"
    ADMIN_API = True
    ADDITIONAL_FILTERS = ("PciPassthroughFilter", "NUMATopologyFilter")

    def __init__(
        self,
        root: Path,
        nova_conf: Path,
        *,
        pci_in_placement: bool = False,
        alias: str | None = None,
    ) -> None:
        super().__init__("runTest")
        self._nova_conf = nova_conf
        self._flags: list[tuple[str, dict[str, Any]]] = []
        if pci_in_placement:
            self._flags.append(("filter_scheduler", {"pci_in_placement": True}))
        if alias is not None:
            self._flags.append(("pci", {"alias": [alias]}))
        self._libvirt = Libvirt(root)

    def runTest(self) -> None:
        """Do nothing: Nova's fixtures need a test case, and a test case needs a test."""

    def __enter__(self) -> Cloud:
        try:
            self.setUp()
            self.start_compute(HOST)
            for group, options in self._flags:
                self.flags(group=group, **options)
        except BaseException:
            self.doCleanups()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self.doCleanups(), "the cleanup of Nova's fixtures failed"

    def setUp(self) -> None:
        parse_args = config.parse_args

        def read_nova_conf(
            argv: list[str], default_config_files: list[str], **others: Any
        ) -> None:
            parse_args(argv, default_config_files=[str(self._nova_conf)], **others)

        # nova-compute reads its file when it starts; the fixture would read none.
        self._patch("nova.config.parse_args", read_nova_conf)
        # The following functions read sysfs; redirect them from this machine's to the host's.
        self._patch("nova.pci.utils.is_physical_function", self._is_physical_function)
        if hasattr(privileged, "create_mdev"):  # Nova used it before 30, and has it until 31
            self._patch("nova.privsep.libvirt.create_mdev", self._create_mdev)
        super().setUp()
        self._patch("nova.pci.utils.get_mac_by_pci_address", _find_no_interface)

    def origin(self, group: str, option: str) -> str | None:
        """Return the file from which Nova read an option; None for a default."""
        location = cfg.CONF.get_location(option, group)
        return location.detail if location else None

    def inventories(self) -> dict[str, dict[str, int]]:
        """Return the inventories of the host's devices in placement, by provider name."""
        inventories = {}
        for provider in self._get_all_rps_in_a_tree(self.compute_rp_uuids[HOST]):
            inventory = self._get_provider_inventory(provider["uuid"])
            totals = {resource: inventory[resource]["total"] for resource in inventory}
            if provider["name"] != HOST:
                inventories[provider["name"].removeprefix(f"{HOST}_")] = totals
            else:
                assert totals.keys() == {"VCPU", "MEMORY_MB", "DISK_GB"}
        return inventories

    def pci_devices(self) -> list[str]:
        """Return the functions that the compute host offers."""
        admin = context.get_admin_context()
        node = objects.ComputeNode.get_by_nodename(admin, HOST)
        devices = objects.PciDeviceList.get_by_compute_node(admin, node.id)
        return sorted(device.address for device in devices)

    def boot(self, number: int = 1, **extra_specs: str) -> list[Device]:
        """Boot servers of a flavor one after the other, and return the devices of all of them."""
        flavor = self._flavor(extra_specs)
        servers = [self._create_server(flavor_id=flavor, networks="none") for _ in range(number)]
        return sorted(
            device for server in servers for device in self._libvirt.devices(server["id"])
        )

    def refuse(self, **extra_specs: str) -> str:
        """Request a server for which there is no capacity; return the fault."""
        flavor = self._flavor(extra_specs)
        server = self._create_server(flavor_id=flavor, networks="none", expected_state="ERROR")
        return str(server["fault"]["message"])

    def update_available_resource(self) -> None:
        """Run the periodic task that a compute host runs every minute."""
        self.computes[HOST].manager.update_available_resource(context.get_admin_context())

    def _flavor(self, extra_specs: Mapping[str, str]) -> str:
        return self._create_flavor(
            vcpu=1, memory_mb=256, disk=1, ephemeral=0, extra_spec=dict(extra_specs)
        )

    def _wait_for_state_change(self, server: Any, status: str, max_retries: int = 60) -> Any:
        """Wait for half a minute: the fixture's five seconds are too short on a busy machine."""
        return super()._wait_for_state_change(server, status, max_retries)

    def _get_connection(self, *_: Any, **__: Any) -> Libvirt:
        return self._libvirt

    def _patch(self, name: str, replacement: Any) -> None:
        self.useFixture(fixtures.MonkeyPatch(name, replacement))

    def _is_physical_function(self, domain: str, bus: str, slot: str, function: str) -> bool:
        devices = self._libvirt.root / "sys/bus/pci/devices"
        path = devices / f"{domain}:{bus}:{slot}.{function}" / "sriov_totalvfs"
        return path.exists() and int(path.read_text()) > 0

    def _create_mdev(self, parent: str, type_id: str, uuid: str | None = None) -> str:
        types = self._libvirt.root / "sys/class/mdev_bus" / parent / "mdev_supported_types"
        created = uuid or str(uuid4())
        sysfs.write(types / type_id / "create", created)
        return created


def _find_no_interface(address: str, pf_interface: bool = False) -> str:
    raise exception.PciDeviceNotFoundById(id=address)
