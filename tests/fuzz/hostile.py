# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Hostile input: what an attacker or a corrupted disk could give to the charm."""

from __future__ import annotations

import json
from typing import Any

import trees
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

# Each of these has broken some program: line breaks of every kind, ends of strings, options, other
# digits, and text that is special to a shell, a template, a format string or a terminal.
STRINGS = (
    "", " ", "\n", "\r", "\r\n", "\0", "\t", "\x0b", "\x1c", "\x7f", "\x85", "\xa0", "\u2028",
    "\u202e", "\ufeff", "\ud800", "\U0010ffff", "\n[DEFAULT]\ncompute_driver = x", "\x1b[2Jx",
    "\nvirt_type = qemu", "-o", "--force", "=", ":", ",", ";", "#", "'", '"', "\\", "..", "*", "[",
    "../../etc/passwd", "/dev/null", "$(reboot)", "`reboot`", "%(host)s", "%s%n", "{0}", "{app}",
    "0", "-1", "1", "35", "0x10de", "9" * 30, "9" * 5000, "1e999", "NaN", "\u00b2", "\uff13",
    "\u0661", "null", "true", "nvidia-35", "nvidia-0", "nvidia--1", "nvidia-9999999999", "GRID ",
    "T4-8Q", "GRID T4-8Q", "A100-1-5C", "10de:1eb8", "0000:84:00.0", "84:00.0", "Enabled", "[N/A]",
    "x" * 120, "x" * 300, "x" * 5000, "\u00e9" * 40,
)  # fmt: skip
_LETTERS = st.one_of(st.characters(max_codepoint=0x7F), st.characters())


def texts(max_size: int = 60) -> SearchStrategy[str]:
    """Any text: random characters, hostile strings, and both combined."""
    hostile, random = st.sampled_from(STRINGS), st.text(_LETTERS, max_size=max_size)
    return st.one_of(
        hostile, random, st.lists(st.one_of(hostile, random), max_size=4).map("".join)
    )


def names() -> SearchStrategy[str]:
    """A name of a file or the target of a link: valid text without NUL."""
    encodable = texts(20).map(lambda text: text.encode("utf-8", "ignore").decode()[:50])
    return encodable.map(lambda text: "x" + text.replace("\0", "").replace("/", ""))


def octets(max_size: int = 200) -> SearchStrategy[bytes]:
    """Any content of a file, including bytes that are not text in any encoding."""
    repeated = st.sampled_from(STRINGS).map(lambda string: string[:100] * 500)
    written = st.one_of(texts(max_size), repeated).map(encoded)
    return st.one_of(written, written, st.binary(max_size=max_size))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def numerals() -> SearchStrategy[str]:
    """A number as written in a file or by a program, or something similar."""
    odd = ("-1", "+1", " 7 ", "1_0", "0x10de", "0x030200", "1.0", "\u00b2", "\u0667", "7 MiB",
           "999999", "999999999", "9" * 5000, "N/A", "")  # fmt: skip
    return st.one_of(st.integers(0, 2000).map(str), st.sampled_from(odd), texts(8))


def type_names() -> SearchStrategy[str]:
    """A name that a driver could give to a vGPU type."""
    endings = ("T4-8Q", "A40-8Q", "L40S-8Q", "A100D-1-10C", "-1-5C", "8Q", "\xa0", "")
    return st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "GRID ", "NVIDIA ", "GRID \t"]),
        st.one_of(st.just(""), texts(8)),
        st.sampled_from(endings),
    )


def values() -> SearchStrategy[Any]:
    """Any data that JSON can represent, and some values that it should not."""
    odd = st.sampled_from([-1, 10**400, 10**9, 0.5, float("inf"), float("nan"), True, None])
    leaf = st.one_of(odd, st.integers(), texts())
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(texts(20), inner, max_size=4)
        ),
        max_leaves=8,
    )


def nearly(shape: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Data of a shape, or sometimes any other data."""
    return st.one_of(shape, shape, shape, values())


def json_files(shape: SearchStrategy[Any]) -> SearchStrategy[bytes]:
    """A JSON file: of nearly the right shape, of another shape, cut, too deep, or not JSON."""
    written = nearly(shape).map(lambda content: json.dumps(content).encode())
    cut = st.builds(lambda text, end: text[:end], written, st.integers(0, 60))
    levels = b'{"x": ' + b"[" * 1200 + b"]" * 1200 + b"}"
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, levels])
    return st.one_of(written, written, written, cut, octets(), deep)


# The option

TYPES = ("nvidia-233", "nvidia-35", "T4-8Q", "GRID T4-4Q", "A100-1-5C", "L40S-8Q")
DEVICES = ("0000:84:00.0", "84:00.0", "10de:1eb8", "10DE:2235", "41:00.4", "0000:3d:00.0")
YAML = (
    *"{}[],:-?#&*!|>'\"%@`~\\\n \t", "? ", ": ", "- ", "<<: ", "&a ", "*a", "---\n", "...\n",
    "%YAML 1.1\n", "%YAML 9.9\n", "%TAG ! tag:x,2000:\n", "!!python/object:x ", "!!binary ",
    "|\n ", ">-\n ", "\\x", "\\U0010FFFF", "\\UFFFFFFFF", "devices: ", "max-instances: ",
    "resource-class: ", "CUSTOM_X", "\n  ", "\n- ", *TYPES, *DEVICES, "{devices: [", "]}",
    "['84:00.0']", "true", "1e3", "0x10", "1_0", "12:30:45", "null",
)  # fmt: skip


def scribbles() -> SearchStrategy[str]:
    """Pieces of YAML in any order."""
    piece = st.one_of(st.sampled_from(YAML), texts(8))
    return st.lists(piece, max_size=20).map("".join)


def documents() -> SearchStrategy[str]:
    """JSON (which is also YAML) with nearly the format of the option."""
    types = st.one_of(st.sampled_from(TYPES), st.sampled_from(TYPES), texts(20))
    device = st.sampled_from(DEVICES)
    listed = st.lists(st.one_of(device, nearly(device)), max_size=4)
    long_form = st.fixed_dictionaries(
        {"devices": listed},
        optional={
            "max-instances": st.one_of(st.integers(-1, 10_000), texts(8)),
            "resource-class": st.one_of(st.sampled_from(["VGPU", "CUSTOM_X"]), texts(8)),
            "another": st.just(1),
        },
    )
    mapping = st.dictionaries(types, nearly(st.one_of(listed, long_form)), max_size=3)
    return st.builds(json.dumps, nearly(mapping), ensure_ascii=st.booleans())


def passthroughs() -> SearchStrategy[str]:
    """Any value of the option passthrough-devices that is not large."""
    names = st.one_of(st.sampled_from(["t4", "gpu", "gpu-nic", "h-1.2_x"]), texts(20))
    numbers = st.one_of(st.integers(-1, 70_000), st.sampled_from(["0x10de", "4318"]), texts(8))
    pair = st.fixed_dictionaries(
        {"vendor-id": numbers}, optional={"device-id": numbers, "vgpu-profile": texts(8)}
    )
    device = st.one_of(st.sampled_from(DEVICES), nearly(st.sampled_from(DEVICES)), pair)
    listed = st.lists(device, max_size=4)
    long_form = st.fixed_dictionaries(
        {"devices": listed},
        optional={
            "numa-policy": st.one_of(st.sampled_from(["required", "socket"]), texts(8)),
            "resource-class": st.one_of(st.just("CUSTOM_X"), texts(8)),
            "nics": listed,
            "nic-distance": st.one_of(st.sampled_from(["PIX", "NODE", "SYS"]), texts(8)),
        },
    )
    option = st.dictionaries(names, nearly(st.one_of(listed, long_form)), max_size=3)
    written = st.builds(json.dumps, nearly(option), ensure_ascii=st.booleans())
    return st.one_of(written, written, scribbles(), texts(200))


def mappings() -> SearchStrategy[str]:
    """Any value of the option that is not large; some values are valid on some host."""
    valid = [text for texts_of_host in trees.MAPPINGS.values() for text in texts_of_host]
    return st.one_of(st.sampled_from(valid), documents(), scribbles(), texts(200))


def bombs() -> SearchStrategy[str]:
    """A value that is large, deep, or large after expansion."""
    pieces = st.sampled_from([*YAML, "{a: ", "[[", "- - ", "? ? ", "a: b\n", "[], ", "84:00.0, "])
    heads = st.sampled_from(["", "{nvidia-35: [", "nvidia-35:\n", '"', "x: &x\n "])
    sizes = st.sampled_from([1000, 65_000, 70_000, 500_000])
    repeated = st.builds(
        lambda head, piece, size: head + piece * (size // len(piece)), heads, pieces, sizes
    )
    return st.one_of(repeated, st.builds(_billion_laughs, st.integers(2, 9), st.integers(1, 12)))


def _billion_laughs(width: int, levels: int) -> str:
    lines = ["a0: &a0 [" + ", ".join("x" * width) + "]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * width) + "]")
    return "\n".join(lines)
