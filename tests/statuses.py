# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the table of statuses into the README, from the messages of the charm."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "lib")]

from status.messages import MESSAGES, Level  # noqa: E402  # the charm is found first

START, END = "<!-- statuses: written by the tests -->\n", "<!-- end of statuses -->\n"
HEADINGS = {
    Level.BLOCKED: "Blocked: the unit needs your action",
    Level.WAITING: "Waiting: the unit continues when the cause is gone",
    Level.MAINTENANCE: "Maintenance: the unit is paused",
    Level.ACTIVE: "Notes on a unit that is ready, and in `show-plan`",
}


def insert(readme: str) -> str:
    """Return the README with the present table."""
    before, rest = readme.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


def table() -> str:
    """Return the messages by level, in Markdown."""
    blocks = []
    for level, heading in HEADINGS.items():
        rows = [f"### {heading}\n", "| status | cause |", "|---|---|"]
        rows += [
            f"| `{_shown(message.template)}` | {message.cause} |"
            for message in MESSAGES.values()
            if message.level is level
        ]
        blocks.append("\n".join(rows) + "\n")
    return "\n".join(blocks)


def _shown(template: str) -> str:
    """Return a template with its arguments in capitals."""
    text = re.sub(r"\{([a-z_]+)\}", lambda match: match[1].upper(), template)
    return text.replace("{{", "{").replace("}}", "}")


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(insert(path.read_text(encoding="utf-8")), encoding="utf-8")
