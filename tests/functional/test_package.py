# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Installing the host software from good and bad resource files, with real apt and dpkg."""

from __future__ import annotations

import platform

import pytest
from bed import packages

ATTACH = "attach nvidia-vgpu-ubuntu-*.deb"
BROKEN = "#!/bin/sh\necho 'the module does not build' >&2\nexit 1\n"
READY = ("active", "Unit is ready: 2 NVIDIA GPUs, vgpu-device-mappings is not set")


def installed(host) -> dict[str, str]:
    """Return the state and version of NVIDIA's packages in dpkg, by name."""
    output = host.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\\n")
    rows = [line.split() for line in output.stdout.splitlines() if line.startswith("nvidia-")]
    return {name: f"{state} {version}" for name, state, version in rows}


@pytest.fixture
def fresh_host(boot):
    """A host with two T4 and no driver."""
    with boot("t4-fresh") as (host, unit):
        host.run("mkdir", "-p", "/etc/modprobe.d")
        (host.root / "etc/modprobe.d/site.conf").write_text("blacklist nouveau\n")
        host.reboot()
        unit.integrate()
        yield host, unit


@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        (
            "empty",
            "An empty file is attached, like Charmhub's own revision",
            (
                "No host software; run juju attach-resource nova-compute-nvidia-vgpu "
                "nvidia-vgpu-software=FILE.deb"
            ),
        ),
        (
            "html",
            "A web page is attached",
            (f"nvidia-vgpu-software: the file is not a Debian package; {ATTACH}"),
        ),
        (
            "truncated",
            "A truncated file is attached",
            f"nvidia-vgpu-software: the file is truncated or damaged; {ATTACH}",
        ),
    ],
)
def test_a_damaged_file_never_reaches_apt(
    fresh_host, nvidia_deb, tmp_path, fault, how, name, message
):
    host, unit = fresh_host
    row = fault(name)
    damaged = packages.damage(nvidia_deb, tmp_path / "x.deb", how)
    assert unit.attach(damaged).returncode == 0
    assert unit.status == ("blocked", message)
    assert installed(host) == {}
    unit.hook("update-status")
    assert unit.status == ("blocked", message)
    row.record(unit)

    unit.attach(nvidia_deb)
    assert unit.status == READY
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    row.record_end(unit, "a good file is attached")


def test_a_missing_resource_is_reported(fresh_host, fault):
    _, unit = fresh_host
    row = fault("No file is attached")
    unit.hook("config-changed")
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("No host software; run juju attach-resource")
    row.record(unit)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (
            "The package is for another architecture",
            {"arch": "riscv64"},
            "it is for riscv64, not amd64",
        ),
        (
            "The package is NVIDIA's guest driver",
            {"name": "nvidia-linux-grid-570"},
            "nvidia-linux-grid-570 is the guest driver",
        ),
        (
            "The package is not NVIDIA's host package",
            {"name": "hello"},
            "hello is not NVIDIA's vGPU host package",
        ),
    ],
    ids=["other architecture", "guest driver", "other package"],
)
def test_a_package_that_is_not_for_this_host_is_refused(
    fresh_host, tmp_path, fault, name, options, reason
):
    host, unit = fresh_host
    unit.attach(packages.build_nvidia(tmp_path, **options))
    architecture = packages.architecture()
    expected = f"nvidia-vgpu-software: {reason.replace('amd64', architecture)}; {ATTACH}"
    assert unit.status == ("blocked", expected)
    assert installed(host) == {}
    fault(name).record(unit)


def test_attaching_junk_keeps_the_driver_and_is_reported(ready_host, nvidia_deb, tmp_path, fault):
    host, unit = ready_host
    row = fault("Junk is attached after a good package was installed")
    unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
    before = unit.databag
    junk = tmp_path / "junk.deb"
    junk.write_bytes(b"\x00" * 4096)
    unit.attach(junk)
    for hook in ("update-status", "config-changed"):
        unit.hook(hook)
        assert unit.status[1] == (
            f"nvidia-vgpu-software: the file is not a Debian package; {ATTACH}"
        )
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.databag == before
    row.record(unit)
    unit.attach(nvidia_deb)
    row.record_end(unit, "a good file is attached")


def test_a_package_of_another_branch_replaces_the_old_one(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package of another branch, with the same files, is attached")
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    states = installed(host)
    assert states.pop("nvidia-vgpu-ubuntu-580") == "ii 580.159.01"
    assert all(state.startswith("rc") for state in states.values())
    assert unit.status == (
        "blocked",
        (
            "Reboot needed: driver 570.172.07 is loaded, not 580.159.01; run "
            "reboot-install i-really-mean-it=true"
        ),
    )
    row.record(unit)
    host.reboot()
    unit.hook("start")
    assert unit.status == READY
    assert unit.workload_version == "580.159.01"
    row.record_end(unit, "the host is rebooted")


def test_a_package_that_cannot_be_installed_does_not_remove_the_old_one(
    ready_host, tmp_path, fault
):
    host, unit = ready_host
    row = fault("A package depends on one that the archive lacks; the installed one is kept")
    package = packages.build_nvidia(tmp_path, branch="580", version="580.159.01")
    uninstallable = packages.build(
        tmp_path / "uninstallable.deb",
        "nvidia-vgpu-ubuntu-580",
        "580.159.01",
        fields={"Depends": "no-such-package"},
    )
    unit.attach(uninstallable)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status[1].startswith("Host software not installed: Depends: no-such-package")
    row.record(unit)
    unit.attach(package)
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"
    row.record_end(unit, "a package that can be installed is attached")


def test_a_package_that_would_remove_another_one_is_not_installed(ready_host, tmp_path, fault):
    """It could be libvirt or QEMU, under running guests."""
    host, unit = ready_host
    row = fault("A package conflicts with one of the host; both installed ones are kept")
    conflicting = packages.build(
        tmp_path / "conflicting.deb",
        "nvidia-vgpu-ubuntu-580",
        "580.159.01",
        fields={"Conflicts": "pciutils"},
    )
    unit.attach(conflicting)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "pciutils").stdout == (
        "installed"
    )
    row.record(unit)
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    row.record_end(unit, "a package without the conflict is attached")


@pytest.mark.parametrize(
    "state", ["reinstreq half-installed", "ok half-configured", "ok unpacked"]
)
def test_a_half_installed_package_is_repaired(ready_host, fault, state):
    host, unit = ready_host
    set_dpkg_state(host, "nvidia-vgpu-ubuntu-570", state)
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    fault(f"dpkg has the package in state `{state}`").record(unit)


def test_half_installed_package_and_headers_are_repaired(ready_host, fault):
    """apt-get cannot repair the headers until the package, which no archive has, is removed."""
    host, unit = ready_host
    headers = f"linux-headers-{platform.release()}"
    for name in ("nvidia-vgpu-ubuntu-570", headers):
        set_dpkg_state(host, name, "reinstreq half-installed")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", headers).stdout == "ii "
    assert unit.status == READY
    fault("Power failed while the package and the kernel headers were unpacked").record(unit)


def set_dpkg_state(host, name, state):
    """Put a package into a state in which an interrupted dpkg leaves it."""
    status = host.root / "var/lib/dpkg/status"
    before, after = status.read_text().split(f"Package: {name}\n")
    after = after.replace("install ok installed", f"install {state}", 1)
    status.write_text(f"{before}Package: {name}\n{after}")


def test_a_half_installed_package_of_the_archive_is_repaired(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    headers = f"linux-headers-{platform.release()}"
    host.run("apt-get", "-y", "install", headers)
    set_dpkg_state(host, headers, "reinstreq half-installed")
    unit.attach(nvidia_deb)
    assert unit.status == READY
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", headers).stdout == "ii "
    fault("Power failed while the kernel headers were unpacked").record(unit)


def test_an_attached_older_version_is_installed(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package of an older version is attached")
    unit.attach(packages.build_nvidia(tmp_path, version="570.86.16"))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.86.16"}
    row.record(unit)
    host.reboot()
    unit.hook("start")
    assert unit.workload_version == "570.86.16"
    row.record_end(unit, "the host is rebooted")


def test_the_host_software_is_not_upgraded_while_a_guest_uses_a_vgpu(ready_host, tmp_path):
    host, unit = ready_host
    guest = "6f6d5a5e-1111-4000-8000-000000000001"
    host.create_mdev("0000:84:00.0", "nvidia-233", guest)
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == (
        "active",
        (
            "Unit is ready: 2 NVIDIA GPUs, vgpu-device-mappings is not set; host "
            "software 580.159.01 waits until no vGPU is in use"
        ),
    )
    host.remove_mdev(guest)
    unit.hook("update-status")
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"


def test_a_failing_postinst_is_reported_and_repaired_by_a_good_file(
    fresh_host, nvidia_deb, tmp_path, fault
):
    host, unit = fresh_host
    row = fault("The package's postinst fails")
    unit.attach(packages.build_nvidia(tmp_path, postinst=BROKEN))
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("Host software not installed: its post-installation script")
    assert unit.status[1].endswith("; fix this, then run reboot-install (next try HH:MM UTC)")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "iF 570.172.07"}
    row.record(unit)

    unit.attach(nvidia_deb)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    row.record_end(unit, "a good file of the same version is attached")


def test_the_charm_waits_for_dpkgs_lock(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    lock = (
        "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); "
        "open('/run/locked', 'w'); time.sleep(20)"
    )
    host.run("systemd-run", "python3", "-c", lock)
    while host.run("test", "-e", "/run/locked", check=False).returncode != 0:
        pass
    unit.attach(nvidia_deb)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    fault("Another program locks dpkg for 20 s").record(unit)


@pytest.mark.parametrize("verb", ["remove", "purge"])
def test_a_package_removed_by_hand_is_installed_again(ready_host, fault, verb):
    host, unit = ready_host
    host.run("apt-get", "-y", verb, "nvidia-vgpu-ubuntu-570")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    fault(f"Somebody runs `apt-get {verb}` on the package").record(unit)


def test_the_charm_works_without_lspci(ready_host, fault):
    host, unit = ready_host
    host.run("rm", "/usr/bin/lspci")
    outcome = unit.hook("config-changed")
    assert outcome.returncode == 0
    assert unit.status == READY
    fault("lspci is missing").record(unit)


def test_the_same_version_again_is_not_installed_twice(ready_host, tmp_path, fault):
    """apt itself would treat it as up to date, and do nothing."""
    host, unit = ready_host
    before = host.text("var/log/dpkg.log")
    unit.attach(packages.build_nvidia(tmp_path, postinst=BROKEN))
    assert host.text("var/log/dpkg.log") == before
    assert unit.status == READY
    fault("A different file of the installed version is attached").record(unit)


def test_a_file_whose_name_does_not_end_in_deb_is_installed(fresh_host, nvidia_deb, fault):
    """apt would treat such a name as the name of a package."""
    host, unit = fresh_host
    unit.store(nvidia_deb, name="nvidia-vgpu-software")
    unit.hook("upgrade-charm")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    fault("The file's name does not end in .deb").record(unit)


def test_an_edited_configuration_file_is_kept(ready_host, tmp_path, fault):
    """dpkg would ask, but nobody can answer."""
    host, unit = ready_host
    conf = {"/etc/nvidia-vgpud.conf": "shipped\n"}
    unit.attach(packages.build_nvidia(tmp_path, version="570.195.03", conffiles=conf))
    (host.root / "etc/nvidia-vgpud.conf").write_text("edited\n")
    conf = {"/etc/nvidia-vgpud.conf": "shipped later\n"}
    unit.attach(packages.build_nvidia(tmp_path, version="570.211.01", conffiles=conf))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.211.01"}
    assert host.text("etc/nvidia-vgpud.conf") == "edited\n"
    row = fault("A new version changes a configuration file that somebody has edited")
    row.record(unit)
    host.reboot()
    unit.hook("start")
    row.record_end(unit, "the host is rebooted")


@pytest.mark.parametrize(
    ("script", "state"),
    [("preinst", "iHR 570.172.07"), ("postinst", "iF 570.172.07")],
    ids=["unpack", "postinst"],
)
def test_an_installation_interrupted_by_a_power_failure_is_repaired(
    fresh_host, nvidia_deb, tmp_path, fault, script, state
):
    host, unit = fresh_host
    maintainer_script = (
        "#!/bin/sh\n[ -e /bed/cut ] || exit 0\nrm /bed/cut\n/bed/ask power-cut\nsleep 60\n"
    )
    (host.bed / "cut").touch()
    unit.attach(packages.build_nvidia(tmp_path, **{script: maintainer_script}))
    assert not (host.bed / "cut").exists()
    host.power_on()
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": state}
    unit.hook("upgrade-charm")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    fault(f"Power fails while the package's {script} runs, and is restored").record(unit)


def test_a_failed_upgrade_is_undone(ready_host, nvidia_deb, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package of another branch fails to configure; the old one is put back")
    unit.attach(nvidia_deb)  # of the installed version: its file is kept from now on
    broken = packages.build_nvidia(tmp_path, branch="580", version="580.159.01", postinst=BROKEN)
    unit.attach(broken)
    assert installed(host)["nvidia-vgpu-ubuntu-570"] == "ii 570.172.07"
    assert "ii" not in installed(host).get("nvidia-vgpu-ubuntu-580", "")
    assert unit.status[1].startswith("Driver 580.159.01 failed, using 570.172.07: ")
    assert host.run("systemctl", "is-active", "nvidia-vgpu-mgr").stdout == "active\n"
    row.record(unit)
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"
    row.record_end(unit, "a package that can be configured is attached")


def test_a_file_of_another_package_is_named(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    row = fault("Another package has one of the files, such as Ubuntu's nvidia-utils-570-server")
    files = {"/usr/bin/nvidia-smi": "x"}
    packages.build(host.bed / "utils.deb", "nvidia-utils-570-server", "1", files=files)
    host.run("dpkg", "-i", "/bed/utils.deb")
    unit.attach(nvidia_deb)
    assert unit.status[1].startswith("Host software not installed: nvidia-utils-570-server has ")
    row.record(unit)
    host.run("apt-get", "-y", "remove", "nvidia-utils-570-server")
    unit.hook_after_delay("update-status")
    assert installed(host)["nvidia-vgpu-ubuntu-570"] == "ii 570.172.07"
    row.record_end(unit, "that package is removed")


def test_a_package_on_hold_is_left_and_works(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("The installed package is on hold, and another version is attached")
    host.run("apt-mark", "hold", "nvidia-vgpu-ubuntu-570")
    unit.hook("update-status")
    assert unit.status == READY
    unit.attach(packages.build_nvidia(tmp_path, version="570.211.01"))
    assert installed(host)["nvidia-vgpu-ubuntu-570"] == "hi 570.172.07"
    row.record(unit)
    host.run("apt-mark", "unhold", "nvidia-vgpu-ubuntu-570")
    unit.hook_after_delay("update-status")
    assert installed(host)["nvidia-vgpu-ubuntu-570"] == "ii 570.211.01"
    row.record_end(unit, "the hold is removed")


def test_the_host_driver_is_not_installed_in_a_container(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    host.run("sh", "-c", "echo lxc >/run/systemd/container")
    unit.attach(nvidia_deb)
    assert installed(host) == {}
    fault("The unit is in a container").record(unit)


def test_a_full_disk_is_reported_until_there_is_space_again(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    unit.store(nvidia_deb)
    host.fill_disk()
    unit.hook("upgrade-charm")
    assert unit.status[0] == "blocked"
    row = fault("The disk is full")
    row.record(unit)
    host.free_disk()
    unit.hook_after_delay("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    row.record_end(unit, "the disk has space again")


def test_a_kernel_for_which_the_module_does_not_build_is_reported(ready_host, fault):
    host, unit = ready_host
    text = "modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.8.0-79-generic\n"
    (host.bed / "refuse-module").write_text(text)
    host.reboot()
    unit.hook("start")
    assert unit.status[0] == "blocked"
    row = fault("The module does not build for a new kernel")
    row.record(unit)
    (host.bed / "refuse-module").unlink()
    unit.hook_after_delay("update-status")
    assert unit.status == READY
    row.record_end(unit, "the module builds")
