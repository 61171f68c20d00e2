# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the documents, drawn from text: graphs, and examples as a terminal shows them.

Each picture names the digest of its source, so a test can tell that it is up to date without the
program that draws it.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Iterator

import documents
from documents import ROOT

FOLDER = ROOT / "docs/pictures"
_TERMINAL = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>{styles} text {{ font-family: monospace; font-size: {char_height}px; }}</style>
<rect fill="#171717" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g>{matrix}</g>
</g>
</svg>
"""


def sources() -> Iterator[tuple[Path, str]]:
    """Yield each picture with the text that it is drawn from."""
    for path in sorted(FOLDER.glob("*.dot")):
        yield path.with_suffix(".svg"), path.read_text(encoding="utf-8")
    for path in documents.paths():
        for example in documents.examples(path.read_text(encoding="utf-8")):
            for key, name in example.comments:
                if key == "picture":
                    yield FOLDER / f"{name}.svg", example.body


def is_current(picture: Path, source: str) -> bool:
    """Tell whether a picture was drawn from this text."""
    return picture.exists() and _mark(source) in picture.read_text(encoding="utf-8")


def draw() -> Iterator[Path]:
    """Draw the pictures that are not up to date, and yield them."""
    for picture, source in sources():
        if not is_current(picture, source):
            is_graph = picture.with_suffix(".dot").exists()
            svg = _draw_graph(source) if is_graph else _draw_terminal(source)
            picture.write_text(f"{svg.rstrip()}\n{_mark(source)}\n", encoding="utf-8")
            yield picture


def _mark(source: str) -> str:
    return f"<!-- drawn from {hashlib.sha256(source.encode()).hexdigest()} -->"


def _draw_graph(source: str) -> str:
    result = subprocess.run(
        ["dot", "-Tsvg"], input=source, stdout=subprocess.PIPE, text=True, check=True
    )
    return result.stdout[result.stdout.index("<svg") :]


def _draw_terminal(text: str) -> str:
    import io

    from rich.console import Console
    from rich.text import Text

    lines = text.rstrip("\n").splitlines()
    width = max(map(len, lines))
    console = Console(record=True, width=width, file=io.StringIO(), legacy_windows=False)
    for line in lines:
        style = "bold green" if line.startswith("$ ") else ""
        console.print(Text(line, style=style), crop=False, overflow="ignore", no_wrap=True)
    return console.export_svg(title="", code_format=_TERMINAL, unique_id="terminal")
