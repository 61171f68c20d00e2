# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Pack the charm reproducibly with charmcraft, for any base.

Run this with `make pack`. It packs each platform of charmcraft.yaml in a separate copy of the
files that git tracks: charmcraft does not notice that an earlier build was for another base, and
would ship that build. charmcraft takes the base from os-release, so this program gives it a file
for the base. The charm contains the files that charmcraft packed, in an archive with fixed order,
times and modes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import yaml

import interpreters

REPOSITORY = Path(__file__).parents[1]
BUILD = REPOSITORY / "build/pack"
CHARMS = REPOSITORY / "build/charms"
LIMIT = 2_000_000  # bytes
_OS_RELEASE = 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="{base}"\n'
_STARTED = re.compile(rb"^charmcraft-started-at: .*$", re.MULTILINE)
_RUNS = 9


def main() -> int:
    """Pack the platforms that the arguments name and print a report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=CHARMS, help="folder for the charms")
    parser.add_argument("platforms", nargs="*", help="default: all of charmcraft.yaml")
    arguments = parser.parse_args()
    charmcraft = yaml.safe_load((REPOSITORY / "charmcraft.yaml").read_text(encoding="utf-8"))
    platforms = arguments.platforms or list(charmcraft["platforms"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        charms = list(pool.map(lambda platform: pack(platform, arguments.output), platforms))
    report(charms)
    return 0


def pack(platform: str, output: Path) -> Path:
    """Pack one platform and return the charm.

    Raises:
        SystemExit: charmcraft failed, or the charm is not for that platform.
    """
    base = platform.split("@")[1].split(":")[0]
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        tree, home = Path(folder) / "tree", Path(folder) / "home"
        copy_sources(tree)
        home.mkdir(mode=0o700)
        (home / "os-release").write_text(_OS_RELEASE.format(base=base), encoding="utf-8")
        command = [sys.executable, "-m", "charmcraft", "pack", "--destructive-mode"]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "UNIXCONFDIR": str(home),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
        }
        result = subprocess.run(
            [*command, "--platform", platform],
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        packed = list(tree.glob("*.charm"))
        if result.returncode != 0 or len(packed) != 1:
            raise SystemExit(f"{platform}: charmcraft failed\n{result.stdout}")
        charm = repack(packed[0], output / packed[0].name, commit_time())
    check(charm, platform)
    return charm


def copy_sources(tree: Path) -> None:
    """Copy the files that git tracks or would add, and write the file `version`."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / name)
    (tree / "version").write_text(version() + "\n", encoding="utf-8")


def version() -> str:
    """Return the charm's version: last tag, commits since, and whether the tree is modified."""
    return _git("describe", "--always", "--dirty").strip()


def commit_time() -> int:
    """Return the time to use for all times in a charm, in seconds since the epoch."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def repack(source: Path, target: Path, seconds: int) -> Path:
    """Write a charm's files into an archive that depends only on these files."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(partial, "w") as new:
        for name in sorted(old.namelist()):
            is_program = old.getinfo(name).external_attr >> 16 & stat.S_IXUSR
            data = old.read(name)
            if name == "manifest.yaml":
                started = f"charmcraft-started-at: '{moment:%Y-%m-%dT%H:%M:%S}'"
                data = _STARTED.sub(started.encode(), data)
            entry = zipfile.ZipInfo(name, moment.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, whose modes follow
            entry.external_attr = (stat.S_IFREG | (0o755 if is_program else 0o644)) << 16
            new.writestr(entry, data, compresslevel=9)
    partial.replace(target)
    return target


def check(charm: Path, platform: str) -> None:
    """Check that a charm contains what is locked for its base, and nothing compiled.

    Raises:
        SystemExit: the check failed.
    """
    base, architecture = platform.split("@")[1].split(":")
    with zipfile.ZipFile(charm) as archive:
        names = archive.namelist()
        manifest = yaml.safe_load(archive.read("manifest.yaml"))
        wheels = [
            archive.read(name).decode()
            for name in names
            if re.fullmatch(r"venv/PyYAML-[^/]*\.dist-info/WHEEL", name, re.IGNORECASE)
        ]
    python = interpreters.bases()[base]
    locked = (REPOSITORY / f"requirements/python{python}.txt").read_text(encoding="utf-8")
    wanted = {line.split()[0] for line in locked.splitlines() if not line.startswith("#")}
    shipped = {
        f"{match[1].lower().replace('_', '-')}=={match[2]}"
        for name in names
        if (match := re.fullmatch(r"venv/([^/]+)-([^/]+)\.dist-info/METADATA", name))
    }
    problems = []
    if manifest["bases"] != [{"name": "ubuntu", "channel": base, "architectures": [architecture]}]:
        problems.append(f"its manifest lists {manifest['bases']}")
    if shipped != wanted:
        problems.append(f"these packages differ from the lock: {sorted(shipped ^ wanted)}")
    if [f"Tag: cp{python.replace('.', '')}-" in text for text in wheels] != [True]:
        problems.append(f"its dependencies are not those of Python {python}")
    if compiled := [name for name in names if name.endswith((".so", ".pyc"))]:
        problems.append(f"it ships {compiled}")
    if charm.stat().st_size > LIMIT:
        problems.append(f"it has {charm.stat().st_size} bytes")
    if problems:
        charm.unlink()
        raise SystemExit(f"{charm.name}: {'; '.join(problems)}")


def report(charms: list[Path]) -> None:
    """Print the size and the start-up time of each charm."""
    rows = [("CHARM", "KiB", "START-UP", "")]
    timed: dict[str, tuple[str, str]] = {}
    for charm in charms:
        base = charm.name.split("@")[1].split("-")[0]
        if base not in timed:
            timed[base] = start_up(charm, interpreters.for_base(base))
        rows.append((charm.name, f"{charm.stat().st_size / 1024:.0f}", *timed[base]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
    print(f"\nVersion {version()}. Start-up is the time to import all modules, best of {_RUNS}.")


def start_up(charm: Path, python: Path | None) -> tuple[str, str]:
    """Return how long an interpreter takes to import the charm, and its version."""
    if python is None:
        return "-", "this Python is not installed"
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        with zipfile.ZipFile(charm) as archive:
            archive.extractall(folder)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "lib:venv:src"}
        command = [python, "-S", "-W", "ignore", "-c", "import charm"]
        seconds = []
        for _ in range(_RUNS + 1):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, env=environment, check=True)
            seconds.append(time.perf_counter() - start)
    text = subprocess.run([python, "--version"], check=True, stdout=subprocess.PIPE, text=True)
    return f"{1000 * min(seconds[1:]):.0f} ms", text.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
