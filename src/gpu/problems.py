# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What can be in the way of a working vGPU, as data. How it is said stands in `status`."""

from __future__ import annotations

import enum
from typing import NamedTuple

from system.text import one_line

__all__ = ["REBOOT", "HostError", "Kind", "Problem"]


class Kind(enum.Enum):
    """Each cause that an operator can meet; the value is its stable name in JSON output."""

    # the option vgpu-device-mappings
    MAPPING_SYNTAX = "mapping-syntax"
    MAPPING_INVALID = "mapping-invalid"
    DEVICE_TWICE = "device-twice"
    SAME_TYPE = "same-type"
    # the mapping against this host
    TYPE_NOT_OFFERED = "type-not-offered"
    TYPES_UNKNOWN = "types-unknown"
    MIXED_SIZES = "mixed-sizes"
    VFS_DISABLED = "virtual-functions-disabled"
    FEW_FUNCTIONS = "few-virtual-functions"
    VFS_FAILED = "virtual-functions-failed"
    BOOT_SERVICE = "boot-service"
    VENDOR_VFIO = "vendor-vfio"
    TYPE_NOT_SET = "type-not-set"
    INSTANCES_MISSING = "gpu-instances-missing"
    MIG_BACKED_STILL = "mig-backed-still"
    NO_MIG = "no-mig"
    MIG_FAILED = "mig-failed"
    MIG_PENDING = "mig-pending"
    TWO_KINDS = "time-sliced-and-mig-backed"
    CARD_OVERFULL = "card-overfull"
    MIXED_SIZE_WAITS = "mixed-size-waits"
    MIXED_SIZE_GUESTS = "mixed-size-guests"
    MIXED_SIZE_FAILED = "mixed-size-failed"
    MDEV_LOST = "mdev-lost"
    TYPE_REFUSED = "type-refused"
    TWO_TYPES_ON_CARD = "two-types-on-card"
    NEEDS_PLACEMENT = "needs-placement"
    ALIAS_AMBIGUOUS = "alias-ambiguous"
    NO_MIGRATION = "no-live-migration"
    WRONG_FLAVOUR = "wrong-package-flavour"
    # the mapping against the installed Nova
    NOVA_MISSING = "nova-missing"
    NOVA_TOO_OLD = "nova-too-old"
    OPTION_UNSUPPORTED = "option-unsupported"
    OPTION_IGNORED = "option-ignored"
    MAX_INSTANCES_DROPS_CARD = "max-instances-drops-card"
    FIRST_TYPE_ONLY = "first-type-only"
    TAKES_ALL_CARDS = "takes-all-cards"
    # the resource nvidia-vgpu-software
    RESOURCE_MISSING = "resource-missing"
    RESOURCE_INVALID = "resource-invalid"
    # the host software
    INSTALL_FAILED = "install-failed"
    LOCKED = "dpkg-locked"
    NOT_INSTALLED = "not-installed"
    IN_USE = "in-use"
    NOT_LOADED = "not-loaded"
    SECURE_BOOT = "secure-boot"
    OPEN_MODULE = "open-module"
    NOUVEAU = "nouveau-bound"
    OTHER_VERSION_LOADED = "other-version-loaded"
    SERVICE_DOWN = "service-down"
    STILL_RUNNING = "still-running"
    RESTART_WAITS = "restart-waits"
    # actions
    GUESTS = "guests"
    GUESTS_OR_FORCE = "guests-or-force"
    REBOOT_REFUSED = "reboot-refused"
    OUR_PAUSE = "our-pause"
    PRINCIPAL_PAUSE = "principal-pause"
    # the host itself
    DISK = "disk"
    CARD_UNREADABLE = "card-unreadable"
    # why a card offers nothing, as show-plan tells it
    OTHER_DRIVER = "other-driver"
    VFS_OFF = "virtual-functions-off"
    SILENT = "silent"
    # guests
    TYPE_IN_USE = "type-in-use"
    SIZES_TOLD = "mixed-sizes-told"
    # the relation
    NOT_RELATED = "not-related"


# What only a reboot of the host mends.
REBOOT = frozenset({Kind.NOUVEAU, Kind.OTHER_VERSION_LOADED, Kind.MIG_PENDING})


class Problem(NamedTuple):
    """One thing in the way.

    Attributes:
        kind: the cause.
        subject: what it is about: a place in the mapping, an address, a package, a service.
        detail: the rest that the sentence of its kind needs.
        more: a third piece, where the sentence needs one.
    """

    kind: Kind
    subject: str = ""
    detail: str = ""
    more: str = ""


class HostError(Exception):
    """A step on the host could not be done; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        text = f"{problem.kind.value}: {problem.subject} {problem.detail}".strip()
        super().__init__(one_line(text, 500))
        self.problem = problem
