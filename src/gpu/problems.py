# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What can be in the way of a working vGPU, as data. How it is said stands in `status`."""

from __future__ import annotations

import enum
from typing import NamedTuple

from system.text import one_line

__all__ = ["REBOOT", "HostError", "Problem", "ProblemKind"]


class ProblemKind(enum.Enum):
    """Each cause that an operator can meet; the value is its stable name in JSON output."""

    # the option vgpu-device-mappings
    MAPPING_SYNTAX = "mapping-syntax"
    MAPPING_INVALID = "mapping-invalid"
    DEVICE_MAPPED_TWICE = "device-mapped-twice"
    TYPE_MAPPED_TWICE = "type-mapped-twice"
    # the mapping against this host
    TYPE_NOT_OFFERED = "type-not-offered"
    TYPES_UNKNOWN = "types-unknown"
    MIXED_SIZES = "mixed-sizes"
    VFS_DISABLED = "virtual-functions-disabled"
    TOO_FEW_FUNCTIONS = "too-few-virtual-functions"
    VFS_FAILED = "virtual-functions-failed"
    BOOT_SERVICE_FAILED = "boot-service-failed"
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
    DPKG_LOCKED = "dpkg-locked"
    NOT_INSTALLED = "not-installed"
    UPGRADE_PENDING = "upgrade-pending"
    NOT_LOADED = "not-loaded"
    SECURE_BOOT = "secure-boot"
    OPEN_MODULE = "open-module"
    NOUVEAU = "nouveau-bound"
    OTHER_VERSION_LOADED = "other-version-loaded"
    SERVICE_DOWN = "service-down"
    STILL_RUNNING = "still-running"
    RESTART_PENDING = "restart-pending"
    # actions
    VGPUS_IN_USE = "vgpus-in-use"
    VGPUS_IN_USE_OR_FORCE = "vgpus-in-use-or-force"
    REBOOT_REFUSED = "reboot-refused"
    PAUSED = "paused"
    PAUSED_BY_PRINCIPAL = "paused-by-principal"
    # the host itself
    DISK_WRITE_FAILED = "disk-write-failed"
    CARD_UNREADABLE = "card-unreadable"
    # why a card offers nothing, as show-plan tells it
    OTHER_DRIVER = "other-driver"
    VFS_NOT_ENABLED = "virtual-functions-not-enabled"
    NO_TYPES_REPORTED = "no-types-reported"
    # guests
    GUESTS_USE_OTHER_TYPE = "guests-use-other-type"
    MIXED_SIZE_NEEDED = "mixed-size-needed"
    # the relation
    NOT_RELATED = "not-related"


# What only a reboot of the host mends.
REBOOT = frozenset(
    {ProblemKind.NOUVEAU, ProblemKind.OTHER_VERSION_LOADED, ProblemKind.MIG_PENDING}
)


class Problem(NamedTuple):
    """One thing in the way.

    Attributes:
        kind: the cause.
        subject: what it is about: a place in the mapping, an address, a package, a service.
        detail: the rest that the sentence of its kind needs.
        more: a third piece, where the sentence needs one.
    """

    kind: ProblemKind
    subject: str = ""
    detail: str = ""
    more: str = ""


class HostError(Exception):
    """A step on the host could not be done; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        text = f"{problem.kind.value}: {problem.subject} {problem.detail}".strip()
        super().__init__(one_line(text, 500))
        self.problem = problem
