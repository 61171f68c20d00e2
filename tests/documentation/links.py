# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Checks the links of the built pages and of the README, without a network.

A link to a page, a heading or a file must have a target. Addresses of other sites are not visited.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


class _Page(HTMLParser):
    """The links of a page, and the places in it that links can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name == "id" and value:
                self.places.add(value)


def broken_links(folder: Path) -> list[str]:
    """Return the links of built pages that have no target."""
    pages = {path: _Page(path) for path in sorted(folder.rglob("*.html"))}
    return [
        f"{path.relative_to(folder)}: {link}"
        for path, page in pages.items()
        for link in sorted(page.links)
        if not _has_target(path, link, pages)
    ]


def _has_target(page: Path, link: str, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.suffix != ".html" or not parts.fragment:
        return target.exists()
    return target in pages and unquote(parts.fragment) in pages[target].places


def broken_links_of_markdown(path: Path) -> list[str]:
    """Return the links to files of a document that is read as it is, such as the README."""
    links = _MARKDOWN_LINK.findall(path.read_text(encoding="utf-8"))
    return [
        f"{path.name}: {link}"
        for link in links
        if not urlsplit(link).scheme and not (path.parent / unquote(urlsplit(link).path)).exists()
    ]


def main(folder: Path) -> int:
    """Print the broken links, and return the exit code."""
    documents = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    broken = broken_links(folder.resolve())
    broken += [link for path in documents for link in broken_links_of_markdown(path)]
    for link in broken:
        print(f"no target: {link}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
