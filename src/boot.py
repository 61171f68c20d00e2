# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The boot service: makes the plan true at each boot, without any hook and before Nova.

As a program it is what the service starts; as a module it installs, starts and removes the
service. It needs nothing but the host and the charm's own folder. The wish is the last value of
the option that was found good, so a type given by name is resolved when the driver tells its
types.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import sys
import time
from pathlib import Path

from cards import guest_mdevs
from gpu.problems import HostError, Problem, ProblemKind
from host import facts as host
from planning import mappings
from planning.mappings import VgpuRequest
from planning.plan import VariantDriverOptions
from state import charm_state as memories
from system import commands
from system.commands import CommandError, Runner
from system.files import ensure_contents, has_contents

__all__ = [
    "UNIT",
    "ensure_unit",
    "failures",
    "has_run",
    "is_permanent",
    "record",
    "remove_unit",
    "start",
]

UNIT = "nova-compute-nvidia-vgpu"
_UNIT_PATH = Path("etc/systemd/system") / f"{UNIT}.service"
_RESULT = Path("run/nova-compute-nvidia-vgpu/result.json")
_UNREAD = Path("run/nova-compute-nvidia-vgpu/daemon-reload")
# What another try may mend, and costs nothing.
_RETRIED = frozenset(
    {
        ProblemKind.VFS_FAILED,
        ProblemKind.DISK_WRITE_FAILED,
        ProblemKind.BOOT_SERVICE_FAILED,
        ProblemKind.MDEV_LOST,
        ProblemKind.TYPES_UNKNOWN,
        ProblemKind.INSTANCES_MISSING,
        ProblemKind.WAITING_TO_LEAVE_MIG,
    }
)
_TIMEOUT = 600  # seconds, after which a boot goes on without us
_BUDGET = 400.0  # seconds, after which no further card is begun with
_NEW_BUDGET = 200.0  # the same for a wish that may have to be taken back
_UNIT_TEXT = """\
# Written by the charm nova-compute-nvidia-vgpu, which removes it when it goes.
[Unit]
Description=NVIDIA vGPUs for Nova, as asked of Juju
Documentation=https://docs.openstack.org/nova/latest/admin/virtual-gpu.html
After=nvidia-vgpud.service nvidia-vgpu-mgr.service
Before=nova-compute.service
ConditionPathExists={charm}/src/boot.py

[Service]
Type=oneshot
Environment=PYTHONPATH={charm}/lib:{charm}/venv PYTHONDONTWRITEBYTECODE=1
RemainAfterExit=yes
ExecStart={python} -W ignore {charm}/src/boot.py
ExecStop={python} -W ignore {charm}/src/boot.py record
TimeoutStartSec={timeout}
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
"""
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._-]+", re.ASCII)

logger = logging.getLogger(__name__)


def ensure_unit(root: Path, run: Runner, charm: Path) -> bool:
    """Install or refresh the service; return whether anything was done.

    Raises:
        HostError: BOOT_SERVICE, if systemd does not take it.
    """
    for path in (str(charm), sys.executable):  # a unit file expands %, $ and blanks
        if _PLAIN_PATH.fullmatch(path) is None:
            raise HostError(
                Problem(ProblemKind.BOOT_SERVICE_FAILED, "the charm's folder has an odd name")
            )
    text = _UNIT_TEXT.format(charm=charm, python=sys.executable, timeout=_TIMEOUT)
    wanted = root / "etc/systemd/system/multi-user.target.wants" / f"{UNIT}.service"
    unread = root / _UNREAD
    if not has_contents(root / _UNIT_PATH, text):
        ensure_contents(unread, "")  # a hook may be killed before systemd has read the new one
        ensure_contents(root / _UNIT_PATH, text)
    elif wanted.is_symlink() and not unread.exists():
        return False
    _systemctl(run, "daemon-reload")
    _systemctl(run, "enable", UNIT)
    unread.unlink(missing_ok=True)
    return True


def remove_unit(root: Path, run: Runner) -> None:
    """Remove the service and what it left; what it made on the cards stays until the next boot."""
    if not (root / _UNIT_PATH).exists() and not (root / _RESULT).parent.exists():
        return
    for words in (("disable", "--now", UNIT), ("daemon-reload",)):
        with contextlib.suppress(CommandError):
            run("systemctl", *words, check=False)
        (root / _UNIT_PATH).unlink(missing_ok=True)
    shutil.rmtree((root / _RESULT).parent, ignore_errors=True)


def start(root: Path, run: Runner) -> None:
    """Run the service now, and wait for it; a run that is under way is not cut short.

    Raises:
        HostError: BOOT_SERVICE, if it fails; `failures` may say more.
    """
    if not has_run(root):
        with contextlib.suppress(CommandError, HostError):
            state = run("systemctl", "is-active", UNIT, check=False).stdout.strip()
            if state == "activating":  # the one of this boot, perhaps with an older wish
                _systemctl(run, "start", UNIT)
    try:
        _systemctl(run, "restart", UNIT)
    except HostError:
        if not failures(root):  # killed: what it found good it may not have brought to an end
            (root / _RESULT).unlink(missing_ok=True)
        raise


def has_run(root: Path) -> bool:
    """Whether the service has come to its end in this boot; it may have been killed."""
    return (root / _RESULT).exists()


def failures(root: Path) -> tuple[Problem, ...]:
    """Return what the last run of this boot could not do; empty if there was none."""
    try:
        rows = json.loads((root / _RESULT).read_text(encoding="utf-8"))
        return tuple(Problem(ProblemKind(kind), *map(str, words)) for kind, *words in rows)
    except (OSError, ValueError, TypeError, RecursionError):
        return ()


def is_permanent(root: Path, *, risks_published: bool) -> bool:
    """Whether the last run of this boot ended in what another one would hardly mend.

    Args:
        root: the root of the host's file system.
        risks_published: whether a try may take from Nova what it is offered.
    """
    passing = _RETRIED if risks_published else _RETRIED | {ProblemKind.TYPE_REFUSED}
    return bool(_kinds(failures(root)) - passing)


def _kinds(problems: tuple[Problem, ...]) -> set[ProblemKind]:
    return {problem.kind for problem in problems}


def _systemctl(run: Runner, *words: str) -> None:
    try:
        run("systemctl", *words, timeout=_TIMEOUT + 30)
    except CommandError as error:
        raise HostError(
            Problem(ProblemKind.BOOT_SERVICE_FAILED, f"systemctl {words[0]} failed")
        ) from error


def record(root: Path) -> int:
    """Note guests' devices before the host goes down; return the exit code."""
    try:
        guest_mdevs.record_guest_mdevs(root, host.gather(root).cards)
    except HostError as error:
        logger.error("%s", error)
        return 1
    return 0


def main(root: Path, run: Runner) -> int:
    """Do the service's work; return its exit code."""
    from cards import prepare  # hooks, which import this module, have no use for it

    memory = memories.load(root)
    with contextlib.suppress(FileNotFoundError):
        (root / _RESULT).unlink()  # never to be taken for this run's
    if memory.paused:
        logger.info("nothing to do: paused")
        return 0
    try:
        options = VariantDriverOptions(
            report_in_placement=memory.requested_report_in_placement
            or memory.reported_in_placement
        )
        is_new = memory.requested_mapping != memory.applied_mapping
        start = time.monotonic()
        budget = _NEW_BUDGET if is_new else _BUDGET
        problems = prepare.prepare_cards(
            root,
            run,
            _requests(memory.requested_mapping),
            options,
            is_new_mapping=is_new,
            budget=budget,
        )
        # A wish that ends in anything but these leaves the cards to the wish before.
        if (
            memory.applied_mapping
            and is_new
            and _kinds(problems) - _RETRIED - {ProblemKind.MIG_PENDING}
        ):
            logger.info("the last wish cannot be fulfilled, going back to the one before")
            budget = max(_BUDGET - (time.monotonic() - start), 0.0)
            before = _requests(memory.applied_mapping)
            problems += prepare.prepare_cards(root, run, before, options, budget=budget)
    except HostError as error:
        problems = (error.problem,)
    rows = [(problem.kind.value, *problem[1:]) for problem in problems]
    ensure_contents(root / _RESULT, json.dumps(rows) + "\n")
    for problem in problems:
        logger.error("%s: %s", problem.kind.value, " ".join(filter(None, problem[1:])))
    if not problems:
        logger.info("all devices that are asked for are there")
    return 1 if problems else 0


def _requests(wish: str) -> tuple[VgpuRequest, ...]:
    data = mappings.parse(wish)
    if data is not None:  # it was found good, but a file may be damaged
        mappings.check(data)
    return mappings.requests(data)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if sys.argv[1:] == ["record"]:
        sys.exit(record(Path("/")))
    sys.exit(main(Path("/"), commands.run))
