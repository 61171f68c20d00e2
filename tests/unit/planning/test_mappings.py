# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The option vgpu-device-mappings: accepted and rejected values."""

from __future__ import annotations

import pytest

import recorded
from gpu.pci import PciAddress, PciId
from gpu.problems import HostError, Problem, ProblemKind
from planning import mappings
from planning.mappings import VgpuRequest

EXPECTED_MAPPING = "expected up to 256 types, a space before each list: {T4-8Q: ['10de:1eb8']}"
EXPECTED_LIST = "expected a list of 1 to 4096 devices: ['0000:84:00.0']"
NO_TYPE = "expected a type ID (nvidia-35) or a type name (T4-8Q)"
NO_DEVICE = "expected a PCI address (0000:84:00.0) or a PCI ID (10de:1eb8)"
NO_LONG_FORM = "expected devices, and optionally max-instances, numa-policy, resource-class"
NO_LIMIT = "expected an integer from 1 to 9999"
NO_CLASS = "expected VGPU, or CUSTOM_ followed by A-Z, 0-9 or _"
NO_CHARACTER = "a character that YAML does not allow"


def read(text):
    data = mappings.OPTION.parse(text)
    if data is not None:
        mappings.OPTION.check(data)
    return mappings.requests(data)


def rejection(text, kind=ProblemKind.OPTION_INVALID):
    with pytest.raises(HostError) as error:
        read(text)
    problem = error.value.problem
    assert problem.kind is kind
    return problem.argument("place"), problem.argument("reason")


def syntax_error(text):
    return rejection(text, ProblemKind.OPTION_SYNTAX)


def addresses(*texts):
    return tuple(PciAddress.parse(text) for text in texts)


def plain(vgpu_type, *texts):
    return VgpuRequest(vgpu_type, addresses(*texts), is_plain=True)


# Accepted values


@pytest.mark.parametrize("text", ["", " \n", "# nothing yet", "{}"])
def test_empty_option_requests_nothing(text):
    assert read(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "{nvidia-35: ['0000:84:00.0', '0000:85:00.0'], nvidia-36: ['0000:86:00.0']}",
        '{"nvidia-35": ["0000:84:00.0", "0000:85:00.0"], "nvidia-36": ["0000:86:00.0"]}',
        "nvidia-35:\n  - 0000:84:00.0\n  - 0000:85:00.0\nnvidia-36:\n  - 0000:86:00.0\n",
        "nvidia-35: ['84:00.0', \"85:00.0\"]\nnvidia-36: [86:00.0]",
        "---\nnvidia-35: [0000:84:00.0, 0000:85:00.0]\nnvidia-36: [0000:86:00.0]\n...\n",
    ],
    ids=["flow style", "JSON", "block without quotes", "short", "with document marks"],
)
def test_all_notations_are_equivalent(text):
    assert read(text) == (
        plain("nvidia-35", "0000:84:00.0", "0000:85:00.0"),
        plain("nvidia-36", "0000:86:00.0"),
    )


@pytest.mark.parametrize("address", ["0000:41:00.0", "41:00.0", "0000:12:00.0"])
def test_unquoted_address_is_not_a_sexagesimal_number(address):
    assert mappings.OPTION.parse(f"{{nvidia-35: [{address}]}}") == {"nvidia-35": [address]}


@pytest.mark.parametrize("text", ["35", "1e3", "0x10", "yes", "null", "~", "2026-01-01", "1_0"])
def test_every_scalar_is_text(text):
    assert mappings.OPTION.parse(text) == text


def test_address_is_normalised_to_lower_case():
    assert read("{nvidia-35: ['0000:AF:00.0']}") == (plain("nvidia-35", "0000:af:00.0"),)


def test_repeated_device_of_one_list_is_merged():
    text = "{nvidia-35: ['0000:AF:00.0', 'af:00.0', '0000:af:00.0', '0000:84:00.0']}"
    assert read(text) == (plain("nvidia-35", "0000:af:00.0", "0000:84:00.0"),)


def test_yaml_alias_is_expanded():
    text = "nvidia-35: {devices: &here ['10de:1eb8', '10de:1db4']}\nnvidia-36: *here"
    assert mappings.OPTION.parse(text)["nvidia-36"] == ["10de:1eb8", "10de:1db4"]


@pytest.mark.parametrize(
    ("key", "is_plain"),
    [
        ("nvidia-35", True),
        ("T4-8Q", False),
        ("GRID T4-8Q", False),
        ("NVIDIA A40-2Q", False),
        ("GRID A100-1-5CME", False),
        ("NVIDIA RTX Pro 6000 Blackwell DC-48Q", False),
        ("NVIDIA RTX 6000 (Ada)", False),
        ("A100-40", False),
    ],
)
def test_only_a_type_id_can_be_published_unchanged(key, is_plain):
    (request,) = read(f"{{{key}: ['0000:84:00.0']}}")
    assert request == VgpuRequest(key, addresses("0000:84:00.0"), is_plain=is_plain)


def test_every_recorded_name_of_a_type_is_accepted():
    names = {kind["name"] for kinds in recorded.all_types().values() for kind in kinds}
    assert len(names) > 100
    for name in names:
        (request,) = read(f"{{{name}: ['10de:1eb8']}}")
        assert request.vgpu_type == name


@pytest.mark.parametrize("key", ["nvidia-1234567890", "vfio-pci-12345678901"])
def test_type_id_that_no_driver_has_is_rejected(key):
    assert rejection(f"{{{key}: ['0000:84:00.0']}}")[1] == NO_TYPE


def test_request_by_pci_id_is_not_plain():
    (request,) = read("{nvidia-233: ['10DE:1EB8', '0000:84:00.0']}")
    assert request.devices == (PciId(0x10DE, 0x1EB8), PciAddress(0, 0x84, 0, 0))
    assert not request.is_plain


def test_long_form_has_a_limit_and_a_resource_class():
    text = "{T4-8Q: {devices: ['10de:1eb8'], max-instances: 4, resource-class: CUSTOM_T4_8Q}}"
    devices = (PciId(0x10DE, 0x1EB8),)
    assert read(text) == (VgpuRequest("T4-8Q", devices, 4, "CUSTOM_T4_8Q"),)


def test_long_form_without_options_is_not_plain():
    (request,) = read("{nvidia-35: {devices: ['0000:84:00.0']}}")
    assert request == VgpuRequest("nvidia-35", addresses("0000:84:00.0"))


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("{nvidia-35: ['0000:af:00.0'], nvidia-36: ['AF:00.0']}", ("nvidia-35", "nvidia-36")),
        ("{T4-8Q: ['10de:1eb8'], T4-4Q: ['10DE:1EB8']}", ("T4-8Q", "T4-4Q")),
    ],
    ids=["address", "PCI ID"],
)
def test_device_in_two_types_is_rejected(text, types):
    with pytest.raises(HostError) as error:
        read(text)
    problem = error.value.problem
    assert problem.kind is ProblemKind.DEVICE_MAPPED_TWICE
    assert (problem.argument("first"), problem.argument("second")) == types


# Values that failed a hook of the legacy charm


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("['0000:84:00.0']", "the value", EXPECTED_MAPPING),
        ("nvidia-35", "the value", EXPECTED_MAPPING),
        ("''", "the value", EXPECTED_MAPPING),
        ("null", "the value", EXPECTED_MAPPING),
        ("35", "the value", EXPECTED_MAPPING),
        ("? [nvidia-35]\n: ['0000:84:00.0']", "line 1, column 3", "expected text as a key"),
        ("<<: {nvidia-35: ['0000:84:00.0']}", "<<", NO_TYPE),
        ("{35: ['0000:84:00.0']}", "35", NO_TYPE),
        ("{35: [x]}", "35", NO_TYPE),
        ("{null: ['0000:84:00.0']}", "null", NO_TYPE),
        ("{nvidia-35: null}", "nvidia-35", EXPECTED_LIST),
        ("{nvidia-35: }", "nvidia-35", EXPECTED_LIST),
        ("{nvidia-35: []}", "nvidia-35", EXPECTED_LIST),
        ("{nvidia-35: '0000:84:00.0'}", "nvidia-35", EXPECTED_LIST),
        ("{nvidia-35: [null]}", "nvidia-35, device 1", NO_DEVICE),
        ("{nvidia-35: [['0000:84:00.0']]}", "nvidia-35, device 1", NO_DEVICE),
        ("{nvidia-35: [{a: b}]}", "nvidia-35, device 1", NO_DEVICE),
        (
            "nvidia-35: ['0000:84:00.0']\nnvidia-35: ['0000:85:00.0']",
            "line 2, column 1",
            "nvidia-35 appears twice; merge the two entries",
        ),
    ],
    ids=[
        "a list",
        "a plain string",
        "an empty string",
        "null",
        "a number",
        "a list as key",
        "a merge key",
        "a number as key",
        "a number as key, an invalid device",
        "null as key",
        "null as value",
        "no value",
        "no device",
        "a string instead of a list",
        "null as device",
        "a list as device",
        "a mapping as device",
        "a key twice",
    ],
)
def test_invalid_value_is_rejected_with_place_and_correction(text, place, reason):
    assert rejection(text) == (place, reason)


def test_exponential_aliases_are_not_expanded():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 8):
        items = ", ".join([f"*a{level - 1}"] * 9)
        levels.append(f"a{level}: &a{level} [{items}]")
    reason = "more than 10000 items once its aliases are expanded"
    assert rejection("\n".join(levels)) == ("the value", reason)


def test_recursive_alias_is_rejected():
    reason = "more than 10000 items once its aliases are expanded"
    assert rejection("&a {nvidia-35: [*a]}") == ("the value", reason)


@pytest.mark.parametrize(
    "text",
    ["[" * 30_000, "{a: " * 15_000, "- " * 30_000, "[[[[[[[[[]]]]]]]]]"],
    ids=["brackets", "braces", "dashes", "one too deep"],
)
def test_deep_nesting_is_rejected_while_reading(text):
    place, reason = syntax_error(text)
    assert place.startswith("line 1, column ")
    assert reason == "nested too deep"


def test_oversized_value_is_rejected():
    assert rejection("#" * 65_537) == ("the value", "more than 64 KiB")
    assert read("#" * 65_536) == ()


def test_size_is_counted_in_bytes():
    assert rejection("# " + "\u00e9" * 33_000) == ("the value", "more than 64 KiB")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("!!python/object/apply:os.system ['true']", "line 1, column 1"),
        ("nvidia-35: !!set {a, b}", "line 1, column 12"),
        ("nvidia-35:\n- !!str 0000:84:00.0", "line 2, column 3"),
        ("! {}", "line 1, column 1"),
    ],
    ids=["python", "set", "str", "bare"],
)
def test_tags_are_rejected(text, place):
    assert syntax_error(text) == (place, "a tag")


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\ud800", "\ufffe"], ids=repr)
def test_character_that_yaml_does_not_allow_is_rejected(character):
    assert syntax_error(f"{{nvidia-35: ['0000:84:00.0{character}']}}") == (
        "the value",
        NO_CHARACTER,
    )


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("[", "line 1, column 2", "expected the node content, but found '<stream end>'"),
        (
            "nvidia-35: ['0000:84:00.0']\n---\nnvidia-36: ['0000:85:00.0']",
            "line 2, column 1",
            "but found another document",
        ),
        ("{nvidia-35: [*x]}", "line 1, column 14", "found undefined alias 'x'"),
        ("{nvidia-35: ['x]}", "line 1, column 18", "found unexpected end of stream"),
        (
            "\tnvidia-35: []",
            "line 1, column 1",
            "found character '\\t' that cannot start any token",
        ),
    ],
    ids=["open bracket", "two documents", "undefined alias", "open quote", "tab"],
)
def test_invalid_yaml_is_rejected_with_its_place(text, place, reason):
    assert syntax_error(text) == (place, reason)


# Values that could inject a line into nova.conf, or an argument into a command

HOSTILE = {
    "newline": r"\n",
    "newline and option": r"\nvirt_type = qemu",
    "carriage return": r"\r",
    "line separator": r"\u2028",
    "NUL": r"\0",
    "quote": "'",
    "double quote": r"\"",
    "semicolon": ";",
    "comma": ",0000:85:00.0",
    "blank": " ",
    "comment": " #",
    "substitution": "$(reboot)",
    "interpolation": "%(host)s",
    "template": "{{ x }}",
}


@pytest.mark.parametrize("suffix", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("device", ["0000:84:00.0", "84:00.0", "10de:1eb8"])
def test_device_with_a_hostile_suffix_is_rejected(device, suffix):
    assert rejection(f'{{nvidia-35: ["{device}{suffix}"]}}') == ("nvidia-35, device 1", NO_DEVICE)


@pytest.mark.parametrize("suffix", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("key", ["nvidia-35", "T4-8Q", "GRID T4-8Q"])
def test_type_with_a_hostile_suffix_is_rejected(key, suffix):
    place, reason = rejection(f'{{"{key}{suffix}": ["0000:84:00.0"]}}')
    assert reason == NO_TYPE
    assert place.isprintable()
    assert len(place) <= 27


@pytest.mark.parametrize("suffix", HOSTILE.values(), ids=HOSTILE.keys())
def test_resource_class_with_a_hostile_suffix_is_rejected(suffix):
    text = f'{{nvidia-35: {{devices: ["84:00.0"], resource-class: "CUSTOM_A{suffix}"}}}}'
    assert rejection(text) == ("nvidia-35, resource-class", NO_CLASS)


@pytest.mark.parametrize("suffix", HOSTILE.values(), ids=HOSTILE.keys())
def test_limit_with_a_hostile_suffix_is_rejected(suffix):
    text = f'{{nvidia-35: {{devices: ["84:00.0"], max-instances: "4{suffix}"}}}}'
    assert rejection(text) == ("nvidia-35, max-instances", NO_LIMIT)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("{nvidia-\uff13\uff15: ['84:00.0']}", "nvidia-??", NO_TYPE),
        ("{nvidia-35: ['\u0660\u0660\u0660\u0660:84:00.0']}", "nvidia-35, device 1", NO_DEVICE),
        (
            "{nvidia-35: {devices: ['84:00.0'], max-instances: \u0664}}",
            "nvidia-35, max-instances",
            NO_LIMIT,
        ),
        (
            "{nvidia-35: {devices: ['84:00.0'], resource-class: CUSTOM_\uff11}}",
            "nvidia-35, resource-class",
            NO_CLASS,
        ),
    ],
    ids=["type", "address", "limit", "class"],
)
def test_digits_of_other_scripts_are_rejected(text, place, reason):
    assert rejection(text) == (place, reason)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("{devices: ['84:00.0'], max-instances: 0}", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], max-instances: -1}", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], max-instances: 10000}", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], max-instances: 1.5}", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], max-instances: [1]}", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], max-instances: }", "nvidia-35, max-instances", NO_LIMIT),
        ("{devices: ['84:00.0'], resource-class: PGPU}", "nvidia-35, resource-class", NO_CLASS),
        (
            "{devices: ['84:00.0'], resource-class: custom_a}",
            "nvidia-35, resource-class",
            NO_CLASS,
        ),
        ("{devices: ['84:00.0'], resource-class: CUSTOM_}", "nvidia-35, resource-class", NO_CLASS),
        (
            "{devices: ['84:00.0'], max_instances: 4}",
            "nvidia-35",
            "unknown key max_instances; did you mean max-instances?",
        ),
        (
            "{devices: ['84:00.0'], nic-distance: PIX}",
            "nvidia-35",
            "unknown key nic-distance; "
            "expected devices, max-instances, numa-policy, resource-class",
        ),
        (
            "{devices: ['84:00.0'], framebuffer: 4}",
            "nvidia-35",
            "unknown key framebuffer; "
            "expected devices, max-instances, numa-policy, resource-class",
        ),
        ("{max-instances: 4}", "nvidia-35", NO_LONG_FORM),
        ("{}", "nvidia-35", NO_LONG_FORM),
        ("{devices: '84:00.0'}", "nvidia-35", EXPECTED_LIST),
        ("{devices: ['84:00.0', x]}", "nvidia-35, device 2", NO_DEVICE),
    ],
)
def test_invalid_long_form_is_rejected(text, place, reason):
    assert rejection(f"{{nvidia-35: {text}}}") == (place, reason)


def test_resource_class_is_no_longer_than_placement_allows():
    template = "{{nvidia-35: {{devices: ['84:00.0'], resource-class: CUSTOM_{}}}}}"
    assert read(template.format("A" * 248))[0].resource_class == "CUSTOM_" + "A" * 248
    assert rejection(template.format("A" * 249)) == ("nvidia-35, resource-class", NO_CLASS)


def test_reason_of_the_yaml_reader_is_shown_in_ascii():
    place, reason = syntax_error('{nvidia-35: "\\\u00e9"}')
    assert (place, reason) == ("line 1, column 15", "found unknown escape character '?'")


def test_invalid_device_is_identified_by_its_position():
    assert rejection("{nvidia-35: ['84:00.0', '84:00.9']}") == ("nvidia-35, device 2", NO_DEVICE)


def test_long_key_is_truncated():
    place, _ = rejection("{" + "x" * 300 + ": []}")
    assert place == "x" * 24 + "..."


def test_empty_key_is_described():
    assert rejection("{'': ['84:00.0']}") == ("an empty key", NO_TYPE)


def test_error_text_contains_kind_and_arguments():
    with pytest.raises(HostError) as error:
        mappings.OPTION.parse("#" * 100_000)
    assert str(error.value) == (
        "option-invalid: option='vgpu-device-mappings' place='the value' reason='more than 64 KiB'"
    )
    assert error.value.problem == Problem(
        ProblemKind.OPTION_INVALID,
        option="vgpu-device-mappings",
        place="the value",
        reason="more than 64 KiB",
    )


@pytest.mark.parametrize("device", ["10000:84:00.0", "00010000:84:00.0"])
@pytest.mark.parametrize("form", ["['{}']", "{{devices: ['{}']}}"], ids=["plain", "long form"])
def test_pci_domain_with_which_nova_would_not_start_is_rejected(device, form):
    with pytest.raises(HostError) as error:
        mappings.requests(mappings.OPTION.parse(f"{{nvidia-233: {form.format(device)}}}"))
    assert error.value.problem == Problem(
        ProblemKind.OPTION_INVALID,
        option="vgpu-device-mappings",
        place="nvidia-233, 10000:84:00.0",
        reason="Nova supports domains up to ffff",
    )
