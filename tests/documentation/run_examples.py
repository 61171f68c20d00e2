# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of a document."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Callable, Iterator, NamedTuple

import documents
from documents import Example
from session import Session

# Where the commands below a comment run: on a simulated host, or on a booted one.
SIMULATED, BOOTED = "session", "booted"

Start = Callable[..., "AbstractContextManager[Session]"]


class Run(NamedTuple):
    """A command of a document that was run.

    Attributes:
        place: the line of the example, and the number of the command in it.
        command: the command on one line.
        shown: its output in the document.
        printed: its output now.
    """

    place: tuple[int, int]
    command: str
    shown: str
    printed: str


def run_document(text: str, where: str, start: Start) -> Iterator[Run]:
    """Run the commands of a document, and yield each as it ends.

    Args:
        text: the document.
        where: SIMULATED or BOOTED; the commands of the other kind are left out.
        start: starts a session from the options in the comment.
    """
    session: Session | None = None
    files: dict[str, str] = {}
    with ExitStack() as stack:
        for example in documents.examples(text):
            for key, value in example.comments:
                if key in (SIMULATED, BOOTED):
                    stack.close()
                    options = dict(item.split("=") for item in value.split())
                    session = stack.enter_context(start(**options)) if key == where else None
                elif key == "file":
                    files[value] = example.body
            if session is not None:
                session.files = files
                yield from _run_example(example, session)


def _run_example(example: Example, session: Session) -> Iterator[Run]:
    for key, value in example.comments:
        if key == "run":
            session.run(value)
        elif key == "host":
            session.change_host(value)
    for index, (command, shown) in enumerate(example.commands):
        if session.understands(command):
            yield Run((example.line, index), command, shown, session.run(command))


def of_the_charm(example: Example) -> list[str]:
    """Return the commands of an example that concern the charm, which must run somewhere."""
    return [command for command, _ in example.commands if Session.is_juju(command)]
