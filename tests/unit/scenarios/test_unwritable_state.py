# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are damaged or cannot be written: a status, no traceback, and nothing is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import boot
import recorded
from state import boot_result
from unit import T4_MAPPING

KEPT = "var/lib/nova-compute-nvidia-vgpu"
RUN = "run/nova-compute-nvidia-vgpu"
L40S_MAPPING = "{L40S-8Q: ['10de:26b9']}"


def make_read_only(monkeypatch, *folders):
    """Let all changes below some folders fail, as on a read-only file system; root may do all."""
    real_open, real_unlink, real_replace = os.open, os.unlink, os.replace
    real_path_unlink = Path.unlink  # before Python 3.11 it does not look up os.unlink

    def refuse(path):
        if any(str(path).startswith(str(folder)) for folder in folders):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def open_file(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(
        os, "unlink", lambda path, **rest: refuse(path) or real_unlink(path, **rest)
    )
    monkeypatch.setattr(
        Path, "unlink", lambda path, **rest: refuse(path) or real_path_unlink(path, **rest)
    )
    monkeypatch.setattr(os, "replace", lambda old, new: refuse(new) or real_replace(old, new))


@pytest.mark.parametrize("host", ["no-gpu", "t4-pair", "l40s-vendor-vfio"])
@pytest.mark.parametrize(
    "folders", [(KEPT,), (RUN,), ("var", "run", "usr")], ids=["state", "/run", "everything"]
)
def test_read_only_file_system_is_a_status(deploy, monkeypatch, host, folders):
    unit = deploy(host)
    unit.configure(L40S_MAPPING if "l40s" in host else T4_MAPPING)
    before = unit.databag
    make_read_only(monkeypatch, *(unit.machine.root / folder for folder in folders))
    for hook in ("config_changed", "update_status", "start", "upgrade_charm"):
        unit.hook(hook)
    assert unit.databag == before
    for hook in ("stop", "remove"):
        unit.hook(hook)


def test_state_that_cannot_be_saved_is_shown(deploy, monkeypatch):
    unit = deploy("no-gpu")
    unit.hook("start")
    make_read_only(monkeypatch, unit.machine.root / KEPT)
    unit.configure(T4_MAPPING)
    path = unit.machine.root / KEPT / "state.json"
    assert unit.status.name == "blocked"
    assert unit.status.message.endswith("Read-only file system; fix this, then run reboot-install")
    assert str(path)[:20] in unit.status.message


def test_boot_service_ends_with_an_error_if_run_is_full(machine, monkeypatch):
    host = machine("t4-pair")
    make_read_only(monkeypatch, host.root / RUN)
    assert boot.main(host.root, host) == 1


def test_damaged_record_of_types_does_not_make_functions_a_guests(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.configure(L40S_MAPPING)
    (unit.machine.root / KEPT / "assigned-types.json").write_text("{")
    unit.machine.define_guest("0000:3d:00.5")
    unit.hook("update_status")
    assert unit.machine.facts.in_use == ("0000:3d:00.5",)
    unit.machine.define_guest()
    unit.configure("{L40S-24Q: ['10de:26b9']}")
    assert set(unit.assigned_types().values()) == {"nvidia-1155"}
    assert unit.status.name == "active"


@pytest.mark.parametrize("damage", ["", "{", None], ids=["empty", "truncated", "missing"])
def test_report_in_placement_outlives_a_damaged_state(deploy, damage):
    unit = deploy("l40s-vendor-vfio")
    unit.change(config={"vgpu-device-mappings": L40S_MAPPING, "report-in-placement": True})
    unit.hook("config_changed")
    path = unit.machine.root / KEPT / "state.json"
    path.unlink() if damage is None else path.write_text(damage)
    unit.change(config={"vgpu-device-mappings": L40S_MAPPING, "report-in-placement": False})
    unit.hook("config_changed")
    assert ["report_in_placement", "true"] in unit.sections["pci"]


def test_report_in_placement_outlives_the_unit(deploy):
    unit = deploy("l40s-vendor-vfio")
    unit.change(config={"vgpu-device-mappings": L40S_MAPPING, "report-in-placement": True})
    unit.hook("config_changed")
    for hook in ("stop", "remove"):
        unit.hook(hook)
    left = [path.name for path in (unit.machine.root / KEPT).iterdir()]
    assert left == ["reports-in-placement"]
    unit.change(config={"vgpu-device-mappings": "", "report-in-placement": False})
    unit.hook("install")
    assert unit.sections["pci"] == [["report_in_placement", "true"]]


def test_report_in_placement_is_not_published_without_its_record(deploy, monkeypatch):
    unit = deploy("l40s-vendor-vfio")
    unit.hook("start")
    make_read_only(monkeypatch, unit.machine.root / KEPT)
    unit.change(config={"vgpu-device-mappings": L40S_MAPPING, "report-in-placement": True})
    unit.hook("config_changed")
    assert "report_in_placement" not in str(unit.databag)
    assert unit.status.name == "blocked"


def test_result_that_cannot_be_deleted_is_logged(machine, monkeypatch, caplog):
    host = machine(recorded.host("t4-pair"))
    boot_result.save(host.root, [])
    make_read_only(monkeypatch, host.root / RUN)
    boot_result.clear(host.root)
    (message,) = caplog.messages
    assert message.startswith(str(host.root / RUN / "result.json"))
    assert "Read-only file system" in message


def test_whole_cards_stay_published_if_the_new_ones_cannot_be_recorded(deploy, monkeypatch):
    """A boot binds what the state says, which is still the old card."""
    unit = deploy("t4-pair", nova="3:31.0.0-0ubuntu1")
    unit.change(config={"passthrough-devices": "{t4: ['84:00.0']}"})
    unit.hook("config_changed")
    before = unit.sections
    make_read_only(monkeypatch, unit.machine.root / KEPT)
    unit.change(config={"passthrough-devices": "{t4: ['d8:00.0']}"})
    unit.hook("config_changed")
    assert unit.status.message.startswith("Cannot write ")
    assert unit.sections == before
