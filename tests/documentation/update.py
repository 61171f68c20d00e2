# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Writes into the documents what is made from the code: outputs, tables and pictures."""

from __future__ import annotations

import documents
import pictures
import run_examples
import simulated_host
import tables


def main() -> None:
    """Update all documents, and print what changed."""
    updates = 0
    for path in documents.paths():
        text = path.read_text(encoding="utf-8")
        updated = with_outputs(tables.insert(text))
        if updated != text:
            path.write_text(updated, encoding="utf-8")
            print(f"updated {documents.name(path)}")
            updates += 1
    for picture in pictures.draw():
        print(f"drew {documents.name(picture)}")
        updates += 1
    if not updates:
        print("nothing to update")


def with_outputs(text: str) -> str:
    outputs = {
        done.place: done.printed
        for done in run_examples.run_document(text, run_examples.SIMULATED, simulated_host.start)
        if not documents.agrees(done.shown, done.printed)
    }
    return documents.with_outputs(text, outputs)


if __name__ == "__main__":
    main()
