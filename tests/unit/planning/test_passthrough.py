# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option passthrough-devices: forms that are accepted, and refusals that name the fix."""

from __future__ import annotations

import pytest

from gpu.pci import PciAddress, PciId
from gpu.problems import HostError, Problem, ProblemKind
from gpu.topology import Distance
from planning import passthrough
from planning.passthrough import PassthroughRequest

T4 = PciId(0x10DE, 0x1EB8)
SLOT = PciAddress.parse("0000:3b:00.0")
LONG_FORM = "expected devices, and optionally nics, nic-distance, numa-policy, resource-class"
PAIR = "expected vendor-id and device-id, and nothing else"
NAME = "expected a name of letters, digits, '.', '_' or '-', up to 64"
NUMBER = "expected a PCI ID as a number: 7864 or 0x1eb8"


def read(text):
    data = passthrough.OPTION.parse(text)
    if data is not None:
        passthrough.OPTION.check(data)
    return passthrough.requests(data)


@pytest.mark.parametrize(
    ("written", "device"),
    [
        ("0000:3b:00.0", SLOT),
        ("'3B:00.0'", SLOT),
        ("'10de:1eb8'", T4),
        ("'10DE:1EB8'", T4),
        ("{vendor-id: 4318, device-id: 7864}", T4),
        ("{vendor-id: '0x10de', device-id: 0x1EB8}", T4),
        ("{device-id: '7864', vendor-id: 0x10DE}", T4),
    ],
)
def test_device_is_an_address_or_an_id_in_hexadecimal_or_decimal(written, device):
    assert read(f"{{t4: [{written}]}}") == (PassthroughRequest("t4", (device,)),)


def test_decimal_and_hexadecimal_of_one_card_are_the_same_card():
    text = "{t4: ['10de:1eb8', {vendor-id: 4318, device-id: 7864}]}"
    assert read(text) == (PassthroughRequest("t4", (T4,)),)


def test_long_form_and_json_are_accepted():
    text = '{"t4": {"devices": ["3b:00.0"], "numa-policy": "socket"}}'
    assert read(text) == (PassthroughRequest("t4", (SLOT,), "socket"),)


@pytest.mark.parametrize("text", ["", " ", "# nothing", "{}"])
def test_unset_option_requests_nothing(text):
    assert read(text) == ()


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (
            "[a]",
            "the value",
            "expected up to 256 names, a space before each list: {t4: ['0000:3b:00.0']}",
        ),
        ("{'a b': ['3b:00.0']}", "a b", NAME),
        ("{-t4: ['3b:00.0']}", "-t4", NAME),
        ("{" + "a" * 65 + ": ['3b:00.0']}", "a" * 24 + "...", NAME),
        ("{\"t4\\nx\": ['3b:00.0']}", "t4?x", NAME),
        ("{t4: []}", "t4", "expected a list of 1 to 4096 devices: ['0000:3b:00.0']"),
        ("{t4: 3b:00.0}", "t4", "expected a list of 1 to 4096 devices: ['0000:3b:00.0']"),
        (
            "{t4: ['3b:00.0', x]}",
            "t4, device 2",
            "expected a PCI address (0000:3b:00.0) or a PCI ID (10de:1eb8)",
        ),
        ("{t4: [{vendor-id: 4318}]}", "t4, device 1", PAIR),
        ("{t4: [{device-id: 7864}]}", "t4, device 1", PAIR),
        (
            "{t4: [{vendor-id: 4318, device-id: 7864, vgpu-profile: grid_t4-8q}]}",
            "t4, device 1",
            "unknown key vgpu-profile; expected vendor-id, device-id",
        ),
        ("{t4: [{vendor-id: 10de, device-id: 1eb8}]}", "t4, device 1, vendor-id", NUMBER),
        ("{t4: [{vendor-id: 4318, device-id: 99999}]}", "t4", "PCI IDs end at 65535 (0xffff)"),
        ("{t4: {numa-policy: required}}", "t4", LONG_FORM),
        (
            "{t4: {devices: ['3b:00.0'], vgpu-type: T4-8Q}}",
            "t4",
            "unknown key vgpu-type; "
            "expected devices, nics, nic-distance, numa-policy, resource-class",
        ),
        ("{t4: {device: ['3b:00.0']}}", "t4", "unknown key device; did you mean devices?"),
        (
            "{t4: {devices: ['3b:00.0'], numa-policy: strict}}",
            "t4, numa-policy",
            "expected required, preferred, legacy or socket",
        ),
        (
            "{t4: {devices: ['3b:00.0'], resource-class: VGPU}}",
            "t4, resource-class",
            "expected CUSTOM_ followed by A-Z, 0-9 or _",
        ),
        ("{t4: ['10000:3b:00.0']}", "t4, 10000:3b:00.0", "Nova supports domains up to ffff"),
    ],
)
def test_wrong_value_is_refused_with_its_place_and_what_is_expected(text, place, reason):
    with pytest.raises(HostError) as error:
        read(text)
    assert error.value.problem == Problem(
        ProblemKind.OPTION_INVALID, option="passthrough-devices", place=place, reason=reason
    )


@pytest.mark.parametrize(
    "second", ["'10de:1eb8'", "{vendor-id: 4318, device-id: 7864}"], ids=["as written", "decimal"]
)
def test_device_under_two_names_is_refused(second):
    with pytest.raises(HostError) as error:
        read(f"{{a: ['10de:1eb8'], b: [{second}]}}")
    assert error.value.problem == Problem(
        ProblemKind.DEVICE_MAPPED_TWICE,
        option="passthrough-devices",
        device="10de:1eb8",
        first="a",
        second="b",
    )


def test_network_functions_are_requested_beside_cards():
    text = "{h200: {devices: ['10de:2335'], nics: ['15b3:1021', 'b1:00.1'], nic-distance: PIX}}"
    (request,) = read(text)
    assert request.nics == (PciId(0x15B3, 0x1021), PciAddress.parse("0000:b1:00.1"))
    assert request.nic_distance is Distance.PIX
    assert request.nic_name == "h200-nic"


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (
            "{a: {devices: ['3b:00.0'], nics: ['b1:00.0']}, a-nic: ['5e:00.0']}",
            "a-nic",
            "is the alias of the network functions of a; rename it",
        ),
        (
            "{a: {devices: ['3b:00.0'], nics: ['b1:00.0'], nic-distance: SYS}}",
            "a, nic-distance",
            "expected PIX, PXB, PHB or NODE",
        ),
        ("{a: {devices: ['3b:00.0'], nic-distance: PIX}}", "a", "nic-distance needs nics"),
        (
            f"{{{'a' * 61}: {{devices: ['3b:00.0'], nics: ['b1:00.0']}}}}",
            f"{'a' * 24}...",
            "at most 60 characters with nics",
        ),
        (
            "{a: {devices: ['3b:00.0'], nics: []}}",
            "a, nics",
            "expected a list of 1 to 4096 devices: ['0000:3b:00.0']",
        ),
    ],
)
def test_wrong_request_for_network_functions_is_refused(text, place, reason):
    with pytest.raises(HostError) as error:
        read(text)
    assert error.value.problem == Problem(
        ProblemKind.OPTION_INVALID, option="passthrough-devices", place=place, reason=reason
    )


def test_network_function_under_two_names_is_refused():
    entry = "{devices: ['%s'], nics: ['15b3:1021']}"
    with pytest.raises(HostError) as error:
        read(f"{{a: {entry % '3b:00.0'}, b: {entry % '5e:00.0'}}}")
    assert error.value.problem.argument("first") == "a-nic"
    assert error.value.problem.argument("second") == "b-nic"


def test_syntax_error_shows_an_example_of_this_option():
    with pytest.raises(HostError) as error:
        read("{t4: [")
    assert error.value.problem.argument("example") == "{t4: ['0000:3b:00.0']}"
