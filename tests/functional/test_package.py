# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to the host software, with real apt and dpkg, whatever the resource holds."""

from __future__ import annotations

import platform

import pytest
from bed import packages

ATTACH = "attach NVIDIA's vGPU host package"
BROKEN = "#!/bin/sh\necho 'the module does not build' >&2\nexit 1\n"
READY = ("active", "Unit is ready: 2 NVIDIA GPUs, none set in vgpu-device-mappings")


def installed(host) -> dict[str, str]:
    """Return NVIDIA's packages as dpkg knows them, by name: state and version."""
    output = host.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\\n")
    rows = [line.split() for line in output.stdout.splitlines() if line.startswith("nvidia-")]
    return {name: f"{state} {version}" for name, state, version in rows}


@pytest.fixture
def fresh_host(boot):
    """A host with two T4 and without any driver."""
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
            "An empty file is attached, as Charmhub's own revision is",
            "No host software: juju attach-resource nova-compute-nvidia-vgpu "
            "nvidia-vgpu-software=FILE.deb",
        ),
        (
            "html",
            "A web page is attached",
            f"nvidia-vgpu-software: the file is no Debian package; {ATTACH}",
        ),
        (
            "truncated",
            "The file is truncated",
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
    row.seen(unit)

    unit.attach(nvidia_deb)
    assert unit.status == READY
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    row.over(unit, "a good file is attached")


def test_a_resource_that_is_not_attached_is_asked_for(fresh_host, fault):
    _, unit = fresh_host
    row = fault("No file is attached")
    unit.hook("config-changed")
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("No host software: juju attach-resource")
    row.seen(unit)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (
            "The package is for another architecture",
            {"arch": "riscv64"},
            "it is for riscv64, not amd64",
        ),
        (
            "The package is NVIDIA's driver for guests",
            {"name": "nvidia-linux-grid-570"},
            "nvidia-linux-grid-570 is the guest driver",
        ),
        ("It is another package", {"name": "hello"}, "hello is not NVIDIA's vGPU host package"),
    ],
    ids=["another-architecture", "guest-driver", "another-package"],
)
def test_a_package_that_is_not_meant_for_this_host_is_refused(
    fresh_host, tmp_path, fault, name, options, reason
):
    host, unit = fresh_host
    unit.attach(packages.build_nvidia(tmp_path, **options))
    ours = packages.architecture()
    expected = f"nvidia-vgpu-software: {reason.replace('amd64', ours)}; {ATTACH}"
    assert unit.status == ("blocked", expected)
    assert installed(host) == {}
    fault(name).seen(unit)


def test_junk_in_place_of_a_good_package_leaves_the_driver_and_says_so(
    ready_host, nvidia_deb, tmp_path, fault
):
    host, unit = ready_host
    row = fault("Junk takes the place of a good package that is installed")
    unit.configure(vgpu_device_mappings="{T4-8Q: ['10de:1eb8']}")
    before = unit.databag
    junk = tmp_path / "junk.deb"
    junk.write_bytes(b"\x00" * 4096)
    unit.attach(junk)
    for hook in ("update-status", "config-changed"):
        unit.hook(hook)
        assert unit.status[1] == f"nvidia-vgpu-software: the file is no Debian package; {ATTACH}"
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.databag == before
    row.seen(unit)
    unit.attach(nvidia_deb)
    row.over(unit, "a good file is attached")


def test_another_branch_takes_the_place_of_the_old_one(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package of another branch, with the same files, is attached")
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    found = installed(host)
    assert found.pop("nvidia-vgpu-ubuntu-580") == "ii 580.159.01"
    assert all(state.startswith("rc") for state in found.values())
    assert unit.status == (
        "blocked",
        "Reboot needed: driver 570.172.07 is loaded, 580.159.01 installed; "
        "run reboot-install i-really-mean-it=true",
    )
    row.seen(unit)
    host.reboot()
    unit.hook("start")
    assert unit.status == READY
    assert unit.workload_version == "580.159.01"
    row.over(unit, "the host is rebooted")


def test_a_branch_that_cannot_be_installed_does_not_cost_the_old_one(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package depends on what the archive has not; the installed one stays")
    package = packages.build_nvidia(tmp_path, branch="580", version="580.159.01")
    needy = packages.build(
        tmp_path / "needy.deb",
        "nvidia-vgpu-ubuntu-580",
        "580.159.01",
        fields={"Depends": "no-such-package"},
    )
    unit.attach(needy)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status[1].startswith("Host software not installed: E: ")
    row.seen(unit)
    unit.attach(package)
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"
    row.over(unit, "a package that can be installed is attached")


@pytest.mark.parametrize(
    "state", ["reinstreq half-installed", "ok half-configured", "ok unpacked"]
)
def test_a_package_that_is_half_there_is_mended(ready_host, fault, state):
    host, unit = ready_host
    leave(host, "nvidia-vgpu-ubuntu-570", state)
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    fault(f"dpkg was left with the package `{state}`").seen(unit)


def test_package_and_headers_that_are_half_there_are_mended(ready_host, fault):
    """apt-get does nothing for the one before the other, which it has no archive of, is gone."""
    host, unit = ready_host
    headers = f"linux-headers-{platform.release()}"
    for name in ("nvidia-vgpu-ubuntu-570", headers):
        leave(host, name, "reinstreq half-installed")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", headers).stdout == "ii "
    assert unit.status == READY
    fault("Power was lost while the package and the kernel's headers were unpacked").seen(unit)


def leave(host, name, state):
    """Let dpkg have left a package in the midst of its work."""
    status = host.root / "var/lib/dpkg/status"
    before, after = status.read_text().split(f"Package: {name}\n")
    torn = after.replace("install ok installed", f"install {state}", 1)
    status.write_text(f"{before}Package: {name}\n{torn}")


def test_a_package_of_the_archive_that_is_half_there_is_mended(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    headers = f"linux-headers-{platform.release()}"
    host.run("apt-get", "-y", "install", headers)
    leave(host, headers, "reinstreq half-installed")
    unit.attach(nvidia_deb)
    assert unit.status == READY
    assert host.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", headers).stdout == "ii "
    fault("Power was lost while the kernel's headers were unpacked").seen(unit)


def test_an_older_version_is_installed_when_it_is_attached(ready_host, tmp_path, fault):
    host, unit = ready_host
    row = fault("A package of an older version is attached")
    unit.attach(packages.build_nvidia(tmp_path, version="570.86.16"))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.86.16"}
    row.seen(unit)
    host.reboot()
    unit.hook("start")
    assert unit.workload_version == "570.86.16"
    row.over(unit, "the host is rebooted")


def test_nothing_is_upgraded_while_a_guest_uses_a_vgpu(ready_host, tmp_path):
    host, unit = ready_host
    guest = "6f6d5a5e-1111-4000-8000-000000000001"
    host.create_mdev("0000:84:00.0", "nvidia-233", guest)
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == (
        "active",
        "Unit is ready: 2 NVIDIA GPUs, none set in vgpu-device-mappings; "
        "host software 580.159.01 waits for the guests",
    )
    host.remove_mdev(guest)
    unit.hook("update-status")
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"


def test_a_failing_postinst_is_told_and_a_good_file_of_that_version_mends_it(
    fresh_host, nvidia_deb, tmp_path, fault
):
    host, unit = fresh_host
    row = fault("The package's postinst fails")
    unit.attach(packages.build_nvidia(tmp_path, postinst=BROKEN))
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("Host software not installed: dpkg: error processing package")
    assert unit.status[1].endswith("; mend, then run reboot-install")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "iF 570.172.07"}
    row.seen(unit)

    unit.attach(nvidia_deb)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    row.over(unit, "a good file of the same version is attached")


def test_a_held_lock_is_waited_for(fresh_host, nvidia_deb, fault):
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
    fault("Another program holds dpkg's lock for 20 s").seen(unit)


@pytest.mark.parametrize("verb", ["remove", "purge"])
def test_a_package_removed_by_hand_comes_back(ready_host, fault, verb):
    host, unit = ready_host
    host.run("apt-get", "-y", verb, "nvidia-vgpu-ubuntu-570")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    fault(f"Somebody runs `apt-get {verb}` on the package").seen(unit)


def test_missing_lspci_is_installed_or_done_without(ready_host, fault):
    host, unit = ready_host
    host.run("rm", "/usr/bin/lspci")
    outcome = unit.hook("config-changed")
    assert outcome.returncode == 0
    assert unit.status == READY
    fault("lspci is gone").seen(unit)


def test_the_same_version_again_is_not_installed_twice(ready_host, tmp_path, fault):
    """apt would call it the newest version, and do nothing."""
    host, unit = ready_host
    before = host.text("var/log/dpkg.log")
    unit.attach(packages.build_nvidia(tmp_path, postinst=BROKEN))
    assert host.text("var/log/dpkg.log") == before
    assert unit.status == READY
    fault("Other bytes of the version that is installed are attached").seen(unit)


def test_a_file_whose_name_does_not_end_in_deb_is_installed(fresh_host, nvidia_deb, fault):
    """apt takes such a name for a package's."""
    host, unit = fresh_host
    unit.store(nvidia_deb, name="nvidia-vgpu-software")
    unit.hook("upgrade-charm")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    fault("The file's name does not end in .deb").seen(unit)


def test_a_configuration_file_that_somebody_edited_is_kept(ready_host, tmp_path, fault):
    """dpkg would ask, and there is nobody to answer."""
    host, unit = ready_host
    conf = {"/etc/nvidia-vgpud.conf": "shipped\n"}
    unit.attach(packages.build_nvidia(tmp_path, version="570.195.03", conffiles=conf))
    (host.root / "etc/nvidia-vgpud.conf").write_text("edited\n")
    conf = {"/etc/nvidia-vgpud.conf": "shipped later\n"}
    unit.attach(packages.build_nvidia(tmp_path, version="570.211.01", conffiles=conf))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.211.01"}
    assert host.text("etc/nvidia-vgpud.conf") == "edited\n"
    row = fault("A new version brings a configuration file that somebody has edited")
    row.seen(unit)
    host.reboot()
    unit.hook("start")
    row.over(unit, "the host is rebooted")


@pytest.mark.parametrize(
    ("script", "left"),
    [("preinst", "iHR 570.172.07"), ("postinst", "iF 570.172.07")],
    ids=["unpack", "postinst"],
)
def test_a_loss_of_power_while_installing_is_mended(
    fresh_host, nvidia_deb, tmp_path, fault, script, left
):
    host, unit = fresh_host
    waits = "#!/bin/sh\n[ -e /bed/cut ] || exit 0\nrm /bed/cut\n/bed/ask power-cut\nsleep 60\n"
    (host.bed / "cut").touch()
    unit.attach(packages.build_nvidia(tmp_path, **{script: waits}))
    assert not (host.bed / "cut").exists()
    host.power_on()
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": left}
    unit.hook("upgrade-charm")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    fault(f"Power is lost in the package's {script}, and there again").seen(unit)


def test_a_full_disk_is_told_and_got_over(fresh_host, nvidia_deb, fault):
    host, unit = fresh_host
    unit.store(nvidia_deb)
    host.fill_disk()
    unit.hook("upgrade-charm")
    assert unit.status[0] == "blocked"
    row = fault("The disk is full")
    row.seen(unit)
    host.free_disk()
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY
    row.over(unit, "there is room again")


def test_a_new_kernel_for_which_the_module_does_not_build_is_told(ready_host, fault):
    host, unit = ready_host
    text = "modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.8.0-79-generic\n"
    (host.bed / "refuse-module").write_text(text)
    host.reboot()
    unit.hook("start")
    assert unit.status[0] == "blocked"
    row = fault("The module does not build for a new kernel")
    row.seen(unit)
    (host.bed / "refuse-module").unlink()
    unit.hook("update-status")
    assert unit.status == READY
    row.over(unit, "it does")
