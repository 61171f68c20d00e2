# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""A simulation of NVIDIA's driver on a recorded host: the answers of its sysfs and its programs.

It behaves as observed on real hosts:

* The driver refuses a type that does not fit with EIO, and lists fewer types as vGPUs are created.
* New virtual functions remove all GPU instances and turn mixed-size mode off.
* MIG mode does not change while the card has virtual functions.
* The driver refuses a number of virtual functions that is written to sysfs by hand.
* A boot resets everything except the MIG mode of some cards.

The kernel binds drivers as it does on a real host: a bound device is not probed again, a
driver_override chooses the driver, and writes without effect succeed.

This module uses no code of the charm.
"""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Tuple

import recorded

Kind = Dict[str, Any]
Answer = Tuple[int, str]

_BUSY = (19, "In use by another client\n")
_NO_MIG = (6, "No MIG-enabled devices found.\n")


class Driver:
    """The driver of one host; its sysfs is below `root`.

    Attributes:
        host: the recorded host in its current state.
        needs_reset: whether a change of MIG mode stays pending until the card is reset.
        is_busy: whether a client uses the cards, which prevents a reset.
        refused: numbers of types that the driver lists but refuses to set.
        keeps_instances: whether GPU instances remain when the virtual functions are removed.
        registers_late: whether the types of new GPU instances are listed only after nvidia-vgpud
            has run again.
        overrides: the driver_override of devices that have one.
        unbindable: the devices that vfio-pci refuses.
        has_vfio: whether vfio-pci is loaded or built in.
    """

    def __init__(self, root: Path, host: dict[str, Any]) -> None:
        self.root = root
        self.host = host
        self.needs_reset = False
        self.is_busy = False
        self.refused: set[int] = set()
        self.keeps_instances = False
        self.registers_late = False
        self.overrides: dict[str, str] = {}
        self.unbindable: set[str] = set()
        self.has_vfio = True
        self._computing: set[str] = set()  # cards with compute instances
        self._own_drivers = {item["address"]: item.get("driver") for item in host["functions"]}

    def card(self, address: str) -> dict[str, Any]:
        """Return the current state of a card."""
        return next(card for card in self.host["functions"] if card["address"] == address)

    def boot(self) -> None:
        """Reset everything that does not survive a boot."""
        self._computing.clear()
        self.overrides.clear()
        for card in [card for card in self.host["functions"] if card.get("types")]:
            mig = self._mig(card)
            persists = mig.get("persists", True)
            after = {"enabled": persists and mig.get("pending", mig.get("enabled", False))}
            kept = {key: mig[key] for key in ("persists",) if key in mig}
            change = {"mig": {**kept, **after}} if "mig" in card else {}
            self._change(recorded.without_its_functions(card), mixed=False, **change)

    def load(self, version: str) -> None:
        """Bind the cards that have no driver, as the module does when it is loaded."""
        self.host = {**self.host, "driver": {"loaded": version}}
        for card in [card for card in self.host["functions"] if card.get("types")]:
            if card.get("driver") is None:
                self._bind(card, "nvidia")

    def bind(self, address: str, driver: str | None) -> None:
        """Bind a card to a driver, as an operator does."""
        self._bind(self.card(address), driver)

    # sysfs

    def write(self, path: str | Path, text: str) -> None:
        """Apply a value that is written to an attribute, or refuse it with an OSError."""
        path, text = Path(path), text.strip()
        path = path.parent.resolve() / path.name
        if self._write_to_bus(path, text):
            return
        function = self._function_of(path)
        if not function.is_dir():
            raise OSError(errno.ENODEV, "No such device")
        card = self.card(
            (function / "physfn").resolve().name if _is_vf(function) else function.name
        )
        if path.name == "current_vgpu_type":
            self._set_type(card, function, int(text))
        elif path.name == "create":
            self._create(card, function, path.parent.name, text)
        elif path.name == "remove" and (path.parent / "mdev_type").is_symlink():
            recorded.remove_mdev(self.root, path.parent.name)
        elif path.name == "sriov_numvfs":
            raise OSError(errno.EBUSY if card["sriov"]["enabled"] else errno.EIO, "not by hand")
        else:
            raise OSError(errno.EACCES, "Permission denied")
        self.refresh(card)

    def _write_to_bus(self, path: Path, text: str) -> bool:
        """Apply a value that chooses the driver of a device; return whether it does."""
        bus = self.root.resolve() / "sys/bus/pci"
        if path.parent.parent == bus / "drivers":
            self._bind_by_hand(path.parent.name, path.name, text)
        elif path == bus / "drivers_probe":
            self._probe(text)
        elif path.name == "driver_override":
            self.overrides.pop(path.parent.name, None)
            if text:
                self.overrides[path.parent.name] = text
            path.write_text(f"{text or '(null)'}\n")
        else:
            return False
        return True

    def _function_of(self, path: Path) -> Path:
        """Return the folder of the PCI function that an attribute belongs to."""
        devices = self.root.resolve() / "sys/devices"
        if devices not in path.parents:
            raise OSError(errno.EACCES, "Permission denied")
        bus, function = path.relative_to(devices).parts[:2]
        return devices / bus / function

    def _bind_by_hand(self, driver: str, verb: str, address: str) -> None:
        cards = [card for card in self.host["functions"] if card["address"] == address]
        present = None if verb == "bind" else driver
        if verb not in ("bind", "unbind") or not cards or cards[0].get("driver") != present:
            raise OSError(errno.ENODEV, "No such device")
        self._bind(cards[0], driver if verb == "bind" else None)

    def _probe(self, address: str) -> None:
        """Bind the driver that a device is to have, if it has none; it may refuse."""
        card = self.card(address)
        override = self.overrides.get(address)
        driver = override or self._own_drivers.get(address)
        if not override and card.get("types"):
            driver = "nvidia" if (self.host.get("driver") or {}).get("loaded") else None
        is_refused = driver == "vfio-pci" and (
            address in self.unbindable or not self.host.get("iommu", True) or not self.has_vfio
        )
        if card.get("driver") is None and driver is not None and not is_refused:
            self._bind(card, driver)

    def _bind(self, card: dict[str, Any], driver: str | None) -> None:
        """Bind a card to a driver, or to none; what the old driver created on it is gone."""
        self._computing.discard(card["address"])
        change = {"mig": {**card["mig"], "instances": []}} if "mig" in card else {}
        self._change(recorded.without_its_functions(card), driver=driver, mixed=False, **change)
        self._rebuild(self.card(card["address"]))

    def _set_type(self, card: dict[str, Any], function: Path, number: int) -> None:
        path = function / "nvidia/current_vgpu_type"
        kinds = {kind["id"]: kind for kind in recorded.kinds(card)}
        is_free = path.read_text() == "0\n"
        in_use = self._in_use(card)
        fits = is_free and number in kinds and self._fits(card, kinds[number], in_use)
        if number and (not fits or number in self.refused):
            raise OSError(errno.EIO, "Input/output error")
        path.write_text(f"{number}\n")

    def _create(self, card: dict[str, Any], parent: Path, type_id: str, uuid: str) -> None:
        folder = parent / "mdev_supported_types" / type_id
        if int((folder / "available_instances").read_text()) < 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        if (self.root / "sys/bus/mdev/devices" / uuid).is_symlink():
            raise OSError(errno.EEXIST, "File exists")
        recorded.add_mdev(self.root, parent.name, type_id, uuid)

    def refresh(self, card: dict[str, Any]) -> None:
        """Update the lists of the card's types that still fit."""
        in_use = self._in_use(card)
        kinds = [kind for kind in recorded.kinds(card) if self._fits(card, kind, in_use)]
        for parent in self._parents(card):
            if (parent / "nvidia").is_dir():
                is_free = (parent / "nvidia/current_vgpu_type").read_text() == "0\n"
                recorded.write_creatable(parent, kinds if is_free else [])
            else:
                recorded.show_mdev_types(self.root, parent, recorded.kinds(card))
                is_free = not _is_vf(parent) or not list(parent.glob("*/mdev_type"))
                for kind in recorded.kinds(card):
                    free = 1 if _is_vf(parent) else int(kind["max"]) - len(in_use)
                    folder = parent / f"mdev_supported_types/nvidia-{kind['id']}"
                    text = f"{free if is_free and kind in kinds else 0}\n"
                    (folder / "available_instances").write_text(text)

    def guests(self, card: dict[str, Any]) -> list[str]:
        """Return the mediated devices of a card; only guests create them."""
        return [
            link.parent.name for path in self._parents(card) for link in path.glob("*/mdev_type")
        ]

    def _parents(self, card: dict[str, Any]) -> list[Path]:
        folder = (self.root / "sys/bus/pci/devices" / card["address"]).resolve()
        functions = [link.resolve() for link in folder.glob("virtfn*")] or [folder]
        names = ("nvidia", "mdev_supported_types")
        return [path for path in functions if any((path / name).is_dir() for name in names)]

    def _in_use(self, card: dict[str, Any]) -> list[Kind]:
        kinds = {kind["id"]: kind for kind in recorded.kinds(card)}
        numbers = []
        for parent in self._parents(card):
            if (parent / "nvidia").is_dir():
                numbers.append(int((parent / "nvidia/current_vgpu_type").read_text()))
            numbers += [
                int(link.resolve().name.rsplit("-", 1)[1]) for link in parent.glob("*/mdev_type")
            ]
        return [kinds[number] for number in numbers if number in kinds]

    def _fits(self, card: dict[str, Any], kind: Kind, in_use: list[Kind]) -> bool:
        if "profile" in kind:
            instances = self._mig(card).get("instances", [])
            capacity = instances.count(kind["profile"]) * kind.get("per-instance", 1)
            return sum(used["profile"] == kind["profile"] for used in in_use) < capacity
        if card.get("mixed"):
            return sum(Fraction(1, used["max"]) for used in (*in_use, kind)) <= 1
        size = recorded.framebuffer(kind)
        is_same = all(recorded.framebuffer(used) == size for used in in_use)
        return is_same and len(in_use) < kind["max"]

    # sriov-manage

    def sriov_manage(self, verb: str, address: str) -> Answer:
        """Simulate `sriov-manage -e|-d ADDRESS`; return its exit code and its output."""
        card = self.card(address)
        if card.get("driver") != "nvidia" or "sriov" not in card:
            return 1, f"{address} is not bound to nvidia\n"
        if not _is_sriov(card):
            return 0, f"Enabling VFs on {address}\n"
        assert not self.guests(card), f"guests of {address} lose their vGPUs: {self.guests(card)}"
        sriov = card["sriov"]
        if verb == "-e" and sriov["enabled"]:
            return 0, f"GPU at {address} already has VFs enabled.\n"
        number = sriov["total"] if verb == "-e" else 0
        kept = card.get("mig", {}).get("instances", []) if self.keeps_instances else []
        if not kept:
            self._computing.discard(address)
        change = {"mig": {**card["mig"], "instances": kept}} if "mig" in card else {}
        self._change({**card, "sriov": {**sriov, "enabled": number}}, mixed=False, **change)
        self._rebuild(self.card(address))
        return 0, f"{'Enabling' if verb == '-e' else 'Disabling'} VFs on {address}\n"

    # nvidia-smi

    def nvidia_smi(self, *arguments: str) -> Answer:
        """Simulate nvidia-smi with these arguments; return its exit code and its output."""
        position = arguments.index("-i")
        card = self.card(arguments[position + 1])
        command = (*arguments[:position], *arguments[position + 2 :])
        if command[0].startswith("--query-gpu=mig.mode"):
            return self._mig_mode(card)
        answer = {
            ("vgpu", "-s"): self._supported,
            ("vgpu", "-shm"): self._mixed_size,
            ("mig", "-lgi"): self._list_instances,
            ("mig", "-cgi"): self._create_instance,
            ("mig", "-dci"): self._destroy_compute_instances,
            ("mig", "-dgi"): self._destroy_instances,
            ("-mig", "1"): self._set_mig_mode,
            ("-mig", "0"): self._set_mig_mode,
            ("-q",): self._query,
            ("--gpu-reset",): self._reset,
        }[command[:2]]
        return answer(card, command)

    @staticmethod
    def _mig(card: dict[str, Any]) -> dict[str, Any]:
        mig: dict[str, Any] = card.get("mig", {})
        return mig

    def _mig_mode(self, card: dict[str, Any]) -> Answer:
        if "mig" not in card:
            return 0, "[N/A], [N/A]\n"
        mig = self._mig(card)
        modes = (mig.get("enabled", False), mig.get("pending", mig.get("enabled", False)))
        return 0, ", ".join("Enabled" if mode else "Disabled" for mode in modes) + "\n"

    def _set_mig_mode(self, card: dict[str, Any], command: tuple[str, ...]) -> Answer:
        address, on = card["address"], command[1] == "1"
        if "mig" not in card:
            return (
                3,
                f"Unable to {'enable' if on else 'disable'} MIG Mode for GPU: Not Supported\n",
            )
        if card["sriov"]["enabled"] or (not on and self._mig(card).get("instances")):
            return _BUSY
        change: dict[str, Any] = {**self._mig(card), "pending": on}
        if not self.needs_reset:
            change["enabled"] = on
        self._change(card, mig=change)
        if self.needs_reset:
            return (
                0,
                f"Warning: MIG mode is in pending enable state for GPU {address}\nAll done.\n",
            )
        return 0, f"{'Enabled' if on else 'Disabled'} MIG Mode for GPU {address}\nAll done.\n"

    def _reset(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        if self.is_busy:
            return _BUSY
        mig = self._mig(card)
        self._change(card, mig={**mig, "enabled": mig.get("pending", mig.get("enabled"))})
        return 0, f"GPU {card['address']} was successfully reset.\nAll done.\n"

    def _list_instances(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        instances = self._mig(card).get("instances", [])
        if not instances:
            return _NO_MIG
        rows = [
            f"|   0  MIG {'1g.5gb':<16}{profile:>4}{number:>9}{f'{number}:1':>11}     |\n"
            for number, profile in enumerate(instances)
        ]
        line = "+-------------------------------------------------------+\n"
        head = "| GPU instances:                                        |\n"
        names = "| GPU   Name             Profile  Instance   Placement  |\n"
        return 0, line + head + names + "".join(rows) + line

    def _create_instance(self, card: dict[str, Any], command: tuple[str, ...]) -> Answer:
        mig = self._mig(card)
        if not mig.get("enabled") or not card["sriov"]["enabled"]:
            return _NO_MIG
        profile, instances = int(command[2]), [*mig.get("instances", [])]
        if sum(self._share(card, instance) for instance in (*instances, profile)) > 1:
            reason = "Failed to create GPU instances: Insufficient Resources\n"
            return (
                19,
                f"Unable to create a GPU instance on GPU  0 using profile {profile}\n{reason}",
            )
        self._change(card, mig={**mig, "instances": [*instances, profile]})
        self._computing.add(card["address"])
        if not self.registers_late:
            self.refresh(self.card(card["address"]))
        return 0, f"Successfully created GPU instance ID {len(instances)} on GPU  0\n"

    def _destroy_compute_instances(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        if self._in_use(card):
            return _BUSY
        self._computing.discard(card["address"])
        return 0, "Successfully destroyed compute instances\n"

    def _destroy_instances(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        if self._in_use(card) or card["address"] in self._computing:
            return _BUSY
        if not self._mig(card).get("instances"):
            return _NO_MIG
        self._change(card, mig={**self._mig(card), "instances": []})
        self.refresh(self.card(card["address"]))
        return 0, "Successfully destroyed GPU instances\n"

    @staticmethod
    def _share(card: dict[str, Any], profile: int) -> Fraction:
        """Return the fraction of a card that an instance takes."""
        kind = next(k for k in recorded.all_kinds(card) if k.get("profile") == profile)
        return Fraction(kind.get("per-instance", 1), kind["max"])

    def _mixed_size(self, card: dict[str, Any], command: tuple[str, ...]) -> Answer:
        if not self._supports_mixed_size(card):
            return 3, "vGPU heterogeneous mode is Not Supported\n"
        if self._in_use(card) or not card["sriov"]["enabled"]:
            return _BUSY
        self._change(card, mixed=command[2] == "1")
        self.refresh(self.card(card["address"]))
        return 0, f"Set vGPU heterogeneous mode for GPU {card['address']}\n"

    def _supports_mixed_size(self, card: dict[str, Any]) -> bool:
        return bool(card.get("mixed-size")) and not self._mig(card).get("enabled")

    def _query(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        mixed_size = "N/A"
        if self._supports_mixed_size(card):
            mixed_size = "Enabled" if card.get("mixed") else "Disabled"
        mode = "SR-IOV" if _is_sriov(card) else "Non SR-IOV"
        return 0, (
            f"GPU {card['address'].upper().zfill(16)}\n"
            "    GPU Virtualization Mode\n"
            "        Virtualization Mode               : Host VGPU\n"
            f"        Host VGPU Mode                    : {mode}\n"
            f"        vGPU Heterogeneous Mode           : {mixed_size}\n"
        )

    def _supported(self, card: dict[str, Any], _: tuple[str, ...]) -> Answer:
        text = f"GPU {card['address'].upper().zfill(16)}\n"
        for kind in recorded.all_kinds(card):
            text += (
                f"    vGPU Type ID                          : {kind['id']:#x}\n"
                f"        Name                              : {kind['name']}\n"
                "        Class                             : Compute\n"
                f"        GPU Instance Profile ID           : {kind.get('profile', 'N/A')}\n"
                f"        Max Instances                     : {kind['max']}\n"
                "        Max Instances Per VM              : 1\n"
                f"        Max Instances Per GI              : {kind.get('per-instance', 'N/A')}\n"
                f"        FB Memory                         : {recorded.framebuffer(kind)} MiB\n"
            )
        return 0, text

    def _change(self, card: dict[str, Any], **changes: Any) -> None:
        functions: list[dict[str, Any]] = []
        for function in self.host["functions"]:
            is_changed = function["address"] == card["address"]
            functions.append({**card, **changes} if is_changed else function)
        self.host = {**self.host, "functions": functions}

    def _rebuild(self, card: dict[str, Any]) -> None:
        recorded.remove_function(self.root, card)
        is_loaded = bool((self.host.get("driver") or {}).get("loaded"))
        folder = recorded.add_function(self.root / "sys", card, is_loaded=is_loaded)
        override = self.overrides.get(card["address"], "(null)")
        (folder / "driver_override").write_text(f"{override}\n")


def _is_sriov(card: dict[str, Any]) -> bool:
    return bool(card.get("sriov", {"framework": "card"})["framework"] != "card")


def _is_vf(function: Path) -> bool:
    return (function / "physfn").exists()
