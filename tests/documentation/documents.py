# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The examples in the documents: commands with their output, and files.

An example is a fenced block. HTML comments in front of it, which readers do not see, say where its
commands run:

    <!-- session: host=t4-pair nova=29.2.0 -->     a new unit on this simulated host
    <!-- booted: host=a40-mdev -->                 a new unit on this host, in a container
    <!-- run: juju config ... -->                  a command that readers do not see
    <!-- host: reboot -->                          something else that happens to the host
    <!-- file: mapping.yaml -->                    the block is this file

In a `console` block, lines that start with `$ ` are commands, and the lines below are what they
print. A line `...` stands for any number of lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"(?P<comments>(?:^<!--.*?-->\n)*)^```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!-- (\w+): (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """One fenced block of a document.

    Attributes:
        line: its place in the document.
        language: `console`, `yaml` and so on.
        body: its text.
        comments: what its comments say: pairs of a key and a value.
    """

    line: int
    language: str
    body: str
    comments: tuple[tuple[str, str], ...]

    @property
    def commands(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a command, on one line, and its output; empty if it is no `console`."""
        if self.language != "console":
            return ()
        pairs: list[tuple[str, str]] = []
        for part in re.split(r"^\$ ", self.body, flags=re.MULTILINE)[1:]:
            command = re.match(r"(?:.*\\\n)*.*\n", part)
            assert command is not None
            text = re.sub(r"\s*\\\n\s*", " ", command[0])
            pairs.append((text.strip(), part[command.end() :].strip("\n")))
        return tuple(pairs)


def paths() -> list[Path]:
    """Return the documents with examples."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def examples(text: str) -> Iterator[Example]:
    """Yield the examples of a document in their order."""
    for match in _BLOCK.finditer(text):
        comments = tuple(
            (key, " ".join(value.split())) for key, value in _COMMENT.findall(match["comments"])
        )
        line = text.count("\n", 0, match.start("body"))
        yield Example(line, match["language"], match["body"], comments)


def agrees(shown: str, printed: str) -> bool:
    """Tell whether an output is the one in the document, which may leave out lines."""
    lines = [re.escape(line) for line in shown.splitlines()]
    pattern = "".join(r"(?:.*\n)*" if line == r"\.\.\." else f"{line}\n" for line in lines)
    return re.fullmatch(pattern, printed + "\n" if printed else "") is not None


def with_outputs(text: str, outputs: dict[tuple[int, int], str]) -> str:
    """Return a document with other outputs, by the line of the example and the command."""

    def replace(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start("body"))
        parts = re.split(r"^(?=\$ )", match["body"], flags=re.MULTILINE)
        for index in range(1, len(parts)):
            if (line, index - 1) in outputs:
                command = re.match(r"(?:.*\\\n)*.*\n", parts[index])
                assert command is not None
                output = outputs[line, index - 1]
                parts[index] = command[0] + (f"{output}\n" if output else "")
        return match[0].replace(match["body"], "".join(parts))

    return _BLOCK.sub(replace, text)
