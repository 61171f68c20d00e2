# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""nouveau is blacklisted, and the cards are bound to NVIDIA's driver after a reboot."""

from __future__ import annotations

import pytest
from installing import attach, install, load, problem_of, query

from driver import installation
from gpu.pci import PciAddress
from gpu.problems import Problem, ProblemKind

CONF = "etc/modprobe.d/nova-compute-nvidia-vgpu.conf"


def test_card_bound_to_nouveau_needs_a_reboot_after_installation(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    assert query(simulated).reboot_reason() == Problem(
        ProblemKind.NOUVEAU, PciAddress.parse("0000:84:00.0")
    )


def test_nouveau_is_blacklisted_from_the_next_boot(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    simulated.commands.clear()
    assert load(simulated) is True
    assert (simulated.root / CONF).read_text().splitlines()[1:] == [
        "blacklist nouveau",
        "options nouveau modeset=0",
        "# The initramfs contains this file.",
    ]
    assert simulated.commands == [("update-initramfs", "-u")]


def test_blacklisted_nouveau_needs_no_program(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    load(simulated)
    simulated.commands.clear()
    assert load(simulated) is False
    assert simulated.commands == []


def test_initramfs_is_written_again_after_a_power_loss(machine):
    """The file was written before the power loss, the initramfs was not."""
    simulated = machine("t4-pair")
    (simulated.root / CONF).parent.mkdir(parents=True)
    (simulated.root / CONF).write_text("blacklist nouveau\n")
    assert load(simulated) is True
    assert simulated.commands == [("update-initramfs", "-u")]
    assert load(simulated) is False


def test_dracut_writes_the_initramfs_if_it_is_installed(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    (simulated.root / "usr/sbin/update-initramfs").unlink()
    simulated.provide("usr/bin/dracut")
    simulated.commands.clear()
    assert load(simulated) is True
    assert simulated.commands == [("dracut", "--force", "--regenerate-all")]


def test_host_without_an_initramfs_is_not_an_error(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    (simulated.root / "usr/sbin/update-initramfs").unlink()
    simulated.commands.clear()
    assert load(simulated) is True
    assert simulated.commands == []


def test_failed_write_of_the_initramfs_is_retried(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    simulated.fail("update-initramfs", output="No space left on device\n", times=2)
    problem = problem_of(load, simulated)
    assert problem == Problem(ProblemKind.INSTALL_FAILED, reason="update-initramfs failed")
    assert load(simulated) is True
    assert len(simulated.did("update-initramfs -u")) == 3


def test_initramfs_is_written_after_a_killed_hook(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))

    def killed(*argv, **options):
        if argv[0] == "update-initramfs":
            raise SystemExit
        return simulated(*argv, **options)

    with pytest.raises(SystemExit):
        installation.ensure_loaded(simulated.root, killed, query(simulated))
    load(simulated)
    assert simulated.did("update-initramfs -u") != []


def test_reboot_binds_the_cards_to_the_driver(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    load(simulated)
    simulated.reboot()
    state = query(simulated)
    assert (state.loaded, state.nouveau, state.reboot_reason()) == ("570.172.07", (), None)
