# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to the host software, with real apt and dpkg, whatever the resource holds."""

from __future__ import annotations

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
    ("how", "message"),
    [
        (
            "empty",
            "No host software: juju attach-resource nova-compute-nvidia-vgpu "
            "nvidia-vgpu-software=FILE.deb",
        ),
        ("html", f"nvidia-vgpu-software: the file is no Debian package; {ATTACH}"),
        ("truncated", f"nvidia-vgpu-software: the file is truncated or damaged; {ATTACH}"),
    ],
)
def test_a_damaged_file_never_reaches_apt(fresh_host, nvidia_deb, tmp_path, how, message):
    host, unit = fresh_host
    damaged = packages.damage(nvidia_deb, tmp_path / "x.deb", how)
    assert unit.attach(damaged).returncode == 0
    assert unit.status == ("blocked", message)
    assert installed(host) == {}
    unit.hook("update-status")
    assert unit.status == ("blocked", message)

    unit.attach(nvidia_deb)
    assert unit.status == READY
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}


def test_a_resource_that_is_not_attached_is_asked_for(fresh_host):
    _, unit = fresh_host
    unit.hook("config-changed")
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("No host software: juju attach-resource")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"arch": "riscv64"}, "it is for riscv64, not amd64"),
        ({"name": "nvidia-linux-grid-570"}, "nvidia-linux-grid-570 is the guest driver"),
        ({"name": "hello"}, "hello is not NVIDIA's vGPU host package"),
    ],
    ids=["another-architecture", "guest-driver", "another-package"],
)
def test_a_package_that_is_not_meant_for_this_host_is_refused(
    fresh_host, tmp_path, options, reason
):
    host, unit = fresh_host
    unit.attach(packages.build_nvidia(tmp_path, **options))
    ours = packages.architecture()
    expected = f"nvidia-vgpu-software: {reason.replace('amd64', ours)}; {ATTACH}"
    assert unit.status == ("blocked", expected)
    assert installed(host) == {}


def test_junk_in_place_of_a_good_package_leaves_the_driver_and_says_so(ready_host, tmp_path):
    host, unit = ready_host
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


def test_another_branch_takes_the_place_of_the_old_one(ready_host, tmp_path):
    host, unit = ready_host
    unit.attach(packages.build_nvidia(tmp_path, branch="580", version="580.159.01"))
    found = installed(host)
    assert found.pop("nvidia-vgpu-ubuntu-580") == "ii 580.159.01"
    assert all(state.startswith("rc") for state in found.values())
    assert unit.status == (
        "blocked",
        "Reboot needed: driver 570.172.07 is loaded, 580.159.01 installed; "
        "run reboot-install i-really-mean-it=true",
    )
    host.reboot()
    unit.hook("start")
    assert unit.status == READY
    assert unit.version == "580.159.01"


def test_a_branch_that_cannot_be_installed_does_not_cost_the_old_one(ready_host, tmp_path):
    host, unit = ready_host
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
    unit.attach(package)
    assert installed(host)["nvidia-vgpu-ubuntu-580"] == "ii 580.159.01"


@pytest.mark.parametrize(
    "state", ["reinstreq half-installed", "ok half-configured", "ok unpacked"]
)
def test_a_loss_of_power_while_installing_is_mended(ready_host, state):
    host, unit = ready_host
    status = host.root / "var/lib/dpkg/status"
    before, after = status.read_text().split("Package: nvidia-vgpu-ubuntu-570\n")
    torn = after.replace("install ok installed", f"install {state}", 1)
    status.write_text(f"{before}Package: nvidia-vgpu-ubuntu-570\n{torn}")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY


def test_an_older_version_is_installed_when_it_is_attached(ready_host, tmp_path):
    host, unit = ready_host
    unit.attach(packages.build_nvidia(tmp_path, version="570.86.16"))
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.86.16"}


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
    fresh_host, nvidia_deb, tmp_path
):
    host, unit = fresh_host
    unit.attach(packages.build_nvidia(tmp_path, postinst=BROKEN))
    assert unit.status[0] == "blocked"
    assert unit.status[1].startswith("Host software not installed: dpkg: error processing package")
    assert unit.status[1].endswith("; mend, then run reboot-install")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "iF 570.172.07"}

    unit.attach(nvidia_deb)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}
    assert unit.status == READY


def test_a_held_lock_is_waited_for(fresh_host, nvidia_deb):
    host, unit = fresh_host
    lock = (
        "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); "
        "open('/run/locked', 'w'); time.sleep(4)"
    )
    host.run("systemd-run", "python3", "-c", lock)
    while host.run("test", "-e", "/run/locked", check=False).returncode != 0:
        pass
    unit.attach(nvidia_deb)
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}


def test_a_package_removed_by_hand_comes_back(ready_host):
    host, unit = ready_host
    host.run("apt-get", "-y", "remove", "nvidia-vgpu-ubuntu-570")
    unit.hook("update-status")
    assert installed(host) == {"nvidia-vgpu-ubuntu-570": "ii 570.172.07"}


def test_missing_lspci_is_installed_or_done_without(ready_host):
    host, unit = ready_host
    host.run("rm", "/usr/bin/lspci")
    outcome = unit.hook("config-changed")
    assert outcome.returncode == 0
    assert unit.status == READY
