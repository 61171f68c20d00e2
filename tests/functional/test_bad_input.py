# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Invalid values of the option: no hook fails, one line reports the problem, nothing is lost."""

from __future__ import annotations

import pytest
from bed import principal
from bed.machine import CHARM

GOOD = "{T4-8Q: ['10de:1eb8']}"
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 8)
)
VALUES = {
    "a newline in an address": '{nvidia-35: ["0000:84:00.0\\nvirt_type=qemu"]}',
    "a newline after an address": '{nvidia-35: ["0000:84:00.0\\n"]}',
    "a newline in a type": '{"nvidia-35\\n[libvirt]\\nvirt_type=qemu": ["0000:84:00.0"]}',
    "a newline in a resource class": (
        "{nvidia-233: {devices: ['0000:84:00.0'], resource-class: \"CUSTOM_X\\nfoo=1\"}}"
    ),
    "a quoted address": "{nvidia-35: [\"'0000:84:00.0'\"]}",
    "a comment after an address": '{nvidia-35: ["0000:84:00.0 # note"]}',
    "two addresses joined by a semicolon": "{nvidia-35: ['0000:84:00.0;0000:85:00.0']}",
    "Python code": "{nvidia-35: [\"'];import os;os.system('id');['\"]}",
    "shell commands": "{nvidia-35: ['$(reboot)', '`reboot`']}",
    "a Jinja expression": "{nvidia-35: ['{{ 7 * 7 }}']}",
    "an open bracket": "[",
    "a list": "['0000:84:00.0']",
    "plain text": "nvidia-35",
    "a number as a type": "{35: ['0000:84:00.0']}",
    "an invalid device": "{35: [x]}",
    "a null list": "{nvidia-35: null}",
    "a null device": "{nvidia-35: [null]}",
    "a null type": "{null: ['0000:84:00.0']}",
    "a type without devices": "{nvidia-35: []}",
    "a string instead of a list": "{nvidia-35: '0000:84:00.0'}",
    "duplicate keys": "{nvidia-35: ['84:00.0'], nvidia-35: ['85:00.0']}",
    "two YAML documents": "{nvidia-35: ['84:00.0']}\n---\n{nvidia-36: ['85:00.0']}",
    "a YAML tag": "!!python/object/apply:os.system ['id']",
    "a tagged scalar": "{nvidia-35: [!!binary 'AAAA']}",
    "a YAML bomb": BOMB,
    "a node that contains itself": "&a {nvidia-35: *a}",
    "deeply nested lists": "{nvidia-35: " + "[" * 3000 + "]" * 3000 + "}",
    "deeply nested mappings": "{a: " * 2000 + "}" * 2000,
    "a very long list": "{nvidia-35: [" + ", ".join(["'0000:84:00.0'"] * 70000) + "]}",
    "too many types": "{" + ", ".join(f"nvidia-{n}: ['84:00.0']" for n in range(2000)) + "}",
    "a NUL character": '{nvidia-35: ["0000:84:00.0\\0"]}',
    "a control character": "{nvidia-35: ['\x07']}",
    "a non-ASCII digit": "{nvidia-35: ['0000:84:00.\uff10']}",
    "a tab as indentation": "nvidia-35:\n\t- 0000:84:00.0",
    "an unknown key": "{nvidia-233: {devices: ['84:00.0'], max_instances: 3}}",
    "max-instances of 0": "{nvidia-233: {devices: ['84:00.0'], max-instances: 0}}",
    "a negative max-instances": "{nvidia-233: {devices: ['84:00.0'], max-instances: -1}}",
    "a lower-case class": "{nvidia-233: {devices: ['84:00.0'], resource-class: custom_x}}",
    "a device in two types": "{nvidia-233: ['84:00.0'], nvidia-234: ['0000:84:00.0']}",
    "a type that the card does not offer": "{T4-99Q: ['0000:84:00.0']}",
    "an escape beyond Unicode": '{nvidia-35: ["\\U00110000"]}',
    "the largest 32-bit escape": '{nvidia-35: ["\\UFFFFFFFF"]}',
    "an excessively long YAML version": "%YAML 1." + "9" * 5000 + "\n--- {}",
    "a PCI domain that is too long": "{nvidia-35: ['000000000:84:00.0']}",
    "a very long type": "{" + "x" * 60000 + ": ['84:00.0']}",
}

# Runs the dispatch and prints its duration in seconds and its peak memory in MiB.
METER = """\
import resource, subprocess, time
start = time.monotonic()
code = subprocess.run(["./dispatch"]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print("METER", code, time.monotonic() - start, usage.ru_maxrss / 1024)
"""


@pytest.fixture(scope="module")
def configured_unit(boot, ready_image):
    with boot("t4-fresh", ready_image) as (host, unit):
        unit.configure(vgpu_device_mappings=GOOD)
        yield host, unit, unit.databag


@pytest.mark.parametrize("name", VALUES)
def test_an_invalid_value_blocks_the_unit_and_keeps_the_published_data(
    configured_unit, fault, name
):
    _, unit, published = configured_unit
    unit.configure(vgpu_device_mappings=GOOD)
    assert unit.status == ("active", "Unit is ready: 2 NVIDIA GPUs, 1 vGPU type")

    row = fault(f"The option contains {name}; the published data is kept")
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
    row.record(unit)


@pytest.mark.parametrize(
    "name",
    [
        "a YAML bomb",
        "deeply nested lists",
        "a very long list",
        "too many types",
        "a very long type",
    ],
)
def test_an_invalid_value_takes_little_time_and_memory(configured_unit, name):
    host, unit, _ = configured_unit
    unit.configure(vgpu_device_mappings=VALUES[name])
    env = unit.environment("hooks/config-changed", {"JUJU_HOOK_NAME": "config-changed"})
    output = host.run("python3", "-c", METER, env=env, cwd=f"/{CHARM}").stdout
    code, seconds, mebibytes = output.split("METER")[1].split()
    assert code == "0"
    assert float(seconds) < 10  # a machine may be busy; expanding a YAML bomb would take minutes
    assert float(mebibytes) < 100


def test_an_invalid_value_on_a_new_unit_publishes_no_section(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings=VALUES["a newline in an address"])
    assert principal.read(unit.databag)[0] == {}


def test_a_valid_value_after_an_invalid_one_is_applied(ready_host):
    _, unit = ready_host
    unit.configure(vgpu_device_mappings="[")
    unit.configure(vgpu_device_mappings=GOOD)
    assert unit.status[0] == "active"
    assert principal.read(unit.databag)[0]["devices"] == [["enabled_mdev_types", "nvidia-233"]]


TRIGGERS = {
    "empty": "",
    "100,000 characters long": "x" * 100_000,
    "two lines of text": "a\nb",
    "a shell command": "$(reboot)",
    "JSON": '{"a": 1}',
    "a character that reverses the text direction": "\u202e",
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_no_restart_trigger_of_nova_compute_breaks_the_unit(ready_host, fault, name):
    _, unit = ready_host
    assert unit.trigger(TRIGGERS[name]).returncode == 0
    assert unit.status[0] == "active"
    fault(f"nova-compute's restart-trigger is {name}").record(unit)
