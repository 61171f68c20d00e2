# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Packages that apt and dpkg install, and the reasons of their failures."""

from __future__ import annotations

import pytest

import recorded
from gpu.problems import HostError, Problem, ProblemKind
from system import apt, dpkg

HEADERS = "linux-headers-5.15.0-173-generic"
APT_GET = (
    "apt-get", "-y", "-q",
    "-o", "Dpkg::Options::=--force-confdef",
    "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip


def find(root, pattern):
    return [(package.name, package.version, package.state) for package in dpkg.find(root, pattern)]


def test_install_keeps_edited_files_and_allows_downgrades(machine):
    simulated = machine("t4-pair")
    apt.install(simulated, "dkms")
    arguments = ("install", "--no-install-recommends", "--allow-downgrades", "--no-remove", "dkms")
    assert simulated.commands == [(*APT_GET, *arguments)]
    assert simulated.packages()["dkms"][1] == "installed"


def test_remove_keeps_the_configuration(machine):
    simulated = machine("t4-pair")
    apt.remove(simulated, dpkg.Package("nvidia-vgpu-ubuntu-535", "1", "installed"))
    assert simulated.commands == [(*APT_GET, "remove", "nvidia-vgpu-ubuntu-535")]
    assert simulated.packages()["nvidia-vgpu-ubuntu-535"][1] == "config-files"


def test_configure_completes_unpacked_packages(machine):
    simulated = machine("t4-pair")
    recorded.write_dpkg_status(simulated.root, [("nvidia-vgpu-ubuntu-535", "535", "unpacked")])
    apt.configure(simulated)
    assert simulated.packages()["nvidia-vgpu-ubuntu-535"] == ("535", "installed")
    assert simulated.commands == [
        ("dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
    ]


def test_interrupted_dpkg_is_detected_and_completed(machine):
    simulated = machine("t4-pair")
    updates = simulated.root / "var/lib/dpkg/updates"
    assert not dpkg.is_interrupted(simulated.root)
    updates.mkdir()
    assert not dpkg.is_interrupted(simulated.root)
    (updates / "0001").touch()
    assert dpkg.is_interrupted(simulated.root)
    with pytest.raises(HostError) as error:
        apt.install(simulated, "dkms")
    assert error.value.problem.kind is ProblemKind.INSTALL_FAILED
    apt.configure(simulated)
    apt.install(simulated, "dkms")


def test_half_unpacked_package_of_the_archive_is_reinstalled(machine):
    simulated = machine("t4-pair")
    apt.install(simulated, "dkms", HEADERS)
    status = simulated.root / "var/lib/dpkg/status"
    head, rest = status.read_text().split("Package: dkms\n")
    half_installed = rest.replace("install ok installed", "install reinstreq half-installed", 1)
    status.write_text(f"{head}Package: dkms\n{half_installed}")
    apt.install(simulated, "dkms")
    assert find(simulated.root, "dkms") == [("dkms", "1.0", "half-installed")]
    for _ in range(2):
        apt.reinstall_half_unpacked(simulated.root, simulated, except_for="linux-.*")
    assert find(simulated.root, "dkms") == [("dkms", "1.0", "installed")]
    arguments = ("--no-install-recommends", "--allow-downgrades", "--no-remove", "--reinstall")
    assert simulated.commands[2:] == [(*APT_GET, "install", *arguments, "dkms")]


def test_half_unpacked_package_outside_the_archive_is_left_unchanged(machine):
    simulated = machine("t4-pair")
    status = simulated.root / "var/lib/dpkg/status"
    status.write_text(
        "Package: nvidia-vgpu-ubuntu-570\nStatus: install reinstreq half-installed\n"
    )
    apt.reinstall_half_unpacked(simulated.root, simulated, except_for="nvidia-vgpu-ubuntu-[0-9]+")
    assert simulated.commands == []


# The reason of a failure, in one line


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ("", "E: Invalid archive member header\n", "E: Invalid archive member header"),
        (
            "Reading package lists...\n",
            "W: a warning\nE: Unable to correct problems, you have held broken packages.\n",
            "E: Unable to correct problems, you have held broken packages.",
        ),
        (
            "Setting up nvidia-vgpu-ubuntu-570 ...\n"
            "dpkg: error processing package nvidia-vgpu-ubuntu-570 (--configure):\n"
            " installed nvidia-vgpu-ubuntu-570 package post-installation script subprocess "
            "returned error exit status 1\n",
            "E: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "its post-installation script failed",
        ),
        (
            "Building module:\nError! Bad return status for module build on kernel: 6.8.0-79\n"
            "dpkg: error processing package nvidia-vgpu-ubuntu-570 (--configure):\n"
            " installed nvidia-vgpu-ubuntu-570 package post-installation script ...\n",
            "E: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "Bad return status for module build on kernel: 6.8.0-79",
        ),
        (
            "dpkg: error processing archive /tmp/a.deb (--unpack):\n"
            " trying to overwrite '/usr/bin/nvidia-smi', which is also in package "
            "nvidia-utils-570-server 570.133\n",
            "E: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "nvidia-utils-570-server has /usr/bin/nvidia-smi, too",
        ),
        (
            "The following packages have unmet dependencies:\n"
            " nvidia-vgpu-ubuntu-580 : Depends: libx but it is not installable\n",
            "E: Unable to correct problems, you have held broken packages.\n",
            "Depends: libx but it is not installable",
        ),
        (
            "",
            "E: Held packages were changed and -y was used without --allow-...\n",
            "it is on hold, see apt-mark",
        ),
        (
            "",
            "dpkg-deb: error: unexpected end of file\n",
            "dpkg-deb: error: unexpected end of file",
        ),
        (
            "dpkg: error processing archive /tmp/a.deb (--unpack):\n"
            " cannot copy extracted data for './usr/bin/a': failed to write "
            "(No space left on device)\n",
            "E: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "No space left on device",
        ),
        ("something else\n", "", "something else"),
    ],
    ids=[
        *("E:", "E: after W:", "dpkg on stdout", "dkms", "two branches", "dependency", "hold"),
        *("dpkg-deb", "full disk", "last line"),
    ],
)
def test_reason_is_the_line_that_names_the_cause(machine, stdout, stderr, reason):
    simulated = machine("t4-pair")
    simulated.fail("apt-get install", stdout=stdout, output=stderr, returncode=100)
    with pytest.raises(HostError) as error:
        apt.install(simulated, "dkms")
    assert error.value.problem == Problem(ProblemKind.INSTALL_FAILED, reason=reason)


@pytest.mark.parametrize(
    "output",
    [
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4242 (apt)\n",
        "E: Unable to lock directory /var/lib/apt/lists/\n",
        "dpkg: error: dpkg frontend lock was locked by another process with pid 4242\n",
        "dpkg: error: dpkg status database is locked by another process\n",
    ],
    ids=["apt", "lists", "dpkg", "dpkg on bionic"],
)
@pytest.mark.parametrize(
    "step", [lambda run: apt.install(run, "dkms"), apt.configure], ids=["install", "configure"]
)
def test_lock_of_another_program_is_awaited_then_reported(machine, output, step, caplog):
    caplog.set_level("INFO")
    simulated = machine("t4-pair")
    simulated.fail("apt-get", output=output, returncode=100)
    simulated.fail("dpkg", output=output, returncode=2)
    with pytest.raises(HostError) as error:
        step(simulated)
    assert error.value.problem == Problem(ProblemKind.DPKG_LOCKED)
    assert len(simulated.commands) == 150  # 2 seconds apart
    assert caplog.messages == [f"waiting for dpkg's lock: {output.strip()}"]


def test_released_lock_ends_the_wait(machine, monkeypatch):
    simulated = machine("t4-pair")
    locked = "dpkg: error: dpkg frontend lock was locked by another process with pid 4242\n"
    simulated.fail("dpkg", output=locked, returncode=2)
    slept: list[float] = []
    monkeypatch.setattr(
        "time.sleep", lambda pause: slept.append(pause) or simulated.repair("dpkg")
    )
    apt.configure(simulated)
    assert slept == [2]
    assert len(simulated.commands) == 2


def test_lock_message_on_standard_output_is_ignored(machine):
    simulated = machine("t4-pair")
    stdout = "Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend.\n"
    simulated.fail("apt-get install", stdout=stdout, output="E: it failed\n", returncode=100)
    with pytest.raises(HostError) as error:
        apt.install(simulated, "dkms")
    assert error.value.problem == Problem(ProblemKind.INSTALL_FAILED, reason="E: it failed")


def test_read_only_disk_is_not_mistaken_for_a_lock(machine):
    simulated = machine("t4-pair")
    reason = "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (30: Read-only)"
    output = f"{reason}\nE: Unable to acquire the dpkg frontend lock (/x), are you root?\n"
    simulated.fail("apt-get install", output=output, returncode=100)
    with pytest.raises(HostError) as error:
        apt.install(simulated, "dkms")
    assert error.value.problem == Problem(ProblemKind.INSTALL_FAILED, reason=reason)
    assert len(simulated.commands) == 1


def test_missing_apt_is_a_failure(machine):
    simulated = machine("t4-pair")
    simulated.fail("apt-get", returncode=None)
    with pytest.raises(HostError) as error:
        apt.remove(simulated, dpkg.Package("dkms", "1", "installed"))
    assert error.value.problem == Problem(
        ProblemKind.INSTALL_FAILED, reason="No such file or directory"
    )


# Packages of the archive


def test_only_missing_packages_are_installed(machine):
    simulated = machine("t4-pair")
    apt.install(simulated, "dkms")
    assert apt.ensure_available_installed(simulated.root, simulated, "dkms", HEADERS) == (HEADERS,)
    assert simulated.commands[-1][-1] == HEADERS
    assert "dkms" not in simulated.commands[-1]


def test_installed_packages_need_no_program(machine):
    simulated = machine("t4-pair")
    apt.install(simulated, "dkms")
    simulated.commands.clear()
    assert apt.ensure_available_installed(simulated.root, simulated, "dkms") == ()
    assert simulated.commands == []


def test_lists_are_fetched_only_for_an_unknown_name(machine):
    simulated = machine("t4-pair")
    simulated.archive.remove(HEADERS)
    simulated.mirror.add(HEADERS)
    assert apt.ensure_available_installed(simulated.root, simulated, "dkms") == ("dkms",)
    assert simulated.did("apt-get update") == []
    assert apt.ensure_available_installed(simulated.root, simulated, HEADERS) == (HEADERS,)
    assert len(simulated.did("apt-get update")) == 1


def test_name_outside_the_archive_is_skipped(machine):
    simulated = machine("t4-pair")
    simulated.archive.remove(HEADERS)
    names = (HEADERS, "dkms")
    assert apt.ensure_available_installed(simulated.root, simulated, *names) == ("dkms",)
    assert apt.ensure_available_installed(simulated.root, simulated, *names) == ()


def test_name_without_a_candidate_is_skipped(machine):
    simulated = machine("t4-pair")
    text = "dkms:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
    simulated.fail("apt-cache policy", stdout=text, returncode=0)
    assert apt.ensure_available_installed(simulated.root, simulated, "dkms") == ()


def test_unreachable_mirror_does_not_prevent_other_packages(machine):
    simulated = machine("t4-pair")
    simulated.archive.remove(HEADERS)
    simulated.fail("apt-get update", output="E: Some index files failed to download.\n")
    assert apt.ensure_available_installed(simulated.root, simulated, HEADERS, "dkms") == ("dkms",)


def test_dot_in_a_name_matches_only_a_dot(machine):
    simulated = machine("t4-pair")
    other = HEADERS.replace(".", "x")
    recorded.write_dpkg_status(simulated.root, [(other, "1.0", "installed")])
    assert apt.ensure_available_installed(simulated.root, simulated, HEADERS) == (HEADERS,)


def test_installation_that_would_remove_another_package_is_refused(machine):
    simulated = machine("t4-pair")
    output = "Remv libvirt0 [10.0.0-2ubuntu8]\nRemv nvidia-vgpu-ubuntu-535 [535.161.05]\nInst x\n"
    simulated.fail("apt-get install --simulate", returncode=0, stdout=output)
    with pytest.raises(HostError) as error:
        apt.simulate(simulated, "/tmp/x.deb", "nvidia-vgpu-ubuntu-535-")
    assert error.value.problem == Problem(
        ProblemKind.INSTALL_FAILED, reason="it would remove libvirt0"
    )
