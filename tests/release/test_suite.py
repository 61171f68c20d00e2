# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The cloud suite as zaza and Juju read it; these tests need no cloud."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path
from typing import Any

import pytest
import yaml
from juju.client import client
from target import cloud, fleet, guests
from zaza.charm_lifecycle import deploy, test, utils

HERE = Path(__file__).parent
SUITE = HERE.parents[1] / "tests/functional"
BUNDLES = sorted(path.stem for path in (SUITE / "bundles").iterdir())
SERIES = {"focal": "20.04", "jammy": "22.04", "noble": "24.04"}
NATIVE = {"focal-ussuri", "jammy-yoga", "noble-caracal"}  # the release in Ubuntu's own archive
TRACKS = {"ussuri": "ussuri", "yoga": "yoga", "caracal": "2024.1"}
# Newer releases have no track: the development series of the charms deploys them.
DEVELOPMENT = {"epoxy", "flamingo"}
KEYS = {"charm", "channel", "num_units", "options", "to"}


@pytest.fixture(autouse=True)
def _from_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the folder in which tox runs zaza, with the test folder of the tox environments."""
    monkeypatch.chdir(repository)
    monkeypatch.setattr(utils, "base_test_dir", None)
    utils.set_base_test_dir("tests/functional")


@pytest.fixture(params=BUNDLES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bundle(name: str) -> dict[str, Any]:
    return yaml.safe_load((SUITE / f"bundles/{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def charms(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the endpoints of each charm; this charm's come from its own metadata."""
    other_charms = yaml.safe_load((HERE / "endpoints.yaml").read_text(encoding="utf-8"))
    this_charm: dict[str, Any] = {"subordinate": metadata["subordinate"], "scope": []}
    for role in ("provides", "requires"):
        this_charm[role] = {key: value["interface"] for key, value in metadata[role].items()}
        this_charm["scope"] += [key for key, value in metadata[role].items() if "scope" in value]
    return {**other_charms, metadata["name"]: this_charm}


def _role(charm: dict[str, Any], endpoint: str) -> tuple[str, str]:
    """Return whether a charm provides or requires an endpoint, and its interface."""
    for role in ("provides", "requires"):
        if endpoint in charm.get(role, {}):
            return role, charm[role][endpoint]
    raise AssertionError(f"no endpoint {endpoint}")


def test_zaza_finds_the_charm_and_every_listed_bundle(metadata):
    config = utils.get_charm_config(cached=False)
    assert config["charm_name"] == metadata["name"]
    listed = [name for key in config if key.endswith("_bundles") for name in config[key]]
    assert sorted(set(listed)) == BUNDLES
    assert set(config["smoke_bundles"]) <= set(config["gate_bundles"])


@pytest.mark.parametrize("key", ["smoke_bundles", "gate_bundles", "dev_bundles"])
def test_zaza_plans_a_model_for_each_bundle(key):
    deploys = utils.get_environment_deploys(key)
    planned = [model.bundle for environment in deploys for model in environment.model_deploys]
    assert planned == utils.get_charm_config()[key]
    assert all((Path(utils.get_bundle_dir()) / f"{bundle}.yaml").is_file() for bundle in planned)


def test_every_listed_test_class_can_be_imported_and_has_tests():
    steps = utils.get_test_steps()
    assert list(steps) == [utils.DEFAULT_MODEL_ALIAS]
    for path in steps[utils.DEFAULT_MODEL_ALIAS]:
        case = utils.get_class(path)
        assert issubclass(case, unittest.TestCase)
        assert unittest.TestLoader().loadTestsFromTestCase(case).countTestCases() > 0


def test_zaza_waits_for_a_status_that_the_charm_sets(metadata):
    expected = utils.get_charm_config()["target_deploy_status"]
    assert expected == {
        metadata["name"]: {
            "workload-status": "active",
            "workload-status-message-prefix": "Unit is ready: ",
        }
    }
    source = (SUITE.parents[1] / "src/status/unit_status.py").read_text(encoding="utf-8")
    assert 'f"Unit is ready: {' in source


def test_without_a_controller_the_suite_loads_and_fails_to_connect(tmp_path):
    program = Path(sys.executable).with_name("functest-run-suite")
    command = [str(program), "--test-directory", "tests/functional", "--bundle", "noble-caracal"]
    environment = {**os.environ, "HOME": str(tmp_path), "JUJU_DATA": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "juju.errors.JujuControllerNotFoundError: No controllers.yaml file found. "
        "python-libjuju requires a bootstrapped Juju controller."
    )


def test_without_hardware_the_guest_tests_are_skipped_with_a_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in guests.NEEDS:
        monkeypatch.delenv(variable, raising=False)
    caplog.set_level("INFO")
    test.run_unittest(guests.GuestTest, "target.guests.GuestTest")
    skipped = [line for line in caplog.messages if line.startswith("skipped ")]
    assert skipped == [
        'skipped "needs hosts with NVIDIA cards and TEST_NVIDIA_VGPU_HOST_SW (path or URL of '
        "NVIDIA's host package, nvidia-vgpu-ubuntu-*.deb); TEST_NVIDIA_VGPU_MAPPINGS "
        "(vgpu-device-mappings of one type, e.g. {T4-8Q: ['10de:1eb8']}); "
        "TEST_NVIDIA_VGPU_GUEST_IMAGE (path of a qcow2 of Ubuntu with NVIDIA's guest driver)\""
    ]
    for variable in guests.NEEDS:
        monkeypatch.setenv(variable, "set")
    assert guests.why_skipped() == ""


def test_without_a_request_the_tests_of_whole_cards_are_skipped(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in guests.WHOLE_CARD_NEEDS:
        monkeypatch.delenv(variable, raising=False)
    caplog.set_level("INFO")
    test.run_unittest(guests.WholeCardTest, "target.guests.WholeCardTest")
    (skipped,) = (line for line in caplog.messages if line.startswith("skipped "))
    assert "TEST_NVIDIA_PASSTHROUGH (passthrough-devices with one name" in skipped


def test_the_name_of_a_bundle_is_its_series_and_release(name, bundle):
    series, release = name.split("-")
    assert bundle["series"] == series
    assert bundle["default-base"] == f"ubuntu@{SERIES[series]}"
    variables = bundle["variables"]
    origin = "distro" if name in NATIVE else f"cloud:{name}"
    assert variables["openstack-origin"] == origin
    track, _, risk = variables["openstack"].partition("/")
    expected = ("latest", "edge") if release in DEVELOPMENT else (TRACKS[release], "stable")
    assert (track, risk) == expected


def test_the_bundles_differ_only_in_series_and_release(name, bundle):
    def common_part(path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        specific = (
            r"^(# OpenStack .*|  [a-z-]+: &.*|series: .*|default-base: .*|    charm: \.\./.*)\n"
        )
        return re.sub(specific, "", text, flags=re.MULTILINE)

    reference = SUITE / "bundles/jammy-caracal.yaml"
    assert common_part(SUITE / f"bundles/{name}.yaml") == common_part(reference)


def test_the_charm_is_the_one_that_make_pack_builds_for_the_base(
    name, bundle, metadata, repository
):
    base = bundle["default-base"]
    path = SUITE / "bundles" / bundle["applications"][metadata["name"]]["charm"]
    assert path.resolve() == repository / f"build/charms/{metadata['name']}_{base}-amd64.charm"
    recipe = yaml.safe_load((repository / "charmcraft.yaml").read_text(encoding="utf-8"))
    assert f"{base}:amd64" in recipe["platforms"]


def test_zaza_adds_no_charm_to_a_bundle(name):
    path = SUITE / f"bundles/{name}.yaml"
    assert deploy.should_render_local_overlay(str(path)) is False


def test_applications_have_a_channel_and_only_principals_have_machines(bundle, charms, metadata):
    for application, spec in bundle["applications"].items():
        assert spec.keys() <= KEYS
        is_this_charm = application == metadata["name"]
        charm = application if is_this_charm else spec["charm"].partition("ch:")[2]
        assert is_this_charm or re.fullmatch(r"[a-z0-9.]+/(stable|edge)", spec["channel"])
        if charms[charm].get("subordinate"):
            assert not spec.keys() & {"num_units", "to"}, application
        else:
            assert spec["num_units"] == len(spec["to"]), application


def test_every_machine_is_used_once(bundle):
    machines = [
        machine for spec in bundle["applications"].values() for machine in spec.get("to", [])
    ]
    assert sorted(machines, key=int) == list(bundle["machines"])


def test_each_relation_connects_a_provider_and_a_requirer_of_one_interface(
    bundle, charms, metadata
):
    def charm_of(application: str) -> dict[str, Any]:
        name = bundle["applications"][application]["charm"]
        return charms[metadata["name"] if name.startswith(".") else name.partition("ch:")[2]]

    relations = set()
    for ends in bundle["relations"]:
        roles, interfaces = set(), set()
        for application, endpoint in (end.split(":") for end in ends):
            role, interface = _role(charm_of(application), endpoint)
            roles.add(role)
            interfaces.add(interface)
        assert len(interfaces) == 1, ends
        assert roles == {"provides", "requires"}, ends
        relations.add(frozenset(ends))
    assert len(relations) == len(bundle["relations"])


def test_a_subordinate_has_one_principal(bundle, charms, metadata):
    """A container-scoped relation places a subordinate on a machine."""
    applications = bundle["applications"]
    for application, spec in applications.items():
        name = spec["charm"]
        charm = charms[metadata["name"] if name.startswith(".") else name.partition("ch:")[2]]
        ends = [end.split(":") for ends in bundle["relations"] for end in ends]
        scoped = [end for app, end in ends if app == application and end in charm.get("scope", ())]
        if charm.get("subordinate"):
            assert len(scoped) == 1, application


def test_all_required_endpoints_are_related(bundle, charms):
    """Each of these charms waits for every relation that endpoints.yaml lists as required."""
    related = {end for ends in bundle["relations"] for end in ends}
    for application, spec in bundle["applications"].items():
        for endpoint in charms.get(spec["charm"].partition("ch:")[2], {}).get("requires", {}):
            assert f"{application}:{endpoint}" in related


def test_the_options_of_the_bundles_are_options_of_the_charm(bundle, options, metadata):
    used = bundle["applications"][metadata["name"]]["options"]
    assert used.keys() <= options.keys()
    assert used == {"vgpu-device-mappings": "{nvidia-108: ['0000:c1:00.0']}"}


def test_statuses_include_the_subordinates_of_each_principal(monkeypatch):
    unit = {"workload-status": {"status": "active", "info": "Unit is ready"}}
    vgpu_unit = {"workload-status": {"status": "blocked", "info": "No host software"}}
    full = client.FullStatus.from_json(
        {
            "applications": {
                "nova-compute": {
                    "units": {"nova-compute/0": {**unit, "subordinates": {"vgpu/0": vgpu_unit}}}
                },
                "rabbitmq-server": {"units": {"rabbitmq-server/0": unit}},
                "vgpu": {"units": None},
            }
        }
    )
    monkeypatch.setattr(fleet.zaza.model, "get_status", lambda: full)
    assert fleet.statuses() == {"vgpu/0": ("blocked", "No host software")}


@pytest.mark.parametrize(
    ("plan", "specs"),
    [
        ({"aliases": [], "sections": {"devices": []}}, {"resources:VGPU": "1"}),
        (
            {"aliases": [], "sections": {"mdev_nvidia-233": [["mdev_class", "CUSTOM_T4"]]}},
            {"resources:CUSTOM_T4": "1"},
        ),
        (
            {"aliases": [{"name": "L40S-8Q"}], "sections": {}},
            {"pci_passthrough:alias": "L40S-8Q:1"},
        ),
    ],
    ids=["vgpu", "resource class", "vendor-specific VFIO"],
)
def test_a_flavor_requests_what_the_host_offers(plan, specs):
    assert cloud.flavor_specs(plan) == specs
