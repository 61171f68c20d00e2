# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the option holds: no hook error, one line that says what to mend, nothing lost."""

from __future__ import annotations

import pytest
from bed import principal
from bed.machine import CHARM

GOOD = "{T4-8Q: ['10de:1eb8']}"
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8)
)
VALUES = {
    "a-newline-in-an-address": '{nvidia-35: ["0000:84:00.0\\nvirt_type=qemu"]}',
    "a-newline-after-an-address": '{nvidia-35: ["0000:84:00.0\\n"]}',
    "a-newline-in-a-type": '{"nvidia-35\\n[libvirt]\\nvirt_type=qemu": ["0000:84:00.0"]}',
    "a-newline-in-a-class": (
        "{nvidia-233: {devices: ['0000:84:00.0'], resource-class: \"CUSTOM_X\\nfoo=1\"}}"
    ),
    "quotes": "{nvidia-35: [\"'0000:84:00.0'\"]}",
    "a-comment": '{nvidia-35: ["0000:84:00.0 # mine"]}',
    "semicolons": "{nvidia-35: ['0000:84:00.0;0000:85:00.0']}",
    "python": "{nvidia-35: [\"'];import os;os.system('id');['\"]}",
    "shell": "{nvidia-35: ['$(reboot)', '`reboot`']}",
    "jinja": "{nvidia-35: ['{{ 7 * 7 }}']}",
    "an-open-bracket": "[",
    "a-list": "['0000:84:00.0']",
    "a-plain-word": "nvidia-35",
    "a-number-as-type": "{35: ['0000:84:00.0']}",
    "an-unknown-device": "{35: [x]}",
    "nulls": "{nvidia-35: null}",
    "a-null-device": "{nvidia-35: [null]}",
    "a-null-type": "{null: ['0000:84:00.0']}",
    "no-devices": "{nvidia-35: []}",
    "a-word-for-a-list": "{nvidia-35: '0000:84:00.0'}",
    "duplicate-keys": "{nvidia-35: ['84:00.0'], nvidia-35: ['85:00.0']}",
    "two-documents": "{nvidia-35: ['84:00.0']}\n---\n{nvidia-36: ['85:00.0']}",
    "a-tag": "!!python/object/apply:os.system ['id']",
    "a-tagged-scalar": "{nvidia-35: [!!binary 'AAAA']}",
    "a-bomb": BOMB,
    "a-node-that-holds-itself": "&a {nvidia-35: *a}",
    "deep": "{nvidia-35: " + "[" * 3000 + "]" * 3000 + "}",
    "deep-flow-mappings": "{a: " * 2000 + "}" * 2000,
    "large": "{nvidia-35: [" + ", ".join(["'0000:84:00.0'"] * 70000) + "]}",
    "many-types": "{" + ", ".join(f"nvidia-{n}: ['84:00.0']" for n in range(2000)) + "}",
    "a-nul": '{nvidia-35: ["0000:84:00.0\\0"]}',
    "a-control-character": "{nvidia-35: ['\x07']}",
    "other-digits": "{nvidia-35: ['0000:84:00.\uff10']}",
    "a-tab": "nvidia-35:\n\t- 0000:84:00.0",
    "an-unknown-option": "{nvidia-233: {devices: ['84:00.0'], max_instances: 3}}",
    "zero-instances": "{nvidia-233: {devices: ['84:00.0'], max-instances: 0}}",
    "a-negative-number": "{nvidia-233: {devices: ['84:00.0'], max-instances: -1}}",
    "a-class-in-lower-case": "{nvidia-233: {devices: ['84:00.0'], resource-class: custom_x}}",
    "the-same-device-twice": "{nvidia-233: ['84:00.0'], nvidia-234: ['0000:84:00.0']}",
    "a-type-that-the-card-lacks": "{T4-99Q: ['0000:84:00.0']}",
    "a-character-beyond-unicode": '{nvidia-35: ["\\U00110000"]}',
    "a-character-beyond-all": '{nvidia-35: ["\\UFFFFFFFF"]}',
    "a-version-without-end": "%YAML 1." + "9" * 5000 + "\n--- {}",
    "a-domain-too-long": "{nvidia-35: ['000000000:84:00.0']}",
    "a-long-word": "{" + "x" * 60000 + ": ['84:00.0']}",
}

# Runs the dispatch and tells the seconds it took and the MiB it held at most.
METER = """\
import resource, subprocess, time
start = time.monotonic()
code = subprocess.run(["./dispatch"]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print("METER", code, time.monotonic() - start, usage.ru_maxrss / 1024)
"""


@pytest.fixture(scope="module")
def unit_at_work(boot, ready_image):
    with boot("t4-fresh", ready_image) as (host, unit):
        unit.configure(vgpu_device_mappings=GOOD)
        yield host, unit, unit.databag


@pytest.mark.parametrize("name", VALUES)
def test_a_bad_value_blocks_and_loses_nothing(unit_at_work, fault, name):
    _, unit, published = unit_at_work
    unit.configure(vgpu_device_mappings=GOOD)
    assert unit.status == ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")

    row = fault(f"The option holds {name.replace('-', ' ')}; what was published stays")
    outcome = unit.configure(vgpu_device_mappings=VALUES[name])

    level, message = unit.status
    assert outcome.returncode == 0
    assert level == "blocked"
    assert len(message) < 120
    assert message.isprintable()
    assert "vgpu-device-mappings" in message or "list-vgpu-types" in message
    assert "Traceback" not in outcome.log
    assert len(outcome.log) < 200_000
    assert unit.databag == published
    row.seen(unit)


@pytest.mark.parametrize("name", ["a-bomb", "deep", "large", "many-types", "a-long-word"])
def test_a_bad_value_costs_little(unit_at_work, name):
    host, unit, _ = unit_at_work
    unit.configure(vgpu_device_mappings=VALUES[name])
    env = unit.environment("hooks/config-changed", {"JUJU_HOOK_NAME": "config-changed"})
    output = host.run("python3", "-c", METER, env=env, cwd=f"/{CHARM}").stdout
    code, seconds, mebibytes = output.split("METER")[1].split()
    assert code == "0"
    assert float(seconds) < 10  # a machine may be busy; the bombs of YAML take minutes
    assert float(mebibytes) < 100


def test_a_bad_value_on_a_fresh_unit_publishes_no_section(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=VALUES["a-newline-in-an-address"])
    assert principal.read(unit.databag)[0] == {}


def test_a_good_value_after_a_bad_one_is_taken(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings="[")
    unit.configure(vgpu_device_mappings=GOOD)
    assert unit.status[0] == "active"
    assert principal.read(unit.databag)[0]["devices"] == [["enabled_mdev_types", "nvidia-233"]]


TRIGGERS = {
    "nothing": "",
    "100,000 characters": "x" * 100_000,
    "two lines": "a\nb",
    "a command": "$(reboot)",
    "JSON": '{"a": 1}',
    "a character that turns the text around": "\u202e",
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_whatever_the_other_side_sends_the_unit_stays_up(ready_host, fault, name):
    _, unit = ready_host
    assert unit.trigger(TRIGGERS[name]).returncode == 0
    assert unit.status[0] == "active"
    fault(f"nova-compute's restart-trigger is {name}").seen(unit)
