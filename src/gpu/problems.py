# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What can prevent a working vGPU, as data; `status.messages` has the wording.

A new problem needs a kind here and its message in `status.messages`, from which `make update-docs`
writes the reference.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

from gpu.pci import PciAddress

__all__ = [
    "ASSIGNED_ELSEWHERE",
    "DRIVER_PENDING",
    "GUEST_PENDING",
    "NEEDS_REBOOT",
    "NOTES",
    "OBSTACLES",
    "PREPARATION_PENDING",
    "RETRIABLE",
    "SOFTWARE_BROKEN",
    "STILL_DIVIDED",
    "USED_BY_HOST",
    "HostError",
    "Problem",
    "ProblemKind",
]


class ProblemKind(enum.Enum):
    """Each cause that an operator can meet; the value is its stable name in JSON output."""

    # the options
    OPTION_SYNTAX = "option-syntax"
    OPTION_INVALID = "option-invalid"
    DEVICE_MAPPED_TWICE = "device-mapped-twice"
    TYPE_MAPPED_TWICE = "type-mapped-twice"
    DEVICE_IN_BOTH_OPTIONS = "device-in-both-options"
    PLACEMENT_KEPT = "placement-kept"
    # the mapping against this host
    TYPE_NOT_OFFERED = "type-not-offered"
    TYPES_UNKNOWN = "types-unknown"
    MIXED_SIZES = "mixed-sizes"
    VFS_DISABLED = "virtual-functions-disabled"
    TOO_FEW_FUNCTIONS = "too-few-virtual-functions"
    VFS_FAILED = "virtual-functions-failed"
    BOOT_SERVICE_FAILED = "boot-service-failed"
    BOOT_SERVICE_OFF = "boot-service-off"
    VARIANT_DRIVER_UNSUPPORTED = "variant-driver-unsupported"
    TYPE_NOT_SET = "type-not-set"
    INSTANCES_MISSING = "gpu-instances-missing"
    WAITING_TO_LEAVE_MIG = "waiting-to-leave-mig"
    NO_MIG = "no-mig"
    MIG_FAILED = "mig-failed"
    MIG_PENDING = "mig-pending"
    MIG_AND_TIME_SLICED = "time-sliced-and-mig-backed"
    CARD_OVERSUBSCRIBED = "card-oversubscribed"
    MIXED_SIZE_PENDING = "mixed-size-pending"
    MIXED_SIZE_GUESTS = "mixed-size-guests"
    MIXED_SIZE_FAILED = "mixed-size-failed"
    MDEV_LOST = "mdev-lost"
    TYPE_REFUSED = "type-refused"
    TWO_TYPES_ON_CARD = "two-types-on-card"
    NEEDS_PLACEMENT = "needs-placement"
    ALIAS_AMBIGUOUS = "alias-ambiguous"
    NO_MIGRATION = "no-live-migration"
    WRONG_PACKAGE = "wrong-package"
    # whole cards against this host
    BINDING_PENDING = "binding-pending"
    BINDING_FAILED = "binding-failed"
    NOT_ASSIGNABLE = "not-assignable"
    NETWORK_FUNCTION = "network-function"
    NOT_NETWORK_FUNCTION = "not-network-function"
    NIC_TOO_FAR = "nic-too-far"
    GROUP_SHARED = "iommu-group-shared"
    GROUP_FOR_ONE_GUEST = "iommu-group-for-one-guest"
    BOOT_DISPLAY = "boot-display"
    HOST_NETWORK = "host-network"
    HOST_STORAGE = "host-storage"
    USED_BY_PROGRAM = "used-by-program"
    USER_SPACE_DRIVER = "user-space-driver"
    HAS_VFS = "has-virtual-functions"
    VGPUS_ON_CARD = "vgpus-on-card"
    CARD_STILL_MAPPED = "card-still-mapped"
    # whole cards against the installed Nova
    DEVICE_TYPES_DIFFER = "device-types-differ"
    MODELS_DIFFER = "models-differ"
    CLASS_SHARED = "resource-class-shared"
    ALIAS_TAKEN = "alias-taken"
    WHITELIST_COVERS = "whitelist-covers"
    # the mapping against the installed Nova
    NOVA_MISSING = "nova-missing"
    NOVA_TOO_OLD = "nova-too-old"
    OPTION_UNSUPPORTED = "option-unsupported"
    OPTION_IGNORED = "option-ignored"
    NUMA_UNSUPPORTED = "numa-unsupported"
    MAX_INSTANCES_DROPS_CARD = "max-instances-drops-card"
    FIRST_TYPE_ONLY = "first-type-only"
    TAKES_ALL_CARDS = "takes-all-cards"
    # the resource nvidia-vgpu-software
    RESOURCE_MISSING = "resource-missing"
    RESOURCE_INVALID = "resource-invalid"
    # the host software
    INSTALL_FAILED = "install-failed"
    INSTALL_UNDONE = "install-undone"
    IN_CONTAINER = "in-container"
    DPKG_LOCKED = "dpkg-locked"
    DPKG_INTERRUPTED = "dpkg-interrupted"
    NOT_INSTALLED = "not-installed"
    UPGRADE_PENDING = "upgrade-pending"
    NOT_LOADED = "not-loaded"
    SECURE_BOOT = "secure-boot"
    MODULES_LOCKED = "modules-locked"
    MODULE_DISABLED = "module-disabled"
    MODULE_NOT_BUILT = "module-not-built"
    NO_USABLE_CARD = "no-usable-card"
    NOT_VGPU_DRIVER = "not-vgpu-driver"
    OPEN_MODULE = "open-module"
    NOUVEAU = "nouveau-bound"
    OTHER_VERSION_LOADED = "other-version-loaded"
    SERVICE_DOWN = "service-down"
    STILL_RUNNING = "still-running"
    RESTART_PENDING = "restart-pending"
    # actions
    VGPUS_IN_USE = "vgpus-in-use"
    VGPUS_IN_USE_OR_FORCE = "vgpus-in-use-or-force"
    GUESTS_RUNNING = "guests-running"
    REBOOT_REFUSED = "reboot-refused"
    PAUSED = "paused"
    PAUSED_BY_PRINCIPAL = "paused-by-principal"
    # the host itself
    OTHER_DRIVER = "other-driver"
    WHOLE_CARD_OF_GUEST = "whole-card-of-guest"
    DRIVER_NOT_BOUND = "driver-not-bound"
    SRIOV_OFF = "sriov-off"
    IOMMU_OFF = "iommu-off"
    DISK_WRITE_FAILED = "disk-write-failed"
    CARD_UNREADABLE = "card-unreadable"
    PCI_DOMAIN_UNSUPPORTED = "pci-domain-unsupported"
    # why a card offers nothing, in show-plan
    VFS_NOT_ENABLED = "virtual-functions-not-enabled"
    NO_TYPES_REPORTED = "no-types-reported"
    # guests
    GUESTS_USE_OTHER_TYPE = "guests-use-other-type"
    GUESTS_KEEP_TYPE = "guests-keep-type"
    MIXED_SIZE_NEEDED = "mixed-size-needed"
    MAPPING_WITHHELD = "mapping-withheld"
    # the relation
    NOT_RELATED = "not-related"
    OTHER_UNIT = "other-unit"


# The driver has not reported yet what it should report once a card is prepared.
DRIVER_PENDING = frozenset(
    {
        ProblemKind.TYPES_UNKNOWN,
        ProblemKind.INSTANCES_MISSING,
        ProblemKind.WAITING_TO_LEAVE_MIG,
    }
)
# Guests have to leave first.
GUEST_PENDING = frozenset({ProblemKind.MIXED_SIZE_GUESTS, ProblemKind.GUESTS_USE_OTHER_TYPE})
# The preparation of the cards is expected to resolve these.
PREPARATION_PENDING = DRIVER_PENDING | {
    ProblemKind.VFS_DISABLED,
    ProblemKind.TYPE_NOT_SET,
    ProblemKind.MIXED_SIZE_PENDING,
    ProblemKind.MIXED_SIZE_GUESTS,
    ProblemKind.BINDING_PENDING,
}
# Another run of the boot service may resolve these and puts nothing at risk.
RETRIABLE = DRIVER_PENDING | {
    ProblemKind.VFS_FAILED,
    ProblemKind.DISK_WRITE_FAILED,
    ProblemKind.BOOT_SERVICE_FAILED,
    ProblemKind.MDEV_LOST,
    ProblemKind.BINDING_FAILED,
}
# Only a reboot of the host resolves these.
NEEDS_REBOOT = frozenset(
    {ProblemKind.NOUVEAU, ProblemKind.OTHER_VERSION_LOADED, ProblemKind.MIG_PENDING}
)
# These limit what the installed Nova makes of a mapping, but nothing is wrong with the mapping.
NOTES = frozenset({ProblemKind.FIRST_TYPE_ONLY, ProblemKind.TAKES_ALL_CARDS})
# The host software is not as it should be, for a reason that no reboot resolves.
SOFTWARE_BROKEN = frozenset(
    {
        ProblemKind.RESOURCE_MISSING,
        ProblemKind.RESOURCE_INVALID,
        ProblemKind.INSTALL_FAILED,
        ProblemKind.INSTALL_UNDONE,
        ProblemKind.DPKG_LOCKED,
        ProblemKind.NOT_INSTALLED,
        ProblemKind.NOT_LOADED,
        ProblemKind.SECURE_BOOT,
        ProblemKind.MODULES_LOCKED,
        ProblemKind.MODULE_DISABLED,
        ProblemKind.MODULE_NOT_BUILT,
        ProblemKind.NO_USABLE_CARD,
        ProblemKind.NOT_VGPU_DRIVER,
        ProblemKind.SERVICE_DOWN,
    }
)
# Why a card cannot offer any vGPU; see `host.obstacles`.
OBSTACLES = frozenset(
    {
        ProblemKind.OTHER_DRIVER,
        ProblemKind.WHOLE_CARD_OF_GUEST,
        ProblemKind.DRIVER_NOT_BOUND,
        ProblemKind.SRIOV_OFF,
        ProblemKind.IOMMU_OFF,
        ProblemKind.OPEN_MODULE,
    }
)
# The host uses the device for itself, and not only as long as some program runs.
USED_BY_HOST = frozenset(
    {
        ProblemKind.BOOT_DISPLAY,
        ProblemKind.HOST_NETWORK,
        ProblemKind.HOST_STORAGE,
        ProblemKind.USER_SPACE_DRIVER,
    }
)
# The card is divided into vGPUs for now, and so must not be bound as a whole, at a boot either.
STILL_DIVIDED = frozenset({ProblemKind.VGPUS_ON_CARD, ProblemKind.CARD_STILL_MAPPED})
# The whole card is bound to another driver or assigned to a guest; it is not faulty.
ASSIGNED_ELSEWHERE = frozenset({ProblemKind.OTHER_DRIVER, ProblemKind.WHOLE_CARD_OF_GUEST})


class _Problem(NamedTuple):
    kind: ProblemKind
    address: PciAddress | None
    arguments: tuple[tuple[str, str], ...]


class Problem(_Problem):
    """One problem: its kind, where it is, and the words that its message needs.

    Attributes:
        kind: the cause.
        address: the card or virtual function that it concerns; None if it concerns neither.
        arguments: names and values that the message of the kind needs, besides `address`.
    """

    __slots__ = ()

    def __new__(
        cls, kind: ProblemKind, address: PciAddress | None = None, **arguments: str
    ) -> Problem:
        """Make a problem from the arguments of its message."""
        return super().__new__(cls, kind, address, tuple(sorted(arguments.items())))

    def __str__(self) -> str:
        """Return one printable line for logs, of at most 500 characters."""
        kind, address, arguments = self
        place = "" if address is None else f" {address}"
        details = "".join(f" {name}={text!r}" for name, text in arguments)
        return f"{kind.value}:{place}{details}"[:500]

    def argument(self, name: str) -> str:
        """Return an argument of the message, empty if the problem has none of that name."""
        return dict(self.arguments).get(name, "")

    def to_row(self) -> list[object]:
        """Return the problem as plain JSON data: kind, address, arguments."""
        kind, address, arguments = self
        return [kind.value, "" if address is None else str(address), dict(arguments)]

    @classmethod
    def from_row(cls, row: Any) -> Problem | None:
        """Read what `to_row` returned; None for anything else, as another revision may write."""
        try:
            kind, address, arguments = row
            parsed = PciAddress.parse(address) if address else None
            texts = {name: str(text) for name, text in arguments.items() if name.isidentifier()}
            return cls(ProblemKind(kind), parsed, **texts)
        except (AttributeError, TypeError, ValueError):
            return None


class HostError(Exception):
    """A step on the host failed; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
