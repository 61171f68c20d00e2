# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A simulation of libvirt's node device driver on a recorded host's tree.

Nova's fixtures have their own node devices, but these do not match the recorded hosts: they have
two types, addresses from 81:00.0 on, virtual functions without types, and numbers of available
instances that never decrease. This module reads the tree on each call, as libvirt reads sysfs, and
returns the format of https://libvirt.org/formatnode.html.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from system import sysfs


class NodeDevices:
    """The node devices of one host, by the names that libvirt gives them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._devices = root / "sys/bus/pci/devices"

    def names(self, capability: str) -> list[str]:
        """List the devices that have a capability: pci, mdev_types or mdev."""
        if capability == "mdev":
            return [_mdev_name(link.resolve()) for link in self._mdevs()]
        addresses = sorted(path.name for path in self._devices.iterdir())
        if capability == "mdev_types":
            types = "mdev_supported_types"
            addresses = [name for name in addresses if (self._devices / name / types).is_dir()]
        return [_pci_name(address) for address in addresses]

    def xml(self, name: str) -> str | None:
        """Return the XML of a device; None if there is no device of that name."""
        if name in self.names("pci"):
            return _pci_xml(self._folder(name))
        for link in self._mdevs():
            if name == _mdev_name(link.resolve()):
                return _mdev_xml(link.resolve())
        return None

    def create(self, xml: str) -> str:
        """Create a mediated device and return its name, as mdevctl does for libvirt."""
        device = ElementTree.fromstring(xml)
        folder = self._folder(device.findtext("parent", ""))
        kind, uuid = device.find("capability/type"), device.findtext("capability/uuid")
        assert kind is not None and uuid is not None
        sysfs.write(folder / "mdev_supported_types" / kind.attrib["id"] / "create", uuid)
        return _mdev_name(folder.resolve() / uuid)

    def _folder(self, name: str) -> Path:
        return self._devices / "{}:{}:{}.{}".format(*name.split("_")[1:])

    def _mdevs(self) -> list[Path]:
        folder = self.root / "sys/bus/mdev/devices"
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _pci_name(address: str) -> str:
    return "pci_" + address.replace(":", "_").replace(".", "_")


def _mdev_name(folder: Path) -> str:
    """Name a mediated device with its parent, as libvirt does since 7.7."""
    return f"mdev_{folder.name.replace('-', '_')}_{_pci_name(folder.parent.name)[4:]}"


def _pci_xml(folder: Path) -> str:
    device = ElementTree.Element("device")
    _add(device, "name", _pci_name(folder.name))
    _add(device, "path", str(folder.resolve()))
    _add(device, "parent", "computer")
    if (folder / "driver").is_symlink():
        driver = ElementTree.SubElement(device, "driver")
        _add(driver, "name", os.path.basename(os.readlink(folder / "driver")))
    capability = ElementTree.SubElement(device, "capability", type="pci")
    _add(capability, "class", _read(folder / "class"))
    for key, number in _address(folder).items():
        _add(capability, "function" if key == "function" else key, str(int(number, 16)))
    # libvirt reads names from pci.ids, which lacks some cards.
    _add(capability, "product", "", id=_read(folder / "device"))
    _add(capability, "vendor", "NVIDIA Corporation", id=_read(folder / "vendor"))
    functions = sorted(folder.glob("virtfn*"), key=lambda link: int(link.name[6:]))
    if (folder / "physfn").is_symlink():
        element = ElementTree.SubElement(capability, "capability", type="phys_function")
        ElementTree.SubElement(element, "address", _address((folder / "physfn").resolve()))
    elif _read_number(folder / "sriov_totalvfs"):  # also if none is enabled
        element = ElementTree.SubElement(
            capability,
            "capability",
            type="virt_functions",
            maxCount=_read(folder / "sriov_totalvfs"),
        )
        for link in functions:
            ElementTree.SubElement(element, "address", _address(link.resolve()))
    _add_mdev_types(capability, folder / "mdev_supported_types")
    if int(_read(folder / "numa_node")) >= 0:
        ElementTree.SubElement(capability, "numa", node=_read(folder / "numa_node"))
    return ElementTree.tostring(device, encoding="unicode")


def _add_mdev_types(capability: ElementTree.Element, folder: Path) -> None:
    if not folder.is_dir():
        return
    types = ElementTree.SubElement(capability, "capability", type="mdev_types")
    for path in sorted(folder.iterdir()):
        kind = ElementTree.SubElement(types, "type", id=path.name)
        _add(kind, "name", _read(path / "name"))
        _add(kind, "deviceAPI", _read(path / "device_api"))
        _add(kind, "availableInstances", _read(path / "available_instances"))


def _mdev_xml(folder: Path) -> str:
    device = ElementTree.Element("device")
    _add(device, "name", _mdev_name(folder))
    _add(device, "path", str(folder))
    _add(device, "parent", _pci_name(folder.parent.name))
    capability = ElementTree.SubElement(device, "capability", type="mdev")
    kind = os.path.basename(os.readlink(folder / "mdev_type"))
    ElementTree.SubElement(capability, "type", id=kind)
    _add(capability, "uuid", folder.name)
    ElementTree.SubElement(capability, "iommuGroup", number="0")
    return ElementTree.tostring(device, encoding="unicode")


def _address(folder: Path) -> dict[str, str]:
    domain, bus, rest = folder.name.split(":")
    slot, function = rest.split(".")
    parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    return {key: f"0x{text}" for key, text in parts.items()}


def _add(element: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(element, tag, attributes).text = text


def _read_number(path: Path) -> int:
    return int(_read(path)) if path.exists() else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
