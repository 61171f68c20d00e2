# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that all output of the charm must pass, whatever its input."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from string import Formatter
from typing import Iterable, Mapping, Sequence

import trees
from oslo_config import cfg, iniparser

from actions import list_vgpu_types, show_plan, show_requests
from actions.dry_run import cards_after
from charms.nova_compute_nvidia_vgpu.v0.nova_vgpu import ProviderData
from gpu.card import Card
from gpu.problems import Problem, ProblemKind
from host import facts
from nova_compute.nova_conf import DEFAULT_OPTIONS, PciOptions
from state.charm_state import CharmState
from status import unit_status
from status.assessment import Assessment, assess
from status.inputs import Inputs
from status.messages import MESSAGES, Level

APP = "nova-compute-nvidia-vgpu"

_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]"
_TYPE = r"[A-Za-z][A-Za-z0-9_-]*-[0-9]{1,9}"
_CLASS = r"VGPU|CUSTOM_[A-Z0-9_]{1,248}"

# Every option that the charm writes into nova.conf, and the format of its value.
_OPTIONS = {
    "enabled_mdev_types": rf"{_TYPE}(?:, {_TYPE})*",
    "enabled_vgpu_types": rf"{_TYPE}(?:, {_TYPE})*",
    "device_addresses": rf"{_ADDRESS}(?:,{_ADDRESS})*",
    "mdev_class": _CLASS,
    "max_instances": r"[1-9][0-9]{0,3}",
    "report_in_placement": "true",
}
_DEVICE = {
    "address": _ADDRESS,
    "managed": "no",
    "live_migratable": "yes",
    "resource_class": _CLASS,
}
_JSON_OPTIONS = {
    "device_spec": _DEVICE,
    "passthrough_whitelist": _DEVICE,
    "alias": {
        "name": r"[A-Za-z0-9._-]{1,255}",
        "device_type": "type-(?:VF|PF|PCI)",
        "numa_policy": "required|preferred|legacy|socket",
        "vendor_id": "[0-9a-f]{4}",
        "product_id": "[0-9a-f]{4}",
        "resource_class": _CLASS,
        "live_migratable": "yes",
    },
}

# Every program that the charm starts, with all its arguments; {root} is the host's root.
_ARCHIVED = r"(?:linux-headers-\S+|linux-modules-extra-\S+|dkms|pciutils|mdevctl)"
_NAME = r"nvidia-vgpu-ubuntu(?:-aie)?(?:-[0-9]+)?"
_FILE = r"/\S+\.deb"
_SERVICE = "nova-compute-nvidia-vgpu"
_UNIT = rf"nvidia-vgpu-mgr|nvidia-vgpud|{_SERVICE}"
_WRITE = r'sh -c echo "\$0" >"\$1"'
_PCI = r"{root}/sys/bus/pci"
_INSTALL = r"install --no-install-recommends --allow-downgrades (?:--no-remove|--simulate)"
_APT = r"apt-get -y -q -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "
_COMMANDS = (
    r"lspci -Dvvv",
    r"lspci -A linux-sysfs -O sysfs\.path={root}/sys/bus/pci -Dvmmn -d 10de:",
    rf"dpkg-deb --(?:ctrl-tarfile|contents) {_FILE}",
    r"dpkg --print-architecture",
    r"dpkg --force-confdef --force-confold --configure -a",
    rf"dpkg --force-remove-reinstreq --remove {_NAME}(?: {_NAME})*",
    rf"{_APT}update",
    rf"{_APT}remove {_NAME}(?: {_NAME})*",
    rf"{_APT}{_INSTALL} (?:{_ARCHIVED}(?: {_ARCHIVED})*|{_FILE}(?: {_NAME}-)*)",
    rf"{_APT}{_INSTALL} --reinstall [a-z0-9.+-]+(?: [a-z0-9.+-]+)*",
    rf"apt-cache policy {_ARCHIVED}(?: {_ARCHIVED})*",
    rf"systemctl (?:start|stop|restart|enable|disable|mask|unmask|is-active) (?:{_UNIT})",
    rf"systemctl (?:enable|disable --now) {_SERVICE} {_SERVICE}-early",
    r"systemctl daemon-reload",
    r"systemd-run --on-active=30 systemctl reboot",
    r"modprobe (?:nvidia|nvidia-vgpu-vfio|vfio-pci|--dry-run pci-pf-stub)",
    r"update-initramfs -u",
    rf"{_WRITE} {_ADDRESS} {_PCI}/(?:drivers/nvidia/bind|drivers_probe)",
    rf"{_WRITE} {_ADDRESS} {_PCI}/devices/{_ADDRESS}/driver/unbind",
    rf"{_WRITE} (?:vfio-pci)? {_PCI}/devices/{_ADDRESS}/driver_override",
    rf"/usr/lib/nvidia/sriov-manage -[ed] {_ADDRESS}",
    rf"nvidia-smi -i {_ADDRESS} (?:-q|--gpu-reset|-mig [01]|"
    r"--query-gpu=mig\.mode\.current,mig\.mode\.pending --format=csv,noheader)",
    rf"nvidia-smi vgpu -i {_ADDRESS} (?:-s -v|-shm [01])",
    rf"nvidia-smi mig -i {_ADDRESS} (?:-lgi|-dci|-dgi|-cgi [0-9]{{1,6}} -C)",
)

_LOG_LIMIT = 600  # characters of one log record
_ANSWER_LIMIT = 128 * 1024  # bytes that the kernel accepts as one argument of `action-set`


def problem(reported: Problem) -> None:
    """A problem is one line of `juju status`, which ends with the remedy."""
    level, text = unit_status.problem_status(reported, APP)
    status(level.value, text)
    if reported.kind is not ProblemKind.OPTION_INVALID:  # its remedy depends on the mistake
        template = MESSAGES[reported.kind].template
        fields = [(text, field) for text, field, _, _ in Formatter().parse(template)]
        remedy = fields[-1][0] if fields[-1][1] is None else ""
        assert text.endswith(remedy), text


def status(level: str, message: str) -> None:
    assert level in [status_level.value for status_level in Level]
    assert 0 < len(message) <= 119, message
    assert message.isprintable(), message


def databag(bag: Mapping[str, str]) -> None:
    """The relation's data matches the schema of the principal, and has no other keys."""
    assert set(bag) <= {"subordinate_configuration", "services", "releases-packages-map"}
    data = ProviderData.from_databag(bag)
    assert list(data.services) in ([], ["nvidia-vgpu-mgr"])
    assert all(re.fullmatch(_NAME, name) for name in data.packages)
    sections(data.sections)


def sections(published: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """All sections and options of nova.conf are known, and each value has the right format."""
    types = set(published) - {"devices", "pci"}
    assert all(re.fullmatch(f"(?:mdev|vgpu)_{_TYPE}", name) for name in types), types
    listed: list[str] = []
    addresses: list[str] = []
    for name, pairs in published.items():
        for option, value in pairs:
            assert (name == "pci") == (option in (*_JSON_OPTIONS, "report_in_placement"))
            if option in _JSON_OPTIONS:
                keys = json.loads(value)
                for key, text in keys.items():
                    assert re.fullmatch(_JSON_OPTIONS[option][key], text, re.ASCII), (key, text)
                # Without either key, Nova would offer any virtual function of the host.
                assert option != "alias" or keys.keys() & {"resource_class", "product_id"}, value
                addresses += [keys["address"]] if "address" in keys else []
            else:
                assert re.fullmatch(_OPTIONS[option], value, re.ASCII), (option, value)
            listed += value.split(", ") if name == "devices" else []
            addresses += value.split(",") if option == "device_addresses" else []
    # A type or an address that is listed twice would prevent nova-compute from starting.
    assert len(set(listed)) == len(listed)
    assert len(set(addresses)) == len(addresses)
    _is_read_back(published)


def _is_read_back(published: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Nova reads the same values from the file that the principal writes without escaping."""
    text = "".join(
        f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
        for name, pairs in published.items()
    )
    assert len(text.splitlines()) == sum(2 + len(pairs) for pairs in published.values())
    reader = cfg.ConfigParser("nova.conf", {})  # Nova's parser
    iniparser.BaseParser.parse(reader, text.splitlines(keepends=True))
    assert list(reader.sections) == list(published)
    for name, pairs in published.items():
        values: dict[str, list[str]] = {}
        for option, value in pairs:
            values.setdefault(option, []).append(value)
        assert reader.sections[name] == values


def commands(started: Iterable[Sequence[str]], root: Path) -> None:
    """All started programs are known, and no input appears in their arguments."""
    for argv in started:
        assert not any("\0" in argument for argument in argv), argv
        forms = (form.replace("{root}", re.escape(str(root))) for form in _COMMANDS)
        assert any(re.fullmatch(form, " ".join(argv), re.ASCII) for form in forms), argv


def action_output(text: str) -> None:
    """The output of an action is printable lines that fit into one argument."""
    assert all(line.isprintable() for line in text.split("\n")), text
    assert len(f"output={text}".encode()) < _ANSWER_LIMIT


def log_message(text: str) -> None:
    """A log record is one line of limited length."""
    assert text.isprintable(), text
    assert len(text) <= _LOG_LIMIT, text


class Log(logging.Handler):
    """Checks every log record with `log_message`."""

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
            log_message(text)


def host(
    root: Path,
    text: str,
    options: PciOptions = DEFAULT_OPTIONS,
    *,
    passthrough: str = "",
    count: bool = False,
) -> Assessment:
    """All that an event publishes and reports, and the outputs of actions, pass the checks."""
    config = {
        "vgpu-device-mappings": text,
        "passthrough-devices": passthrough,
        "report-in-placement": options.report_in_placement,
        "live-migratable": options.live_migratable,
    }
    inputs = Inputs.read(config, CharmState())
    gathered = facts.gather(root, inputs.whole_devices, count=count)
    assessment = assess(root, gathered, CharmState(), inputs)
    for line in unit_status.unit_statuses(assessment, APP, time.time()):
        status(line.level.value, line.message)
    for reported in assessment.problems:
        problem(reported)
    sections(assessment.sections)
    databag(ProviderData(sections=assessment.sections).to_databag())

    def assessment_of(cards: tuple[Card, ...]) -> Assessment:
        return assess(root, gathered._replace(cards=cards), CharmState(), inputs)

    predicted = assessment_of(
        cards_after(gathered.cards, lambda cards: assessment_of(cards).plan.preparation)
    )
    sections(predicted.sections)
    action_output(show_plan.plan_text(assessment, predicted, {}, APP))
    action_output(list_vgpu_types.types_text(gathered.cards))
    action_output(show_requests.requests_text(assessment, "all"))
    assert json.loads(show_plan.plan_json(assessment, predicted, {}, APP)).keys() == _PLAN_KEYS
    for row in json.loads(list_vgpu_types.types_json(gathered.cards)):
        assert row.keys() == _TYPE_KEYS
    return assessment


_PLAN_KEYS = {
    "nova", "codename", "driver", "kernel", "paused", "trial", "cards", "whole_cards", "hardware",
    "pending_changes",
    "keeps_published", "sections", "published", "aliases", "problems", "for_other_hosts",
}  # fmt: skip
_TYPE_KEYS = {"id", "address", "name", "framebuffer", "framework", "mig_backed", "free", "maximum"}


def files(root: Path) -> None:
    """Only root can write the files that the charm wrote, and their modes are as expected."""
    names = (*trees.RECORDS, f"etc/systemd/system/{APP}.service", f"etc/modprobe.d/{APP}.conf")
    for path in filter(Path.exists, map(root.joinpath, names)):
        assert path.stat().st_mode & 0o022 == 0, path
        for file in path.iterdir() if path.is_dir() else [path]:
            secret = file.name in ("state.json", "state-copy.json", "mdevs.json")
            assert file.stat().st_mode & 0o777 == (0o600 if secret else 0o644), file
