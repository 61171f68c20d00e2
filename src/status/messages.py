# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The texts that operators read: a level, a message and its documentation for each problem.

A message starts with what is wrong, names the device, and ends with what to do. `make update-docs`
writes the messages and their causes into the reference.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from gpu.problems import ProblemKind

__all__ = [
    "INSTALLING",
    "MESSAGES",
    "PREPARING",
    "REBOOT_LATER",
    "REBOOT_NEEDED",
    "REBOOT_NOT_NEEDED",
    "REBOOT_SCHEDULED",
    "RUN_AGAIN",
    "TOO_LARGE",
    "Level",
    "Message",
]


class Level(enum.Enum):
    """Juju's name for the state of a unit; the order is that of precedence."""

    BLOCKED = "blocked"
    MAINTENANCE = "maintenance"
    WAITING = "waiting"
    ACTIVE = "active"


class Message(NamedTuple):
    """The message of a kind of problem.

    Attributes:
        level: the state of the unit; ACTIVE for a note on a unit that is ready.
        template: the message, with the arguments of the problem, its `address`, and `app`, the
            name of the application, in braces.
        cause: what the reference says about it.
    """

    level: Level
    template: str
    cause: str


INSTALLING = "Installing NVIDIA's host software; this takes a few minutes"
PREPARING = "Preparing the cards; this may take a few minutes"
REBOOT_LATER = "needed, but first fix the problem in the output"
REBOOT_NEEDED = "needed; run again with i-really-mean-it=true"
REBOOT_NOT_NEEDED = "not needed"
REBOOT_SCHEDULED = "in 30 seconds"
# Ends the message of a step that is tried again; the time of the next try is added to it.
RUN_AGAIN = "fix this, then run reboot-install"
TOO_LARGE = "The result is too large for Juju; run the action again without format=json"

_SEE_BOOT_SERVICE = "see journalctl -u nova-compute-nvidia-vgpu"
_SEE_VGPUD = "see journalctl -u nvidia-vgpud"
_REBOOT = "run reboot-install i-really-mean-it=true"
_PENDING = "The boot service is preparing the card. If this takes long, its journal shows why."


def _blocked(template: str, cause: str) -> Message:
    return Message(Level.BLOCKED, template, cause)


def _waiting(template: str, cause: str) -> Message:
    return Message(Level.WAITING, template, cause)


def _note(template: str, cause: str) -> Message:
    return Message(Level.ACTIVE, template, cause)


def _maintenance(template: str, cause: str) -> Message:
    return Message(Level.MAINTENANCE, template, cause)


MESSAGES: dict[ProblemKind, Message] = {
    # the options
    ProblemKind.OPTION_SYNTAX: _blocked(
        "{option}: {place}: {reason}; example: {example}",
        "The value is not YAML or JSON at that line and column.",
    ),
    ProblemKind.OPTION_INVALID: _blocked(
        "{option}: {place}: {reason}",
        "The value is not valid at that entry; the message states what is expected.",
    ),
    ProblemKind.DEVICE_MAPPED_TWICE: _blocked(
        "{option}: {device} is mapped to both {first} and {second}; remove one",
        "A device can be offered in one way only. A PCI ID and an address may select the same "
        "device.",
    ),
    ProblemKind.TYPE_MAPPED_TWICE: _blocked(
        "vgpu-device-mappings: {vgpu_type} is mapped by ID and by name; merge the two entries",
        "nova-compute would not start with a type that is listed twice.",
    ),
    ProblemKind.DEVICE_IN_BOTH_OPTIONS: _blocked(
        "{address}: remove it from {name} in passthrough-devices, or from {vgpu_type} in "
        "vgpu-device-mappings",
        "A card is either divided into vGPUs or given away whole. A PCI ID may select it.",
    ),
    ProblemKind.PLACEMENT_KEPT: _note(
        "report-in-placement cannot be unset; set it to true",
        "Nova does not start without this option on a host where it was ever set.",
    ),
    # the mapping against this host
    ProblemKind.TYPE_NOT_OFFERED: _blocked(
        "{address} does not offer {vgpu_type}; run list-vgpu-types and choose another",
        "The driver does not report this type for the card.",
    ),
    ProblemKind.TYPES_UNKNOWN: _waiting(
        f"Waiting for {{address}} to report type {{vgpu_type}}; {_SEE_VGPUD}",
        "The driver has not reported the types of the card yet.",
    ),
    ProblemKind.MIXED_SIZES: _blocked(
        "{address} cannot offer {vgpu_types} together; map types of one size",
        "The card does not support vGPUs of different framebuffer sizes at the same time.",
    ),
    ProblemKind.VFS_DISABLED: _waiting(
        f"Waiting for virtual functions on {{address}}; {_SEE_BOOT_SERVICE}", _PENDING
    ),
    ProblemKind.TOO_FEW_FUNCTIONS: _note(
        "{address} has {count} virtual functions, but room for more {vgpu_type} vGPUs",
        "NVIDIA's sriov-manage has enabled only some of the virtual functions.",
    ),
    ProblemKind.VFS_FAILED: _blocked(
        f"No virtual functions on {{address}}: {{reason}}; {RUN_AGAIN}",
        "sriov-manage is missing, failed or ran out of time. Often a program uses the card. The "
        "journal of the boot service has its output: `journalctl -u nova-compute-nvidia-vgpu`.",
    ),
    ProblemKind.BOOT_SERVICE_FAILED: _blocked(
        f"Boot service failed: {{reason}}; {RUN_AGAIN}",
        "systemd could not install or run the boot service. Its journal has more: `journalctl -u "
        "nova-compute-nvidia-vgpu`.",
    ),
    ProblemKind.BOOT_SERVICE_OFF: _blocked(
        "The boot service is {state}; run systemctl {verb} nova-compute-nvidia-vgpu",
        "An administrator has disabled or masked the service. While it is off, no card is "
        "prepared, now or at boot.",
    ),
    ProblemKind.VARIANT_DRIVER_UNSUPPORTED: _blocked(
        "{address} needs Nova 31, but {nova} is installed; "
        "use a kernel with mdev, such as jammy's 5.15",
        "With this kernel, the card offers vGPUs through vendor-specific VFIO. Charmed OpenStack "
        "ends with Nova 29 (2024.1), which needs a kernel with mediated devices.",
    ),
    ProblemKind.TYPE_NOT_SET: _waiting(
        f"Waiting for {{vgpu_type}} on {{address}}; {_SEE_BOOT_SERVICE}", _PENDING
    ),
    ProblemKind.INSTANCES_MISSING: _waiting(
        f"Waiting for {{vgpu_type}} GPU instances on {{address}}; {_SEE_BOOT_SERVICE}",
        _PENDING,
    ),
    ProblemKind.WAITING_TO_LEAVE_MIG: _waiting(
        f"Waiting for {{address}} to leave MIG mode for {{vgpu_type}}; {_SEE_BOOT_SERVICE}",
        _PENDING,
    ),
    ProblemKind.NO_MIG: _blocked(
        "{vgpu_type} needs MIG, which {address} lacks; run list-vgpu-types and choose another",
        "The type is MIG-backed. `list-vgpu-types` shows the types of the card.",
    ),
    ProblemKind.MIG_FAILED: _blocked(
        f"MIG setup failed on {{address}}: {{reason}}; {RUN_AGAIN}",
        "MIG mode or the GPU instances could not be changed. The charm tries again after an hour, "
        "then less often.",
    ),
    ProblemKind.MIG_PENDING: _blocked(
        f"Reboot needed: MIG mode change pending on {{address}}; {_REBOOT}",
        "The card must be reset, but a program on the host is using it.",
    ),
    ProblemKind.MIG_AND_TIME_SLICED: _blocked(
        "{address} cannot offer both time-sliced and MIG-backed types; map {first} or {second}",
        "In MIG mode a card offers only MIG-backed types, otherwise only time-sliced types.",
    ),
    ProblemKind.CARD_OVERSUBSCRIBED: _blocked(
        "{address} has no room for all of {vgpu_types}; map fewer virtual functions",
        "The mapped virtual functions together would offer more vGPUs than fit on the card.",
    ),
    ProblemKind.MIXED_SIZE_PENDING: _waiting(
        f"Waiting for mixed-size mode on {{address}}; {_SEE_BOOT_SERVICE}", _PENDING
    ),
    ProblemKind.MIXED_SIZE_GUESTS: _waiting(
        "Guests on {address} prevent mixed-size mode for {vgpu_types}; delete or migrate them",
        "Mixed-size mode can be changed only while the card has no vGPU.",
    ),
    ProblemKind.MIXED_SIZE_FAILED: _blocked(
        f"No mixed-size mode on {{address}}: {{reason}}; {RUN_AGAIN}",
        "nvidia-smi failed. The charm tries again after an hour, then less often.",
    ),
    ProblemKind.MDEV_LOST: _blocked(
        "Guest vGPU {vgpu} ({vgpu_type}) cannot be recreated on {address}; free the card",
        "The driver refused a vGPU of a defined guest, usually because the card is full.",
    ),
    ProblemKind.TYPE_REFUSED: _blocked(
        f"No {{vgpu_type}} on {{address}}: {{reason}}; {RUN_AGAIN}",
        "Usually the card is full or has vGPUs of another size.",
    ),
    ProblemKind.TWO_TYPES_ON_CARD: _blocked(
        "{address} can offer only one type, not {first} and {second}; map one of them",
        "Under vendor-specific VFIO, all virtual functions of a card have the same type.",
    ),
    ProblemKind.NEEDS_PLACEMENT: _blocked(
        "resource-class of {name} needs report-in-placement=true (irreversible); "
        "set it or remove the class",
        "Under vendor-specific VFIO, resource classes need placement. Nova does not allow this "
        "option to be unset again.",
    ),
    ProblemKind.ALIAS_AMBIGUOUS: _blocked(
        "Nova cannot distinguish {first} from {second}; map one, or set report-in-placement=true "
        "(irreversible)",
        "Without placement, Nova identifies virtual functions by PCI ID alone, which all types "
        "of a card model share.",
    ),
    ProblemKind.NO_MIGRATION: _note(
        "live-migratable needs libvirt 10.0 (here {libvirt}) and QEMU 8.2.2 (here {qemu})",
        "Nova is configured without live migration on this host.",
    ),
    ProblemKind.WRONG_PACKAGE: _blocked(
        "{vgpu_type} on {address} needs package nvidia-vgpu-ubuntu-aie; attach it",
        "C types of newer cards and MIG-backed types come with NVIDIA AI Enterprise.",
    ),
    # whole cards against this host
    ProblemKind.BINDING_PENDING: _waiting(
        f"Waiting for {{address}} to be bound to vfio-pci; {_SEE_BOOT_SERVICE}",
        "The boot service takes the card from its driver. If this takes long, its journal shows "
        "why.",
    ),
    ProblemKind.BINDING_FAILED: _blocked(
        f"{{address}} cannot be bound to {{driver}}: {{reason}}; {RUN_AGAIN}",
        "The kernel refused the driver, or the old driver did not let go of the card. `dmesg` has "
        "more.",
    ),
    ProblemKind.NOT_ASSIGNABLE: _blocked(
        "{address} is {what}; remove it from passthrough-devices",
        "No guest can have it by this option, which is for complete devices.",
    ),
    ProblemKind.NETWORK_FUNCTION: _blocked(
        "{address} is a network function; list it under nics of a card",
        "passthrough-devices gives network functions away only beside cards, for GPUDirect.",
    ),
    ProblemKind.NOT_NETWORK_FUNCTION: _blocked(
        "{address} is not a network function; list it under devices",
        "Under nics, passthrough-devices takes network functions only.",
    ),
    ProblemKind.NIC_TOO_FAR: _blocked(
        "{address} has no NIC of {name} within {limit}; nearest: {nearest}; "
        "change nics or nic-distance",
        "A card with nics is offered together with those that are near to it. The action "
        "`show-plan` shows all distances.",
    ),
    ProblemKind.GROUP_SHARED: _blocked(
        "{address} shares its IOMMU group with {other} ({driver}); use another slot",
        "The devices of an IOMMU group can only be given away together. The other device does not "
        "belong to the card, and the host uses it.",
    ),
    ProblemKind.BOOT_DISPLAY: _blocked(
        "{address} is the boot display; choose another in the BIOS, then reboot",
        "The firmware and the console of the host use the card.",
    ),
    ProblemKind.HOST_NETWORK: _blocked(
        "{address} is in use by the host: {interface} ({use}); choose another device",
        "The interface has an address or a route, or is part of a bond or a bridge.",
    ),
    ProblemKind.HOST_STORAGE: _blocked(
        "{address} is in use by the host: disk {disk}; choose another device",
        "A disk of the controller is mounted, or part of a volume or an array.",
    ),
    ProblemKind.USED_BY_PROGRAM: _blocked(
        "{program} uses {address}; stop it, then run reboot-install",
        "The driver cannot be removed from a card that a program keeps open, such as "
        "nvidia-persistenced or DCGM.",
    ),
    ProblemKind.USER_SPACE_DRIVER: _blocked(
        "{address} is bound to {driver}; unbind it, or remove it from passthrough-devices",
        "An administrator has bound the device to a user-space driver, such as one for DPDK, or "
        "to a variant of vfio-pci.",
    ),
    ProblemKind.HAS_VFS: _blocked(
        "{address} has virtual functions; disable them, then run reboot-install",
        "A function whose virtual functions are enabled cannot be given away.",
    ),
    ProblemKind.VGPUS_ON_CARD: _waiting(
        "Guests have vGPUs on {address}; delete or migrate them to give the card away whole",
        "The card stays divided into vGPUs until no guest has one on it.",
    ),
    ProblemKind.CARD_STILL_MAPPED: _waiting(
        "Waiting to give {address} away whole: the mapping in force divides it",
        "The new value of vgpu-device-mappings cannot be applied yet, so the card stays divided "
        "into vGPUs.",
    ),
    # whole cards against the installed Nova
    ProblemKind.DEVICE_TYPES_DIFFER: _blocked(
        "{name}: {address} and {other} differ in SR-IOV; use two names in passthrough-devices",
        "Nova has one device_type for each alias: type-PF for cards with SR-IOV, else type-PCI.",
    ),
    ProblemKind.MODELS_DIFFER: _blocked(
        "{name}: {address} and {other} are of two models; use two names in passthrough-devices",
        "With report-in-placement, each alias has one vendor and device ID.",
    ),
    ProblemKind.CLASS_SHARED: _blocked(
        "{first} and {second} have one resource class, {resource_class}; set resource-class",
        "With report-in-placement, Nova distinguishes devices by their resource class.",
    ),
    ProblemKind.ALIAS_TAKEN: _blocked(
        "The alias {name} exists in {owner}; rename it in passthrough-devices",
        "Nova would merge, or refuse, two aliases of one name.",
    ),
    ProblemKind.GROUP_FOR_ONE_GUEST: _note(
        "{address} shares its IOMMU group with {other}; only one guest can use both",
        "The kernel gives all devices of an IOMMU group to one guest. While a guest has one of "
        "them, Nova cannot start another guest with the other.",
    ),
    ProblemKind.WHITELIST_COVERS: _note(
        "pci-passthrough-whitelist of nova-compute covers {address} too; remove it there",
        "Nova uses the first entry that covers a device, which is not the one of this charm.",
    ),
    # the mapping against the installed Nova
    ProblemKind.NOVA_MISSING: _waiting(
        "Waiting for nova-compute to install nova-common",
        "The nova-compute charm installs Nova. Until then, its supported features are not known.",
    ),
    ProblemKind.NOVA_TOO_OLD: _blocked(
        "Nova {nova} does not support vGPUs; upgrade to 17 (Queens) or later",
        "Nova has supported vGPUs since Queens.",
    ),
    ProblemKind.OPTION_UNSUPPORTED: _blocked(
        "{option} needs Nova {required}, but {nova} is installed; unset it",
        "This release of nova-compute would ignore the option.",
    ),
    ProblemKind.OPTION_IGNORED: _blocked(
        "Nova {nova} ignores {option} if only one type is mapped; remove it or upgrade to Nova "
        "{required}",
        "Earlier releases ignore the section of a type if it is the only one.",
    ),
    ProblemKind.NUMA_UNSUPPORTED: _blocked(
        "numa-policy of {vgpu_type}: Nova has none for mediated devices; remove it",
        "Nova places only PCI devices by NUMA node: virtual functions with vendor-specific VFIO, "
        "and whole cards.",
    ),
    ProblemKind.MAX_INSTANCES_DROPS_CARD: _blocked(
        "max-instances {limit} excludes {address}; use a multiple of {room}",
        "Nova skips a card that has room for more vGPUs than the limit leaves.",
    ),
    ProblemKind.FIRST_TYPE_ONLY: _note(
        "Nova {nova} uses only {vgpu_type}, on every card that supports it",
        "Nova before 22.2.1 ignores all types but the first.",
    ),
    ProblemKind.TAKES_ALL_CARDS: _note(
        "Nova {nova} offers {vgpu_type} on every card that supports it, mapped or not",
        "Nova before 29 ignores the addresses of a single type.",
    ),
    # the resource nvidia-vgpu-software
    ProblemKind.RESOURCE_MISSING: _blocked(
        "No host software; run juju attach-resource {app} nvidia-vgpu-software=FILE.deb",
        "NVIDIA's package is proprietary. Download it from NVIDIA's licensing portal.",
    ),
    ProblemKind.RESOURCE_INVALID: _blocked(
        "nvidia-vgpu-software: {reason}; attach nvidia-vgpu-ubuntu-*.deb",
        "The attached file is damaged, is for another architecture, or is a different package.",
    ),
    # the host software
    ProblemKind.INSTALL_FAILED: _blocked(
        f"Host software not installed: {{reason}}; {RUN_AGAIN}",
        "apt-get or dpkg failed; `juju debug-log` has its output. The charm tries again after "
        "four minutes, then less often. It tries at once if `reboot-install` is run or another "
        "package is attached.",
    ),
    ProblemKind.INSTALL_UNDONE: _blocked(
        f"Driver {{wanted}} failed, using {{previous}}: {{reason}}; {RUN_AGAIN}",
        "The attached package could not be installed, so the one that worked is installed again. "
        "`juju debug-log` has the output. The charm tries again only if "
        "another package is attached, another kernel is running, or `reboot-install` is run.",
    ),
    ProblemKind.IN_CONTAINER: _blocked(
        "Cannot install the driver in a container; deploy nova-compute on its host",
        "The cards belong to the host of the container.",
    ),
    ProblemKind.DPKG_LOCKED: _waiting(
        "Waiting for another program to release the dpkg lock",
        "unattended-upgrades or another apt-get is running. The charm tries again after four "
        "minutes, then less often.",
    ),
    ProblemKind.DPKG_INTERRUPTED: _blocked(
        "dpkg was interrupted; run dpkg --configure -a on the host, then reboot-install",
        "A package is unpacked but not configured. A reboot would come in the middle of that.",
    ),
    ProblemKind.NOT_INSTALLED: _blocked(
        "Host software not installed; run action reboot-install",
        "A package is attached, but has not been installed yet.",
    ),
    ProblemKind.UPGRADE_PENDING: _note(
        "host software {version} waits until no vGPU is in use",
        "An upgrade would take the vGPUs away from running guests.",
    ),
    ProblemKind.NOT_LOADED: _blocked(
        f"Driver not loaded: {{reason}}; {RUN_AGAIN}",
        "The kernel could not load NVIDIA's module, or DKMS could not build it.",
    ),
    ProblemKind.SECURE_BOOT: _blocked(
        "Secure Boot rejects the driver; run mokutil --import /var/lib/shim-signed/mok/MOK.der, "
        "then reboot",
        "The key with which DKMS signs modules must be enrolled at the host's console.",
    ),
    ProblemKind.MODULES_LOCKED: _blocked(
        f"The kernel rejects the driver (lockdown or modules_disabled); {RUN_AGAIN}",
        "Kernel lockdown is on (Secure Boot enables it), or the sysctl kernel.modules_disabled is "
        "set.",
    ),
    ProblemKind.MODULE_DISABLED: _blocked(
        f"An install line in /etc/modprobe.d blocks nvidia; {RUN_AGAIN}",
        "modprobe runs the command in the `install` line instead of loading the module. To find "
        "the line, run `modprobe --showconfig`.",
    ),
    ProblemKind.MODULE_NOT_BUILT: _blocked(
        f"No nvidia module for kernel {{kernel}}; see dkms status; {RUN_AGAIN}",
        "DKMS has not built the module for the running kernel. It needs linux-headers of that "
        "kernel, and a driver that supports the kernel.",
    ),
    ProblemKind.NO_USABLE_CARD: _blocked(
        f"NVIDIA's driver found no usable card; see dmesg; {RUN_AGAIN}",
        "The driver is too old or too new for the cards, or the cards are faulty.",
    ),
    ProblemKind.NOT_VGPU_DRIVER: _blocked(
        "Driver {version} lacks vGPU support; remove it, then run juju attach-resource",
        "Another driver is loaded, such as Ubuntu's nvidia-driver-570-server.",
    ),
    ProblemKind.OPEN_MODULE: _blocked(
        "{address} needs the closed module: dkms remove nvidia/{version}-open --all, "
        "install nvidia/{version}, reboot",
        "On Turing and older cards, only NVIDIA's proprietary kernel module offers vGPUs.",
    ),
    ProblemKind.NOUVEAU: _blocked(
        f"Reboot needed: nouveau is bound to {{address}}; {_REBOOT}",
        "The kernel's own driver was loaded at boot. It is blacklisted for the next boot.",
    ),
    ProblemKind.OTHER_VERSION_LOADED: _blocked(
        f"Reboot needed: driver {{loaded}} is loaded, not {{installed}}; {_REBOOT}",
        "The new driver is loaded at the next boot.",
    ),
    ProblemKind.SERVICE_DOWN: _blocked(
        f"{{service}} is down; see journalctl -u {{service}}; {RUN_AGAIN}",
        "NVIDIA's daemon failed to start.",
    ),
    ProblemKind.STILL_RUNNING: _blocked(
        "{service} does not stop; see journalctl -u {service}, then run pause again",
        "NVIDIA's daemon did not stop within two minutes.",
    ),
    ProblemKind.RESTART_PENDING: _note(
        "restart of {service} waits until no vGPU is in use",
        "The nova-compute charm requested a restart, which would disturb running guests.",
    ),
    # actions
    ProblemKind.VGPUS_IN_USE: _blocked(
        "vGPU {vgpu} is in use; delete or migrate its guest; if it has none, remove the device",
        "A guest has the vGPU, even if stopped, or Nova kept the device of a deleted guest.",
    ),
    ProblemKind.VGPUS_IN_USE_OR_FORCE: _blocked(
        "vGPU {vgpu} is in use; delete or migrate its guest, remove the device, or use force=true",
        "A guest has the vGPU, even if stopped, or Nova kept the device of a deleted guest.",
    ),
    ProblemKind.GUESTS_RUNNING: _blocked(
        "No reboot: guests {guests} are running; stop or migrate them, or use force=true",
        "A reboot would end all guests of the host, with or without a vGPU.",
    ),
    ProblemKind.REBOOT_REFUSED: _blocked(
        "systemd cannot schedule a reboot; reboot the host yourself",
        "systemd-run failed.",
    ),
    ProblemKind.PAUSED: _maintenance(
        "Paused. Use 'resume' action to resume normal service.",
        "The action `pause` was run on this unit.",
    ),
    ProblemKind.PAUSED_BY_PRINCIPAL: _maintenance(
        "Paused by nova-compute. Use its 'resume' action to resume normal service.",
        "The action `pause` was run on the nova-compute unit of this host.",
    ),
    # the host itself
    ProblemKind.OTHER_DRIVER: _note(
        "{address} uses {driver}; bind it to nvidia to offer vGPUs",
        "An operator has given the card to another driver, such as vfio-pci for whole-card "
        "passthrough. The charm leaves it alone.",
    ),
    ProblemKind.WHOLE_CARD_OF_GUEST: _note(
        "{address} belongs to guest {guest}; delete it to offer vGPUs",
        "A guest is defined with the whole card, even if it is stopped. The charm leaves the card "
        "alone.",
    ),
    ProblemKind.DRIVER_NOT_BOUND: _blocked(
        "No driver is bound to {address}; see dmesg, and check the card",
        "The driver is loaded, but has not bound to the card, which may be faulty or unsupported.",
    ),
    ProblemKind.SRIOV_OFF: _blocked(
        "SR-IOV is off on {address}; enable it in the BIOS, or leave the card's display mode",
        "The card offers vGPUs on virtual functions only. On boards with display outputs, "
        "NVIDIA's displaymodeselector changes the mode.",
    ),
    ProblemKind.IOMMU_OFF: _blocked(
        "{address} needs an IOMMU; {remedy}",
        "/sys/kernel/iommu_groups is empty, so no guest can use a whole card or a virtual "
        "function.",
    ),
    ProblemKind.DISK_WRITE_FAILED: _blocked(
        f"Cannot write {{path}}: {{reason}}; {RUN_AGAIN}",
        "The disk is full or read-only.",
    ),
    ProblemKind.CARD_UNREADABLE: _blocked(
        "Cannot read {address}; see dmesg, then reboot the host",
        "The card has probably fallen off the bus. The published configuration stays as it is if "
        "guests may have vGPUs on the card, or if no other card is offered.",
    ),
    ProblemKind.PCI_DOMAIN_UNSUPPORTED: _note(
        "{address} cannot be offered: its PCI domain is above ffff; disable VMD for its slot",
        "Nova does not start with such addresses, which devices behind Intel VMD have.",
    ),
    # why a card offers nothing, in show-plan
    ProblemKind.VFS_NOT_ENABLED: _note(
        "{address} has no virtual functions enabled; map the card to enable them",
        "The boot service enables virtual functions of mapped cards only.",
    ),
    ProblemKind.NO_TYPES_REPORTED: _note(
        f"{{address}} reports no types; {_SEE_VGPUD}",
        "The driver is loaded, but offers no vGPUs on this card.",
    ),
    # guests
    ProblemKind.GUESTS_USE_OTHER_TYPE: _waiting(
        "Guests on {address} use {vgpu_type}; delete or migrate them, or map the type to the "
        "card again",
        "The type of a vGPU in use stays on its card, even while the guest is stopped.",
    ),
    ProblemKind.GUESTS_KEEP_TYPE: _note(
        "guests keep {vgpu_type} on {address}",
        "The option is not set, but guests have vGPUs. They keep them.",
    ),
    ProblemKind.MAPPING_WITHHELD: _waiting(
        "The new mapping waits: guests have vGPUs on {address}; delete or migrate them",
        "The card cannot offer vGPUs now. What is published stays for its guests, so the other "
        "cards are not changed either.",
    ),
    ProblemKind.MIXED_SIZE_NEEDED: _note(
        "{address} is not in mixed-size mode, which {vgpu_types} need; map types of one size",
        "The mapping is published as written, but the card accepts vGPUs of one size only.",
    ),
    # the relation
    ProblemKind.NOT_RELATED: _blocked(
        "No relation to nova-compute; run juju integrate {app}:nova-vgpu nova-compute:nova-vgpu",
        "Without the relation, nothing can be published to Nova.",
    ),
    ProblemKind.OTHER_UNIT: _blocked(
        "Unit {unit} already manages this host; remove one application or relation",
        "Two applications of this charm, or one with two relations, have a unit on this host. The "
        "other unit does all the work.",
    ),
}
