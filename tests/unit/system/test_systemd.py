# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Units of systemd, and the reboot that the charm requests."""

from __future__ import annotations

import pytest

from gpu.problems import HostError, Problem, ProblemKind
from system import systemd

SERVICE = "nvidia-vgpu-mgr"


@pytest.mark.parametrize(
    "folder", ["lib/systemd/system", "usr/lib/systemd/system", "etc/systemd/system"]
)
def test_service_exists_where_its_unit_file_is(tmp_path, folder):
    assert not systemd.has_unit(tmp_path, SERVICE)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / f"{SERVICE}.service").touch()
    assert systemd.has_unit(tmp_path, SERVICE)


@pytest.mark.parametrize("folder", ["etc", "run"])
def test_link_to_dev_null_masks_a_service(tmp_path, folder):
    link = tmp_path / folder / f"systemd/system/{SERVICE}.service"
    link.parent.mkdir(parents=True)
    link.symlink_to("/dev/null")
    assert systemd.is_masked(tmp_path, SERVICE)
    assert not systemd.has_unit(tmp_path, SERVICE)


def test_other_link_does_not_mask_a_service(tmp_path):
    link = tmp_path / f"etc/systemd/system/{SERVICE}.service"
    link.parent.mkdir(parents=True)
    link.symlink_to("/opt/other.service")
    assert not systemd.is_masked(tmp_path, SERVICE)


def test_reboot_leaves_time_for_the_action_to_return(machine):
    simulated = machine("t4-pair")
    systemd.schedule_reboot(simulated)
    assert simulated.commands == [("systemd-run", "--on-active=30", "systemctl", "reboot")]


def test_refused_reboot_is_an_error(machine):
    simulated = machine("t4-pair")
    simulated.fail("systemd-run", output="Failed to start transient timer unit\n")
    with pytest.raises(HostError) as error:
        systemd.schedule_reboot(simulated)
    assert error.value.problem == Problem(ProblemKind.REBOOT_REFUSED)
