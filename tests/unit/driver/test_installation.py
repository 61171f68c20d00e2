# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

import recorded
from driver import host_package, installation
from gpu.pci import PciAddress
from gpu.problems import HostError, Problem, ProblemKind
from host import driver_state, gpus
from host.driver_state import DriverState
from system import apt, systemd

KERNEL = "5.15.0-173-generic"
HEADERS = f"linux-headers-{KERNEL}"
EXTRA = f"linux-modules-extra-{KERNEL}"
CONF = "etc/modprobe.d/nova-compute-nvidia-vgpu.conf"
UUID = recorded.UUIDS[0]
OLD, NEW = "nvidia-vgpu-ubuntu-535", "nvidia-vgpu-ubuntu-570"


def query(simulated):
    return driver_state.query(simulated.root, gpus.scan(simulated.root).gpus)


def attach(simulated, **options):
    deb = simulated.make_deb(simulated.root.parent / "a.deb", **options)
    return host_package.inspect(deb, simulated)


def install(simulated, wanted, in_use=()):
    return installation.ensure_installed(
        simulated.root, simulated, query(simulated), wanted, lambda: in_use
    )


def load(simulated):
    return installation.ensure_loaded(simulated.root, simulated, query(simulated))


def problem_of(step, *arguments):
    with pytest.raises(HostError) as error:
        step(*arguments)
    return error.value.problem


# What there is


def test_installed_and_loaded_driver_is_found(host):
    root = host("t4-pair")
    state = driver_state.query(root, gpus.scan(root).gpus)
    installed = apt.Package("nvidia-vgpu-ubuntu-535", "535.161.05", "installed")
    assert state == DriverState((installed,), "535.161.05", (), KERNEL)
    assert state.installed == installed
    assert state.reboot_reason() is None


def test_fresh_host_has_no_driver_and_its_cards_use_nouveau(host):
    root = host("t4-fresh")
    state = driver_state.query(root, gpus.scan(root).gpus)
    cards = (PciAddress(0, 0x84, 0, 0), PciAddress(0, 0xD8, 0, 0))
    assert state == DriverState((), None, cards, KERNEL)
    assert state.installed is None
    assert state.reboot_reason() is None


def test_kernel_defaults_to_the_running_one(tmp_path):
    assert driver_state.query(tmp_path, ()).kernel == os.uname().release


@pytest.mark.parametrize(
    ("packages", "is_installed"),
    [
        ([(OLD, "535.161.05", "installed")], True),
        ([(OLD, "535.161.05", "half-configured")], False),
        ([(OLD, "535.161.05", "config-files")], False),
        ([(OLD, "535.161.05", "config-files"), (NEW, "570.172.07", "installed")], True),
        ([(OLD, "535.161.05", "installed"), (NEW, "570.172.07", "installed")], False),
        ([("nvidia-vgpu-ubuntu-535-dbg", "535.161.05", "installed")], False),
    ],
    ids=["whole", "half", "removed", "one of two", "two branches", "other name"],
)
def test_driver_is_installed_if_exactly_one_package_is_complete(
    host, packages, is_installed
):
    root = host("no-gpu")
    recorded.write_dpkg_status(root, packages)
    assert (driver_state.query(root, ()).installed is not None) is is_installed


@pytest.mark.parametrize(
    ("installed", "loaded", "reason"),
    [
        ("570.172.07", "570.172.07", None),
        ("570.172.07", None, None),
        ("1:570.172.07-0ubuntu1", "570.172.07", None),
        ("570.172.07~22.04", "570.172.07", None),
        (
            "570.172.07",
            "535.161.05",
            Problem(ProblemKind.OTHER_VERSION_LOADED, loaded="535.161.05", installed="570.172.07"),
        ),
    ],
    ids=["same", "not loaded", "repackaged", "backported", "other"],
)
def test_other_loaded_version_needs_a_reboot(installed, loaded, reason):
    state = DriverState((apt.Package(NEW, installed, "installed"),), loaded)
    assert state.reboot_reason() == reason


def test_card_bound_to_nouveau_needs_a_reboot_after_installation(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated))
    assert query(simulated).reboot_reason() == Problem(
        ProblemKind.NOUVEAU, PciAddress.parse("0000:84:00.0")
    )


# Installing


def test_headers_and_extra_modules_are_installed_first(machine):
    simulated = machine("t4-fresh")
    wanted = attach(simulated)
    assert install(simulated, wanted) is True
    first, second = simulated.did("apt-get install")
    assert first[-3:] == (HEADERS, EXTRA, "dkms")
    assert second[-1] == wanted.path
    assert query(simulated).has(wanted.name, wanted.version)
    assert systemd.has_unit(simulated.root, driver_state.DAEMON)


def test_prebuilt_driver_needs_no_headers(machine):
    simulated = machine("t4-fresh")
    install(simulated, attach(simulated, dkms=False))
    assert len(simulated.did("apt-get install")) == 1


def test_installed_package_is_left_unchanged(machine):
    simulated = machine("t4-pair")
    wanted = attach(simulated, name=OLD, version="535.161.05")
    simulated.commands.clear()
    assert install(simulated, wanted) is False
    assert simulated.commands == []


def test_resource_with_any_name_is_installed(machine):
    simulated = machine("t4-fresh")
    deb = simulated.make_deb(simulated.root.parent / "nvidia-vgpu-software")
    install(simulated, host_package.inspect(deb, simulated))
    assert query(simulated).installed.version == "570.172.07"
    assert not os.path.exists(simulated.commands[-1][-1])  # the link with the right name


def test_other_branch_is_removed_first(machine):
    simulated = machine("t4-pair")
    wanted = attach(simulated)
    assert install(simulated, wanted) is True
    assert simulated.did("apt-get remove")[0][-1] == OLD
    assert query(simulated).has(wanted.name, wanted.version)


@pytest.mark.parametrize("version", ["535.200.01", "535.104.06"], ids=["newer", "older"])
def test_other_version_of_the_same_branch_is_replaced_in_one_step(machine, version):
    simulated = machine("t4-pair")
    wanted = attach(simulated, name=OLD, version=version)
    assert install(simulated, wanted) is True
    assert simulated.did("apt-get remove") == []
    assert query(simulated).has(wanted.name, wanted.version)


def test_upgrade_waits_until_no_vgpu_is_in_use(machine):
    simulated = machine("t4-pair")
    wanted = attach(simulated)
    simulated.commands.clear()
    found = problem_of(install, simulated, wanted, (UUID,))
    assert found == Problem(ProblemKind.UPGRADE_PENDING, version="570.172.07")
    assert simulated.commands == []


def test_truncated_package_is_rejected_before_the_old_one_is_removed(machine):
    simulated = machine("t4-pair")
    found = problem_of(install, simulated, attach(simulated, truncated=True))
    assert found == Problem(
        ProblemKind.RESOURCE_INVALID, reason="the file is truncated or damaged"
    )
    assert simulated.did("apt-get") == []
    assert query(simulated).installed.name == OLD


def test_broken_package_is_replaced_by_a_corrected_one_of_the_same_version(machine):
    simulated = machine("t4-fresh")
    found = problem_of(install, simulated, attach(simulated, postinst_fails=True))
    assert found == Problem(
        ProblemKind.INSTALL_FAILED, reason=f"dpkg: error processing package {NEW} (--configure):"
    )
    assert query(simulated).installed is None
    wanted = attach(simulated)
    assert install(simulated, wanted) is True
    assert query(simulated).has(wanted.name, wanted.version)


def test_broken_package_is_replaced_by_another_branch(machine):
    simulated = machine("t4-fresh")
    problem_of(install, simulated, attach(simulated, postinst_fails=True))
    wanted = attach(simulated, name=OLD, version="535.161.05")
    assert install(simulated, wanted) is True
    assert query(simulated).has(wanted.name, wanted.version)


def test_interrupted_dpkg_is_repaired_first(machine):
    simulated = machine("t4-fresh")
    updates = simulated.root / "var/lib/dpkg/updates"
    updates.mkdir()
    (updates / "0001").touch()
    wanted = attach(simulated)
    assert install(simulated, wanted) is True
    assert query(simulated).has(wanted.name, wanted.version)


def test_unpacked_package_is_configured_without_a_resource(machine):
    driver_of = {"package": OLD, "version": "535.161.05", "loaded": None, "state": "unpacked"}
    simulated = machine("t4-pair", driver=driver_of)
    assert install(simulated, None) is True
    assert query(simulated).installed.name == OLD
    assert install(simulated, None) is False


def test_unpacked_package_is_not_configured_under_guests(machine):
    driver_of = {"package": OLD, "version": "535.161.05", "loaded": None, "state": "unpacked"}
    simulated = machine("t4-pair", driver=driver_of)
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
    ids=["Secure Boot", "not built", "silent"],
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


# nouveau


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
    """After the boot nouveau may be away, and its initramfs still know it."""
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
    found = problem_of(load, simulated)
    assert found == Problem(ProblemKind.INSTALL_FAILED, reason="update-initramfs failed")
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
