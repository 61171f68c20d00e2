# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Virtual functions, and the failures of sriov-manage."""

from __future__ import annotations

from unittest import mock

import pytest

import recorded
from cards import virtual_functions
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from host import gpus
from system.commands import CommandError, Result

CARD = "0000:41:00.0"
DELAYS = (1, 2, 4, 8, 16)
COMMAND = ("/usr/lib/nvidia/sriov-manage", "-e", CARD)


@pytest.fixture
def a40(machine):
    """An A40 whose virtual functions are not enabled."""
    return machine(recorded.without_functions("a40-mdev"))


def card_of(host):
    return gpus.scan(host.root).gpus[0]


def enable(host):
    pauses = []
    with mock.patch("time.sleep", pauses.append):
        card = card_of(host)
        result = virtual_functions.enable_virtual_functions(host.root, host, card, DELAYS)
    return result, pauses


def failure_of(host):
    with pytest.raises(HostError) as error:
        enable(host)
    return error.value.problem


def test_functions_are_enabled_once(a40):
    assert enable(a40) == (True, [])
    assert len(card_of(a40).virtual_functions) == 32
    assert enable(a40) == (False, [])
    assert a40.commands == [COMMAND]


def test_success_without_functions_is_retried(a40):
    a40.sriov_no_ops = 2
    assert enable(a40) == (True, [1, 2])


def test_repeated_success_without_functions_is_a_failure(a40):
    a40.sriov_no_ops = 99
    assert failure_of(a40) == Problem(
        ProblemKind.VFS_FAILED, PciAddress.parse(CARD), reason=f"Enabling VFs on {CARD}"
    )
    assert len(a40.did(COMMAND[0])) == 6


def test_temporary_client_of_the_card_is_awaited(a40):
    a40.fail(COMMAND[0], output="Cannot obtain unbindLock\n", times=3)
    assert enable(a40) == (True, [1, 2, 4])


def test_permanent_client_of_the_card_is_reported(a40):
    a40.fail(COMMAND[0], output="Cannot obtain unbindLock\n")
    assert failure_of(a40) == Problem(
        ProblemKind.VFS_FAILED, PciAddress.parse(CARD), reason="Cannot obtain unbindLock"
    )


@pytest.mark.parametrize(
    ("cgroup", "client"),
    [
        ("0::/system.slice/nvidia-persistenced.service\n", "nvidia-persistenced"),
        (
            "4:devices:/system.slice/snap.dcgm.nv-hostengine.service\n0::/\n",
            "snap.dcgm.nv-hostengine",
        ),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "nvidia-smi"),
    ],
    ids=["persistence daemon", "DCGM", "a shell's program"],
)
def test_program_that_uses_the_card_is_named(a40, cgroup, client):
    for process, unit in (
        ("4711", cgroup),
        ("4712", "0::/system.slice/nvidia-vgpu-mgr.service\n"),
    ):
        folder = a40.root / "proc" / process
        (folder / "fd").mkdir(parents=True)
        (folder / "fd/5").symlink_to("/dev/nvidia0")
        (folder / "cgroup").write_text(unit)
        (folder / "comm").write_text("nvidia-smi\n")
    a40.fail(COMMAND[0], output="Cannot obtain unbindLock\n")
    assert failure_of(a40).argument("reason") == f"{client} uses the card"


def test_card_is_tried_once_without_delays(a40):
    a40.fail(COMMAND[0], output="Cannot obtain unbindLock\n")
    with pytest.raises(HostError):
        virtual_functions.enable_virtual_functions(a40.root, a40, card_of(a40))
    assert a40.did(COMMAND[0]) == [COMMAND]


def test_failure_without_output_is_reported_with_its_exit_code(a40):
    a40.fail(COMMAND[0], returncode=3)
    assert failure_of(a40).argument("reason") == "sriov-manage exited with 3 and printed nothing"


def test_card_left_without_a_driver_is_bound_again(a40):
    link = a40.root / "sys/bus/pci/devices" / CARD / "driver"
    card = card_of(a40)
    link.unlink()
    a40.fail(COMMAND[0], output="unbound\n")
    with pytest.raises(HostError):
        virtual_functions.enable_virtual_functions(a40.root, a40, card)
    assert a40.driver.card(CARD)["driver"] == "nvidia"


def test_card_that_the_driver_does_not_take_is_reported(a40):
    card = card_of(a40)
    (a40.root / "sys/bus/pci/devices" / CARD / "driver").unlink()
    (a40.root / "sys/bus/pci/drivers/nvidia").rmdir()
    a40.fail(COMMAND[0], output="unbound\n")
    with pytest.raises(HostError) as error:
        virtual_functions.enable_virtual_functions(a40.root, a40, card)
    assert error.value.problem.argument("reason") == ("no driver is bound to it, see dmesg")


def test_missing_pci_pf_stub_is_reported(a40):
    a40.sriov_no_ops = 99
    a40.has_stub = False
    assert (
        failure_of(a40).argument("reason") == "no module pci-pf-stub; install linux-modules-extra"
    )


def test_missing_modprobe_is_not_reported_as_the_cause(a40):
    a40.sriov_no_ops = 99
    a40.fail("modprobe", returncode=None)
    assert failure_of(a40).argument("reason") == f"Enabling VFs on {CARD}"


def test_loaded_stub_is_not_queried(a40):
    a40.sriov_no_ops = 99
    (a40.root / "sys/bus/pci/drivers/pci-pf-stub").mkdir()
    failure_of(a40)
    assert a40.did("modprobe") == []


def test_missing_sriov_manage_is_reported(a40):
    (a40.root / recorded.SRIOV_MANAGE).unlink()
    assert failure_of(a40).argument("reason") == "sriov-manage is missing"
    assert a40.commands == []


def test_driver_that_is_not_loaded_is_reported(a40):
    (a40.root / "sys/module/nvidia/version").unlink()
    assert failure_of(a40).argument("reason") == "the driver is not loaded"


def test_sriov_manage_that_hangs_is_not_retried(a40):
    def hang(*argv, **options):
        a40.commands.append(argv)
        if argv[0] == COMMAND[0]:
            (a40.root / "sys/bus/pci/devices" / CARD / "driver").unlink()
        if argv[0] in (COMMAND[0], "sh"):  # both wait for the card and cannot be killed
            raise CommandError(argv, "did not end within 60 s", timed_out=True)
        return a40(*argv, **options)

    card = card_of(a40)
    with pytest.raises(HostError) as error:
        virtual_functions.enable_virtual_functions(a40.root, hang, card)
    assert error.value.problem.argument("reason") == "did not end within 60 s"
    assert [argv[0] for argv in a40.commands if argv[0] != "modprobe"] == [COMMAND[0]]


def test_sriov_manage_that_cannot_start_is_a_failure(a40):
    a40.fail(COMMAND[0], returncode=None)
    assert failure_of(a40).argument("reason") == "No such file or directory"


def test_card_that_fell_off_the_bus_is_a_failure(a40):
    card = card_of(a40)
    (a40.root / "sys/bus/pci/devices" / CARD).unlink()
    a40.sriov_no_ops = 99
    with pytest.raises(HostError):
        virtual_functions.enable_virtual_functions(a40.root, a40, card)


def disable(host):
    virtual_functions.disable_virtual_functions(host.root, host, card_of(host), DELAYS)


def test_card_keeps_its_driver_when_functions_are_disabled(machine):
    host = machine("a40-mdev")
    disable(host)
    assert card_of(host).virtual_functions == ()
    assert card_of(host).driver == "nvidia"


def test_temporary_client_is_awaited_when_functions_are_disabled(machine):
    host = machine("a40-mdev")
    host.fail("/usr/lib/nvidia/sriov-manage", output="Cannot obtain unbindLock\n", times=2)
    disable(host)
    assert card_of(host).virtual_functions == ()


@pytest.mark.parametrize("output", ["Cannot obtain unbindLock", "did not end within 60 s"])
def test_functions_that_cannot_be_disabled_are_a_failure(machine, output):
    host = machine("a40-mdev")
    host.fail("/usr/lib/nvidia/sriov-manage", output=f"{output}\n")
    with pytest.raises(HostError) as error:
        disable(host)
    assert error.value.problem == Problem(
        ProblemKind.VFS_FAILED, PciAddress.parse(CARD), reason=output
    )
    assert len(card_of(host).virtual_functions) == 32


def unbinding(host, verb, times):
    """Make sriov-manage fail and unbind the card, which sh binds again."""
    link = host.root / "sys/bus/pci/devices" / CARD / "driver"
    target = link.readlink() if hasattr(link, "readlink") else link.resolve()
    remaining = [times]

    def run(*argv, **options):
        if argv[:2] == (COMMAND[0], verb) and remaining[0]:
            remaining[0] -= 1
            host.commands.append(argv)
            link.unlink()
            return Result(1, "", "the GPU is lost\n")
        if argv[0] == "sh":
            host.commands.append(argv)
            link.symlink_to(target)
            return Result(0, "", "")
        return host(*argv, **options)

    return run


def test_card_is_bound_again_before_the_next_attempt(a40):
    pauses = []
    run = unbinding(a40, "-e", 1)
    with mock.patch("time.sleep", pauses.append):
        card = card_of(a40)
        assert virtual_functions.enable_virtual_functions(a40.root, run, card, DELAYS)
    assert pauses == [1]
    assert [argv[0].rsplit("/", 1)[-1] for argv in a40.commands] == [
        "sriov-manage",
        "sh",
        "sriov-manage",
    ]


def test_card_is_bound_again_after_functions_are_disabled(machine):
    host = machine("a40-mdev")

    def run(*argv, **options):
        result = host(*argv, **options)
        if argv[0] == COMMAND[0]:
            (host.root / "sys/bus/pci/devices" / CARD / "driver").unlink()
        return result

    virtual_functions.disable_virtual_functions(host.root, run, card_of(host))
    assert host.did("sh -c")[0][3] == CARD
