# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The suite for a cloud, as zaza and Juju read it; no cloud is needed for that."""

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
NATIVE = {"focal-ussuri", "jammy-yoga", "noble-caracal"}  # what the Ubuntu itself brings
TRACKS = {"ussuri": "ussuri", "yoga": "yoga", "caracal": "2024.1"}
# Newer releases have no track of their own: the charms' development series deploys them.
DEVELOPMENT = {"epoxy", "flamingo"}
KEYS = {"charm", "channel", "num_units", "options", "to"}


@pytest.fixture(autouse=True)
def _from_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where tox does, and let zaza look where the tox environments tell it to."""
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
    """Return what each charm offers and asks for, ours from its own metadata."""
    known = yaml.safe_load((HERE / "endpoints.yaml").read_text(encoding="utf-8"))
    ours: dict[str, Any] = {"subordinate": metadata["subordinate"], "scope": []}
    for role in ("provides", "requires"):
        ours[role] = {key: value["interface"] for key, value in metadata[role].items()}
        ours["scope"] += [key for key, value in metadata[role].items() if "scope" in value]
    return {**known, metadata["name"]: ours}


def _role(charm: dict[str, Any], endpoint: str) -> tuple[str, str]:
    """Return whether a charm provides or requires an endpoint, and of which interface."""
    for role in ("provides", "requires"):
        if endpoint in charm.get(role, {}):
            return role, charm[role][endpoint]
    raise AssertionError(f"no endpoint {endpoint}")


def test_zaza_finds_the_charm_and_every_bundle_that_is_named(metadata):
    config = utils.get_charm_config(cached=False)
    assert config["charm_name"] == metadata["name"]
    named = [name for key in config if key.endswith("_bundles") for name in config[key]]
    assert sorted(set(named)) == BUNDLES
    assert set(config["smoke_bundles"]) <= set(config["gate_bundles"])


@pytest.mark.parametrize("key", ["smoke_bundles", "gate_bundles", "dev_bundles"])
def test_zaza_plans_a_model_for_each_bundle(key):
    deploys = utils.get_environment_deploys(key)
    planned = [model.bundle for found in deploys for model in found.model_deploys]
    assert planned == utils.get_charm_config()[key]
    assert all((Path(utils.get_bundle_dir()) / f"{found}.yaml").is_file() for found in planned)


def test_every_test_that_is_named_can_be_imported_and_has_tests():
    steps = utils.get_test_steps()
    assert list(steps) == [utils.DEFAULT_MODEL_ALIAS]
    for path in steps[utils.DEFAULT_MODEL_ALIAS]:
        case = utils.get_class(path)
        assert issubclass(case, unittest.TestCase)
        assert unittest.TestLoader().loadTestsFromTestCase(case).countTestCases() > 0


def test_the_status_that_is_waited_for_is_one_that_the_charm_shows(metadata):
    wanted = utils.get_charm_config()["target_deploy_status"]
    assert wanted == {
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


def test_without_hardware_the_guests_are_left_out_and_it_is_said_what_they_need(
    tmp_path, monkeypatch, caplog
):
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
        monkeypatch.setenv(variable, "named")
    assert guests.why_not() == ""


def test_the_names_of_a_bundle_say_its_series_and_release(name, bundle):
    series, release = name.split("-")
    assert bundle["series"] == series
    assert bundle["default-base"] == f"ubuntu@{SERIES[series]}"
    variables = bundle["variables"]
    origin = "distro" if name in NATIVE else f"cloud:{name}"
    assert variables["openstack-origin"] == origin
    track, _, risk = variables["openstack"].partition("/")
    expected = ("latest", "edge") if release in DEVELOPMENT else (TRACKS[release], "stable")
    assert (track, risk) == expected


def test_the_bundles_differ_in_nothing_but_what_they_are_named_for(name, bundle):
    def rest(path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        own = r"^(# OpenStack .*|  [a-z-]+: &.*|series: .*|default-base: .*|    charm: \.\./.*)\n"
        return re.sub(own, "", text, flags=re.MULTILINE)

    assert rest(SUITE / f"bundles/{name}.yaml") == rest(SUITE / "bundles/jammy-caracal.yaml")


def test_the_charm_is_what_make_pack_makes_for_the_base(name, bundle, metadata, repository):
    base = bundle["default-base"]
    path = SUITE / "bundles" / bundle["applications"][metadata["name"]]["charm"]
    assert path.resolve() == repository / f"build/charms/{metadata['name']}_{base}-amd64.charm"
    recipe = yaml.safe_load((repository / "charmcraft.yaml").read_text(encoding="utf-8"))
    assert f"{base}:amd64" in recipe["platforms"]


def test_zaza_puts_no_charm_of_its_own_into_a_bundle(name):
    path = SUITE / f"bundles/{name}.yaml"
    assert deploy.should_render_local_overlay(str(path)) is False


def test_applications_name_a_channel_and_subordinates_no_place(bundle, charms, metadata):
    for application, spec in bundle["applications"].items():
        assert spec.keys() <= KEYS
        own = application == metadata["name"]
        charm = application if own else spec["charm"].partition("ch:")[2]
        assert own or re.fullmatch(r"[a-z0-9.]+/(stable|edge)", spec["channel"])
        if charms[charm].get("subordinate"):
            assert not spec.keys() & {"num_units", "to"}, application
        else:
            assert spec["num_units"] == len(spec["to"]), application


def test_every_machine_is_used_once(bundle):
    places = [place for spec in bundle["applications"].values() for place in spec.get("to", [])]
    assert sorted(places, key=int) == list(bundle["machines"])


def test_each_relation_joins_a_provider_and_a_requirer_of_one_interface(bundle, charms, metadata):
    def charm_of(application: str) -> dict[str, Any]:
        name = bundle["applications"][application]["charm"]
        return charms[metadata["name"] if name.startswith(".") else name.partition("ch:")[2]]

    seen = set()
    for ends in bundle["relations"]:
        (first, one), (second, other) = (end.split(":") for end in ends)
        one_role, one_interface = _role(charm_of(first), one)
        other_role, other_interface = _role(charm_of(second), other)
        assert one_interface == other_interface, ends
        assert {one_role, other_role} == {"provides", "requires"}, ends
        seen.add(frozenset(ends))
    assert len(seen) == len(bundle["relations"])


def test_a_subordinate_has_one_principal(bundle, charms, metadata):
    """A relation of its container is what gives it a machine."""
    applications = bundle["applications"]
    for application, spec in applications.items():
        name = spec["charm"]
        charm = charms[metadata["name"] if name.startswith(".") else name.partition("ch:")[2]]
        ends = [end.split(":") for ends in bundle["relations"] for end in ends]
        held = [end for app, end in ends if app == application and end in charm.get("scope", ())]
        if charm.get("subordinate"):
            assert len(held) == 1, application


def test_all_that_the_applications_need_is_related(bundle, charms):
    """Each of these charms waits for every relation that it requires here."""
    related = {end for ends in bundle["relations"] for end in ends}
    for application, spec in bundle["applications"].items():
        for endpoint in charms.get(spec["charm"].partition("ch:")[2], {}).get("requires", {}):
            assert f"{application}:{endpoint}" in related


def test_the_options_of_the_bundles_are_options_of_the_charm(bundle, options, metadata):
    given = bundle["applications"][metadata["name"]]["options"]
    assert given.keys() <= options.keys()
    assert given == {"vgpu-device-mappings": "{nvidia-108: ['0000:c1:00.0']}"}


def test_subordinates_are_found_below_their_principals(monkeypatch):
    unit = {"workload-status": {"status": "active", "info": "Unit is ready"}}
    ours = {"workload-status": {"status": "blocked", "info": "No host software"}}
    full = client.FullStatus.from_json(
        {
            "applications": {
                "nova-compute": {
                    "units": {"nova-compute/0": {**unit, "subordinates": {"vgpu/0": ours}}}
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
def test_a_flavor_asks_for_what_the_host_offers(plan, specs):
    assert cloud.flavor_specs(plan) == specs
