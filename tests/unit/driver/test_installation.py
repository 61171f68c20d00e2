# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Installation, replacement and loading of the host software."""

from __future__ import annotations

import os

import pytest
from installing import attach, install, load, problem_of, query

import recorded
from driver import daemon, host_package, kept_package
from gpu.problems import Problem, ProblemKind
from host import driver_state
from system import systemd
from system.dpkg import Package

KERNEL = "5.15.0-173-generic"
HEADERS = f"linux-headers-{KERNEL}"
EXTRA = f"linux-modules-extra-{KERNEL}"
UUID = recorded.UUIDS[0]
OLD, NEW = "nvidia-vgpu-ubuntu-535", "nvidia-vgpu-ubuntu-570"


# Installing


def test_headers_and_extra_modules_are_installed_first(machine):
    simulated = machine("t4-fresh")
    package = attach(simulated)
    assert install(simulated, package) is True
    headers, simulation, installation = simulated.did("apt-get install")
    assert headers[-3:] == (HEADERS, EXTRA, "dkms")
    assert simulation[-2:] == ("--simulate", package.path)
    assert installation[-2:] == ("--no-remove", package.path)
    assert query(simulated).has(package.name, package.version)
    assert systemd.has_unit(simulated.root, driver_state.DAEMON)


def test_prebuilt_driver_needs_no_headers(machine):
    simulated = machine("t4-fresh")
    package = attach(simulated, dkms=False)
    install(simulated, package)
    assert {command[-1] for command in simulated.did("apt-get install")} == {package.path}


def test_installed_package_is_left_unchanged(machine):
    simulated = machine("t4-pair")
    package = attach(simulated, name=OLD, version="535.161.05")
    simulated.commands.clear()
    assert install(simulated, package) is False
    assert simulated.commands == []


def test_resource_with_any_name_is_installed(machine):
    simulated = machine("t4-fresh")
    deb = simulated.make_deb(simulated.root.parent / "nvidia-vgpu-software")
    install(simulated, host_package.inspect(deb, simulated))
    assert query(simulated).installed.version == "570.172.07"
    assert not os.path.exists(simulated.commands[-1][-1])  # the link with the right name


def test_other_branch_is_removed_first(machine):
    simulated = machine("t4-pair")
    package = attach(simulated)
    assert install(simulated, package) is True
    assert simulated.did("apt-get remove")[0][-1] == OLD
    assert query(simulated).has(package.name, package.version)


@pytest.mark.parametrize("version", ["535.200.01", "535.104.06"], ids=["newer", "older"])
def test_other_version_of_the_same_branch_is_replaced_in_one_step(machine, version):
    simulated = machine("t4-pair")
    package = attach(simulated, name=OLD, version=version)
    assert install(simulated, package) is True
    assert simulated.did("apt-get remove") == []
    assert query(simulated).has(package.name, package.version)


def test_upgrade_waits_until_no_vgpu_is_in_use(machine):
    simulated = machine("t4-pair")
    package = attach(simulated)
    simulated.commands.clear()
    problem = problem_of(install, simulated, package, (UUID,))
    assert problem == Problem(ProblemKind.UPGRADE_PENDING, version="570.172.07")
    assert simulated.commands == []


def test_truncated_package_is_rejected_before_the_old_one_is_removed(machine):
    simulated = machine("t4-pair")
    problem = problem_of(install, simulated, attach(simulated, truncated=True))
    assert problem == Problem(
        ProblemKind.RESOURCE_INVALID, reason="the file is truncated or damaged"
    )
    assert simulated.did("apt-get") == []
    assert query(simulated).installed.name == OLD


def test_broken_package_is_replaced_by_a_corrected_one_of_the_same_version(machine):
    simulated = machine("t4-fresh")
    problem = problem_of(install, simulated, attach(simulated, postinst_fails=True))
    assert problem == Problem(ProblemKind.INSTALL_FAILED, reason=f"installed {NEW} package")
    assert query(simulated).installed is None
    package = attach(simulated)
    assert install(simulated, package) is True
    assert query(simulated).has(package.name, package.version)


def test_broken_package_is_replaced_by_another_branch(machine):
    simulated = machine("t4-fresh")
    problem_of(install, simulated, attach(simulated, postinst_fails=True))
    package = attach(simulated, name=OLD, version="535.161.05")
    assert install(simulated, package) is True
    assert query(simulated).has(package.name, package.version)


@pytest.mark.parametrize(
    ("name", "version"),
    [(NEW, "570.172.07"), (OLD, "535.200.01")],
    ids=["another branch", "another version"],
)
def test_failed_upgrade_puts_the_old_package_back(machine, name, version):
    simulated = machine("t4-pair")
    old = simulated.make_deb(simulated.root.parent / "old.deb", name=OLD, version="535.161.05")
    kept_package.ensure_kept(simulated.root, host_package.inspect(old, simulated))
    old.unlink()
    wanted = attach(simulated, name=name, version=version, postinst_fails=True)
    assert problem_of(install, simulated, wanted) == Problem(
        ProblemKind.INSTALL_UNDONE,
        previous="535.161.05",
        wanted=version,
        reason=f"installed {name} package",
    )
    assert query(simulated).installed == Package(OLD, "535.161.05", "installed")
    assert daemon.is_active(simulated.root, simulated)


def test_old_package_that_cannot_be_put_back_does_not_hide_the_first_failure(machine):
    simulated = machine("t4-pair")
    old = simulated.make_deb(
        simulated.root.parent / "old.deb", name=OLD, version="535.161.05", postinst_fails=True
    )
    kept_package.ensure_kept(simulated.root, host_package.inspect(old, simulated))
    wanted = attach(simulated, postinst_fails=True)
    assert problem_of(install, simulated, wanted).kind is ProblemKind.INSTALL_FAILED


def test_package_that_fails_before_a_change_is_not_undone(machine):
    simulated = machine("t4-pair")
    old = simulated.make_deb(simulated.root.parent / "old.deb", name=OLD, version="535.161.05")
    kept_package.ensure_kept(simulated.root, host_package.inspect(old, simulated))
    simulated.fail("apt-get remove", output="E: Could not read status\n", returncode=100)
    problem = problem_of(install, simulated, attach(simulated))
    assert problem == Problem(ProblemKind.INSTALL_FAILED, reason="E: Could not read status")


def test_interrupted_dpkg_is_repaired_first(machine):
    simulated = machine("t4-fresh")
    updates = simulated.root / "var/lib/dpkg/updates"
    updates.mkdir()
    (updates / "0001").touch()
    package = attach(simulated)
    assert install(simulated, package) is True
    assert query(simulated).has(package.name, package.version)


def test_unpacked_package_is_configured_without_a_resource(machine):
    driver = {"package": OLD, "version": "535.161.05", "loaded": None, "state": "unpacked"}
    simulated = machine("t4-pair", driver=driver)
    assert install(simulated, None) is True
    assert query(simulated).installed.name == OLD
    assert install(simulated, None) is False


def test_unpacked_package_is_not_configured_under_guests(machine):
    driver = {"package": OLD, "version": "535.161.05", "loaded": None, "state": "unpacked"}
    simulated = machine("t4-pair", driver=driver)
    assert install(simulated, None, (UUID,)) is False
    assert simulated.commands == []


def test_host_without_a_resource_is_left_unchanged(machine):
    simulated = machine("t4-fresh")
    assert install(simulated, None) is False
    assert simulated.commands == []


# Loading


def test_driver_that_is_not_installed_is_not_loaded(machine):
    simulated = machine("t4-fresh")
    assert load(simulated) is False
    assert simulated.commands == []


def test_loaded_driver_is_left_unchanged(machine):
    simulated = machine("t4-pair")
    assert load(simulated) is False
    assert simulated.commands == []


def test_modules_are_loaded_and_services_started(machine):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    simulated.commands.clear()
    assert load(simulated) is True
    assert simulated.commands == [
        ("modprobe", "nvidia"),
        ("modprobe", "nvidia-vgpu-vfio"),
        ("systemctl", "start", "nvidia-vgpud"),
        ("systemctl", "start", "nvidia-vgpu-mgr"),
    ]
    assert query(simulated).loaded == "570.172.07"


def test_missing_vfio_module_is_not_an_error(machine):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    simulated.fail("modprobe nvidia-vgpu-vfio", output="modprobe: FATAL: Module not found\n")
    assert load(simulated) is True


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n",
            "could not insert 'nvidia': Key was rejected by service",
        ),
        (
            "modprobe: FATAL: Module nvidia not found in directory /lib/modules/5.15\n",
            "Module nvidia not found in directory /lib/modules/5.15",
        ),
        ("", "modprobe nvidia: exit 1: no output"),
    ],
    ids=["Secure Boot", "not built", "no output"],
)
def test_reason_of_a_failed_load_is_reported(machine, output, reason):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    simulated.fail("modprobe nvidia", output=output)
    assert problem_of(load, simulated) == Problem(ProblemKind.NOT_LOADED, reason=reason)


def test_headers_of_a_new_kernel_are_installed(machine):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    (simulated.root / "proc/sys/kernel/osrelease").write_text("5.15.0-180-generic\n")
    simulated.headers = "linux-headers-5.15.0-180-generic"
    simulated.archive.add(simulated.headers)
    assert load(simulated) is True
    assert simulated.did("apt-get install")[-1][-1] == "linux-headers-5.15.0-180-generic"
    assert query(simulated).loaded == "570.172.07"


def test_missing_module_is_reported_for_a_kernel_without_headers(machine):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    (simulated.root / "proc/sys/kernel/osrelease").write_text("6.8.0-custom\n")
    simulated.headers = "linux-headers-6.8.0-custom"
    assert problem_of(load, simulated) == Problem(
        ProblemKind.NOT_LOADED, reason="Module nvidia not found in directory /lib/modules"
    )


def test_daemon_that_exits_is_a_problem_although_the_driver_is_loaded(machine):
    simulated = machine(recorded.without_driver("t4-pair"))
    install(simulated, attach(simulated))
    simulated.failing.add("nvidia-vgpu-mgr")
    assert problem_of(load, simulated) == Problem(
        ProblemKind.SERVICE_DOWN, service="nvidia-vgpu-mgr"
    )


def test_package_that_would_remove_libvirt_is_not_installed(machine):
    simulated = machine("t4-fresh")
    package = attach(simulated)
    simulated.fail("apt-get install --simulate", returncode=0, stdout="Remv libvirt0 [8.0.0]\n")
    problem = problem_of(install, simulated, package)
    assert problem == Problem(ProblemKind.INSTALL_FAILED, reason="it would remove libvirt0")
    assert query(simulated).installed is None
