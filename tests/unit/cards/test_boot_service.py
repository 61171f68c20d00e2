# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The systemd service that prepares the cards at each boot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import recorded
from cards import boot_service
from gpu.problems import HostError, Problem, ProblemKind
from state import boot_result

CHARM = Path("/var/lib/juju/agents/unit-nova-compute-nvidia-vgpu-0/charm")
UNITS = "usr/local/lib/systemd/system"
UNIT_FILE = f"{UNITS}/nova-compute-nvidia-vgpu.service"


FOLDERS = """\
StateDirectory=nova-compute-nvidia-vgpu
RuntimeDirectory=nova-compute-nvidia-vgpu
RuntimeDirectoryPreserve=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_MKNOD CAP_SYS_ADMIN CAP_SYS_MODULE CAP_SYS_PTRACE
PrivateTmp=yes
"""
SANDBOX = """\
NoNewPrivileges=yes
ProtectSystem=strict
ReadOnlyPaths=/run
ProtectHome=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @debug @keyring @mount @obsolete @raw-io @reboot
SystemCallFilter=~@resources @swap
SystemCallErrorNumber=EPERM
UMask=0022
"""


@pytest.fixture
def a40(machine):
    """An A40 after a boot."""
    return machine(recorded.without_functions("a40-mdev"))


def test_service_runs_between_nvidia_and_nova(a40):
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is True
    assert (a40.root / UNIT_FILE).read_text() == (
        "# Written by the charm nova-compute-nvidia-vgpu, which also removes it.\n"
        "[Unit]\n"
        "Description=Prepare NVIDIA vGPUs and whole cards for Nova\n"
        "Documentation=https://docs.openstack.org/nova/latest/admin/virtual-gpu.html\n"
        "After=nvidia-vgpud.service nvidia-vgpu-mgr.service\n"
        "Before=nova-compute.service\n"
        f"ConditionPathExists={CHARM}/src/boot.py\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        f"Environment=PYTHONPATH={CHARM}/lib:{CHARM}/venv PYTHONDONTWRITEBYTECODE=1\n"
        "RemainAfterExit=yes\n"
        f"ExecStart={sys.executable} -S -W ignore {CHARM}/src/boot.py\n"
        f"ExecStop={sys.executable} -S -W ignore {CHARM}/src/boot.py record\n"
        "TimeoutStartSec=600\n"
        "TimeoutStopSec=30\n"
        f"{FOLDERS}{SANDBOX}"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )
    assert a40.commands == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "nova-compute-nvidia-vgpu", "nova-compute-nvidia-vgpu-early"),
    ]


def test_early_service_binds_whole_cards_before_udev_loads_drivers(a40):
    """Not while /var is not mounted: a unit that required it would wait for udev."""
    boot_service.ensure_installed(a40.root, a40, CHARM)
    assert (a40.root / UNITS / "nova-compute-nvidia-vgpu-early.service").read_text() == (
        "# Written by the charm nova-compute-nvidia-vgpu, which also removes it.\n"
        "[Unit]\n"
        "Description=Bind whole cards to vfio-pci before other drivers\n"
        "DefaultDependencies=no\n"
        "Before=systemd-udev-trigger.service systemd-modules-load.service sysinit.target "
        "shutdown.target\n"
        "Conflicts=shutdown.target\n"
        f"ConditionPathExists={CHARM}/src/early_boot.py\n"
        "ConditionPathExists=/var/lib/nova-compute-nvidia-vgpu/bound-functions.json\n"
        "\n"
        "[Service]\n"
        "Type=oneshot\n"
        "Environment=PYTHONDONTWRITEBYTECODE=1\n"
        "RemainAfterExit=yes\n"
        f"ExecStart={sys.executable} -S -W ignore {CHARM}/src/early_boot.py\n"
        "TimeoutStartSec=60\n"
        "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_SYS_ADMIN CAP_SYS_MODULE\n"
        "PrivateNetwork=yes\n"
        f"{SANDBOX}"
        "\n"
        "[Install]\n"
        "WantedBy=sysinit.target\n"
    )


def test_installed_service_needs_no_program(a40):
    boot_service.ensure_installed(a40.root, a40, CHARM)
    a40.commands.clear()
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is False
    assert a40.commands == []


def test_service_of_another_revision_is_updated(a40):
    boot_service.ensure_installed(a40.root, a40, Path("/somewhere/else"))
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is True
    assert str(CHARM) in (a40.root / UNIT_FILE).read_text()


@pytest.mark.parametrize("folder", ["/a b", "/a%n", "/a\nExecStart=/bin/id", "/a$b", "a"])
def test_path_that_systemd_would_expand_is_rejected(a40, folder):
    with pytest.raises(HostError) as error:
        boot_service.ensure_installed(a40.root, a40, Path(folder))
    assert error.value.problem.kind is ProblemKind.BOOT_SERVICE_FAILED
    assert not (a40.root / UNIT_FILE).exists()


def test_systemd_reloads_a_unit_file_that_it_has_not_read(a40):
    """The hook may be killed between writing the file and the reload."""
    boot_service.ensure_installed(a40.root, a40, Path("/of/another/revision"))
    a40.fail("systemctl daemon-reload")
    with pytest.raises(HostError):
        boot_service.ensure_installed(a40.root, a40, CHARM)
    a40.repair("systemctl daemon-reload")
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is True
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is False


def test_service_that_was_never_enabled_is_not_off(a40):
    assert boot_service.why_off(a40.root) is None
    a40.fail("systemctl enable")
    with pytest.raises(HostError):
        boot_service.ensure_installed(a40.root, a40, CHARM)
    a40.reboot(starts=False)
    assert boot_service.why_off(a40.root) is None
    a40.repair("systemctl enable")
    assert boot_service.ensure_installed(a40.root, a40, CHARM) is True
    assert boot_service.why_off(a40.root) is None


@pytest.mark.parametrize(
    ("verb", "state", "remedy"), [("disable", "disabled", "enable"), ("mask", "masked", "unmask")]
)
def test_service_that_an_administrator_has_turned_off_is_off(a40, verb, state, remedy):
    boot_service.ensure_installed(a40.root, a40, CHARM)
    a40("systemctl", verb, boot_service.SERVICE)
    problem = Problem(ProblemKind.BOOT_SERVICE_OFF, state=state, verb=remedy)
    assert boot_service.why_off(a40.root) == problem
    a40("systemctl", remedy, boot_service.SERVICE)
    assert boot_service.why_off(a40.root) is None


def test_refusal_of_systemd_is_reported(a40):
    a40.fail("systemctl enable")
    with pytest.raises(HostError) as error:
        boot_service.ensure_installed(a40.root, a40, CHARM)
    assert error.value.problem == Problem(
        ProblemKind.BOOT_SERVICE_FAILED, reason="systemctl enable failed"
    )


def test_removal_leaves_no_file(a40):
    boot_service.ensure_installed(a40.root, a40, CHARM)
    boot_result.save(a40.root, [])
    boot_service.remove(a40.root, a40)
    boot_service.remove(a40.root, a40)
    left = [path for path in a40.root.rglob("*nova-compute-nvidia-vgpu*") if not path.is_dir()]
    assert left == []
    assert list((a40.root / "run").rglob("result.json")) == []


def test_removal_that_was_killed_between_its_files_is_completed_after_a_boot(a40):
    boot_service.ensure_installed(a40.root, a40, CHARM)
    (a40.root / "usr/local/lib/systemd/system/nova-compute-nvidia-vgpu.service").unlink()
    boot_service.remove(a40.root, a40)
    left = [path for path in a40.root.rglob("*nova-compute-nvidia-vgpu*") if not path.is_dir()]
    assert left == []
