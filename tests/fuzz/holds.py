# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold, whatever comes in. Each function is given what the charm gave out."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from string import Formatter
from typing import Any, Iterable, Mapping, Sequence

import trees
from oslo_config import cfg, iniparser

from actions import list_vgpu_types, show_plan
from actions.dry_run import cards_after
from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import ProviderData
from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host import facts
from planning.plan import DEFAULTS, VariantDriverOptions
from state.charm_state import CharmState
from status import unit_status as wording
from status.assessment import Assessment, assess

APP = "nova-compute-nvidia-vgpu"

_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_TYPE = r"[A-Za-z][A-Za-z0-9_-]*-[0-9]{1,9}"
_CLASS = r"VGPU|CUSTOM_[A-Z0-9_]{1,248}"

# Every option that the charm ever writes into nova.conf, and the form of its value.
_OPTIONS = {
    "enabled_mdev_types": rf"{_TYPE}(?:, {_TYPE})*",
    "enabled_vgpu_types": rf"{_TYPE}(?:, {_TYPE})*",
    "device_addresses": rf"{_ADDRESS}(?:,{_ADDRESS})*",
    "mdev_class": _CLASS,
    "max_instances": r"[1-9][0-9]{0,3}",
    "report_in_placement": "true",
}
_JSON_OPTIONS = {
    "device_spec": {
        "address": _ADDRESS,
        "managed": "no",
        "live_migratable": "yes",
        "resource_class": _CLASS,
    },
    "alias": {
        "name": r"[A-Za-z0-9._-]{1,255}",
        "device_type": "type-VF",
        "vendor_id": "[0-9a-f]{4}",
        "product_id": "[0-9a-f]{4}",
        "resource_class": _CLASS,
        "live_migratable": "yes",
    },
}

# Every program that the charm ever starts, with all of its words; {root} is that of the host.
_ARCHIVED = r"(?:linux-headers-\S+|linux-modules-extra-\S+|dkms|pciutils|mdevctl)"
_NAME = r"nvidia-vgpu-ubuntu(?:-aie)?(?:-[0-9]+)?"
_FILE = r"/\S+\.deb"
_UNIT = r"nvidia-vgpu-mgr|nvidia-vgpud|nova-compute-nvidia-vgpu"
_INSTALL = r"install --no-install-recommends --allow-downgrades(?: --simulate)?"
_APT = r"apt-get -y -q -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "
_COMMANDS = (
    r"lspci -A linux-sysfs -O sysfs\.path={root}/sys/bus/pci -Dvmmn -d 10de:",
    rf"dpkg-deb --(?:field|contents) {_FILE}",
    r"dpkg --print-architecture",
    r"dpkg --force-confdef --force-confold --configure -a",
    rf"dpkg --force-remove-reinstreq --remove {_NAME}(?: {_NAME})*",
    rf"{_APT}update",
    rf"{_APT}remove {_NAME}(?: {_NAME})*",
    rf"{_APT}{_INSTALL} (?:{_ARCHIVED}(?: {_ARCHIVED})*|{_FILE}(?: {_NAME}-)*)",
    rf"{_APT}{_INSTALL} --reinstall [a-z0-9.+-]+(?: [a-z0-9.+-]+)*",
    rf"apt-cache policy {_ARCHIVED}(?: {_ARCHIVED})*",
    rf"systemctl (?:start|stop|restart|enable|disable|mask|unmask|is-active) (?:{_UNIT})",
    r"systemctl disable --now nova-compute-nvidia-vgpu",
    r"systemctl daemon-reload",
    r"systemd-run --on-active=30 systemctl reboot",
    r"modprobe (?:nvidia|nvidia-vgpu-vfio|--dry-run pci-pf-stub)",
    r"update-initramfs -u",
    rf'sh -c echo "\$0" >"\$1" {_ADDRESS} {{root}}/sys/bus/pci/drivers/nvidia/bind',
    rf"/usr/lib/nvidia/sriov-manage -[ed] {_ADDRESS}",
    rf"nvidia-smi -i {_ADDRESS} (?:-q|--gpu-reset|-mig [01]|"
    r"--query-gpu=mig\.mode\.current,mig\.mode\.pending --format=csv,noheader)",
    rf"nvidia-smi vgpu -i {_ADDRESS} (?:-s -v|-shm [01])",
    rf"nvidia-smi mig -i {_ADDRESS} (?:-lgi|-dci|-dgi|-cgi [0-9]{{1,6}} -C)",
)

_LOG_LIMIT = 600  # characters of one record
_ANSWER_LIMIT = 128 * 1024  # bytes that the kernel takes as one argument of `action-set`


def said(problem: Problem) -> None:
    """A problem is one line of `juju status`, which ends with what mends it."""
    level, text = wording.format_problem(problem, APP)
    status(level.value, text)
    if (
        problem.kind is not ProblemKind.MAPPING_INVALID
    ):  # what was expected is the mend, and varies
        template = wording._MESSAGES[problem.kind][1]
        parts = [(text, field) for text, field, _, _ in Formatter().parse(template)]
        mend = parts[-1][0] if parts[-1][1] is None else ""
        assert text.endswith(mend), text


def status(level: str, message: str) -> None:
    assert level in [known.value for known in wording.Level]
    assert 0 < len(message) <= 119, message
    assert message.isprintable(), message


def databag(bag: Mapping[str, str]) -> None:
    """The relation's data is what the principal takes, and no more than that."""
    assert set(bag) <= {"subordinate_configuration", "services", "releases-packages-map"}
    found = ProviderData.from_databag(bag)
    assert list(found.services) in ([], ["nvidia-vgpu-mgr"])
    assert all(re.fullmatch(_NAME, name) for name in found.packages)
    sections(found.sections)


def sections(found: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Sections and options of nova.conf are those that the charm knows, each of its form."""
    types = set(found) - {"devices", "pci"}
    assert all(re.fullmatch(f"(?:mdev|vgpu)_{_TYPE}", name) for name in types), types
    listed: list[str] = []
    addresses: list[str] = []
    for name, pairs in found.items():
        for option, value in pairs:
            assert (name == "pci") == (option in (*_JSON_OPTIONS, "report_in_placement"))
            if option in _JSON_OPTIONS:
                keys = json.loads(value)
                for key, word in keys.items():
                    assert re.fullmatch(_JSON_OPTIONS[option][key], word, re.ASCII), (key, word)
                # With neither, Nova would give out any virtual function of the host.
                assert option != "alias" or keys.keys() & {"resource_class", "product_id"}, value
                addresses += [keys["address"]] if "address" in keys else []
            else:
                assert re.fullmatch(_OPTIONS[option], value, re.ASCII), (option, value)
            listed += value.split(", ") if name == "devices" else []
            addresses += value.split(",") if option == "device_addresses" else []
    # Either, if it stood twice, would make nova-compute refuse to start.
    assert len(set(listed)) == len(listed)
    assert len(set(addresses)) == len(addresses)
    _is_read_back(found)


def _is_read_back(found: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Written as the principal does, `key = value` with nothing escaped, it reads the same."""
    text = "".join(
        f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
        for name, pairs in found.items()
    )
    assert len(text.splitlines()) == sum(2 + len(pairs) for pairs in found.values())
    reader = cfg.ConfigParser("nova.conf", {})  # Nova's own
    iniparser.BaseParser.parse(reader, text.splitlines(keepends=True))
    assert list(reader.sections) == list(found)
    for name, pairs in found.items():
        told: dict[str, list[str]] = {}
        for option, value in pairs:
            told.setdefault(option, []).append(value)
        assert reader.sections[name] == told


def commands(started: Iterable[Sequence[str]], root: Path) -> None:
    """What is started is known, and nothing of what came in is among its words."""
    for argv in started:
        assert not any("\0" in word for word in argv), argv
        forms = (form.replace("{root}", re.escape(str(root))) for form in _COMMANDS)
        assert any(re.fullmatch(form, " ".join(argv), re.ASCII) for form in forms), argv


def answer(text: str) -> None:
    """An action's answer is lines of printable text that fit into one argument."""
    assert all(line.isprintable() for line in text.split("\n")), text
    assert len(f"output={text}".encode()) < _ANSWER_LIMIT


def message(text: str) -> None:
    """A record of the log is one line, and no longer than somebody reads."""
    assert text.isprintable(), text
    assert len(text) <= _LOG_LIMIT, text


class Log(logging.Handler):
    """Holds every record to `message`."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> Log:
        logging.getLogger().addHandler(self)
        logging.getLogger().setLevel(logging.INFO)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        logging.getLogger().removeHandler(self)
        for text in self.texts if kind is None else ():
            message(text)


def host(
    root: Path, text: str, options: VariantDriverOptions = DEFAULTS, run: Any = None
) -> Assessment:
    """What an event publishes and says of a host, and what the actions answer, is sound."""
    found = facts.gather(root, run, count=run is not None)
    needs_software = bool(found.cards)
    situation = assess(
        root, found, CharmState(), text, needs_software=needs_software, options=options
    )
    for line in wording.unit_statuses(situation, APP):
        status(line.level.value, line.message)
    for problem in situation.problems:
        said(problem)
    sections(situation.sections)
    databag(ProviderData(sections=situation.sections).to_databag())

    def situation_of(cards: tuple[Card, ...]) -> Assessment:
        later = found._replace(cards=cards)
        return assess(
            root, later, CharmState(), text, needs_software=needs_software, options=options
        )

    outlook = situation_of(
        cards_after(found.cards, lambda cards: situation_of(cards).plan.preparation)
    )
    sections(outlook.sections)
    answer(show_plan.plan_text(situation, outlook, {}, APP))
    answer(list_vgpu_types.types_text(found.cards))
    assert json.loads(show_plan.plan_json(situation, outlook, {}, APP)).keys() == _PLAN_KEYS
    for row in json.loads(list_vgpu_types.types_json(found.cards)):
        assert row.keys() == _TYPE_KEYS
    return situation


_PLAN_KEYS = {
    "nova", "codename", "driver", "kernel", "paused", "cards", "pending_changes",
    "keeps_published", "sections", "published", "aliases", "problems", "for_other_hosts",
}  # fmt: skip
_TYPE_KEYS = {"id", "address", "name", "framebuffer", "framework", "mig_backed", "free", "maximum"}


def written(root: Path) -> None:
    """What the charm wrote on a host is for root to write, and its unit is as it always is."""
    names = (*trees.RECORDS, f"etc/systemd/system/{APP}.service", f"etc/modprobe.d/{APP}.conf")
    for path in filter(Path.exists, map(root.joinpath, names)):
        assert path.stat().st_mode & 0o022 == 0, path
        for file in path.iterdir() if path.is_dir() else [path]:
            secret = file.name in ("memory.json", "mdevs.json")
            assert file.stat().st_mode & 0o777 == (0o600 if secret else 0o644), file
