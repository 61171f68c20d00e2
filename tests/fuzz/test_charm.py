# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Any combined input from operator, principal, driver, programs and disk: no event fails.

All output of the charm passes the checks.
"""

from __future__ import annotations

import contextlib

import hostile
import test_program_output
import test_records
import test_sysfs
from examples import fuzzed
from hypothesis import strategies as st
from ops import testing
from units import unit_on

PROGRAMS = st.sampled_from(
    ["nvidia-smi", "lspci", "apt-get", "apt-cache", "dpkg-deb", "modprobe", "systemctl is-active",
     "systemctl restart", "systemctl daemon-reload", "/usr/lib/nvidia/sriov-manage"]
)  # fmt: skip
ATTRIBUTES = st.sampled_from(sorted(set(test_sysfs.NEARLY) - {"vendor"}))


def configure(draw, unit):
    config = {"vgpu-device-mappings": draw(hostile.mappings())}
    if draw(st.booleans()):
        config["passthrough-devices"] = draw(hostile.passthroughs())
    for name in ("report-in-placement", "live-migratable", "force-install-nvidia-vgpu"):
        config[name] = draw(st.booleans())
    unit.change(config=config)
    unit.hook("config_changed")


def send_restart_trigger(draw, unit):
    unit.relation_hook("changed", remote_unit_data={"restart-trigger": draw(hostile.texts())})


def replace_file(draw, unit):
    place = draw(st.sampled_from(sorted(test_records.RECORDS)))
    path = unit.machine.root / place
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    path.parent.chmod(0o755)
    path.write_bytes(draw(hostile.json_files(test_records.RECORDS[place])))
    path.chmod(0o600 if path.stem in ("state", "mdevs") else 0o644)
    unit.hook("update_status")


def replace_attribute(draw, unit):
    attribute = draw(ATTRIBUTES)
    content = hostile.encoded(draw(test_sysfs.NEARLY[attribute]))
    for path in unit.machine.root.glob(f"sys/devices/*/*/**/{attribute}"):
        path.write_bytes(content)
    unit.hook("start")


def replace_program(draw, unit):
    output = draw(st.one_of(test_program_output.SMI, test_program_output.POLICY))
    code = draw(st.sampled_from([0, 1, None]))
    unit.machine.fail(draw(PROGRAMS), output=output, stdout=output, returncode=code)
    unit.hook("start")


def attach(draw, unit):
    path = unit.machine.root / "resource.deb"
    if draw(st.booleans()):
        path.write_bytes(draw(hostile.octets()))
    else:
        unit.machine.make_deb(
            path, version=draw(hostile.texts(20)), depends=draw(hostile.texts(20))
        )
    unit.attach(path)


def run_action(draw, unit):
    name = draw(
        st.sampled_from(["show-plan", "show-requests", "list-vgpu-types", "pause", "resume"])
    )
    with contextlib.suppress(testing.ActionFailed):
        unit.action(name)


EVENTS = (
    configure, configure, send_restart_trigger, replace_file, replace_attribute,
    replace_program, attach, run_action,
)  # fmt: skip


@fuzzed(
    share=0.1,
    seconds=5,
    host=st.sampled_from(["t4-pair", "l40s-vendor-vfio", "l40s-vendor-vfio"]),
    events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4),
    data=st.data(),
)
def test_no_event_fails_and_all_output_passes_the_checks(folder, host, events, data):
    with unit_on(folder, host) as unit:
        unit.relation_hook("created")
        for event in events:
            event(data.draw, unit)
