# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The deployed OpenStack from the administrator's side, and a guest on it."""

from __future__ import annotations

import base64
import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import openstack.connection
import openstack.exceptions
import yaml
import zaza.model

from target import fleet

NAME = "vgpu-test"
PROGRAM = Path(__file__).with_name("vector_add.py")
PROGRAM_PATH = "/usr/local/bin/vgpu-test"
GUEST_TIMEOUT = 1200  # seconds for a guest to boot and compute
_LINE = re.compile(r"vgpu-test (\S+) (passed|failed): ([^\r\n]+)")
# The test reads the console, which needs no network.
_UNIT = f"""\
[Unit]
Description=Add vectors on the vGPU
After=nvidia-gridd.service
[Service]
Type=oneshot
ExecStart={PROGRAM_PATH}
StandardOutput=journal+console
[Install]
WantedBy=multi-user.target
"""


class Verdict(NamedTuple):
    """The result that a guest printed for one of its boots."""

    boot: str
    result: str
    text: str


def connect() -> openstack.connection.Connection:
    """Connect to keystone with the password that its charm has generated."""
    address = zaza.model.get_lead_unit_ip("keystone")
    password = zaza.model.run_on_leader("keystone", "leader-get admin_passwd")["Stdout"].strip()
    return openstack.connection.Connection(
        auth={
            "auth_url": f"http://{address}:5000/v3",
            "username": "admin",
            "password": password,
            "project_name": "admin",
            "user_domain_name": "admin_domain",
            "project_domain_name": "admin_domain",
        },
        region_name="RegionOne",
        identity_api_version="3",
    )


def flavor_specs(plan: dict[str, Any]) -> dict[str, str]:
    """Return the flavor properties that request one vGPU of a host's plan."""
    if plan["aliases"]:
        return {"pci_passthrough:alias": f"{plan['aliases'][0]['name']}:1"}
    classes = [
        value
        for section in plan["sections"].values()
        for option, value in section
        if option == "mdev_class"
    ]
    return {f"resources:{classes[0] if classes else 'VGPU'}": "1"}


def user_data() -> str:
    """Return the user data that makes a guest add vectors at each boot, and print the result."""
    files = [
        {
            "path": PROGRAM_PATH,
            "permissions": "0755",
            "content": PROGRAM.read_text(encoding="utf-8"),
        },
        {"path": f"/etc/systemd/system/{NAME}.service", "content": _UNIT},
    ]
    steps = [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", f"{NAME}.service"]]
    return "#cloud-config\n" + yaml.safe_dump({"write_files": files, "runcmd": steps})


def verdicts(console: str) -> list[Verdict]:
    """Return the results in the text of a console."""
    return [Verdict(*groups) for groups in _LINE.findall(console)]


class Guest:
    """A server with a vGPU and without a network, with its image and its flavor."""

    def __init__(
        self, cloud: openstack.connection.Connection, stack: contextlib.ExitStack
    ) -> None:
        self._cloud = cloud
        self._stack = stack
        self._server: Any = None

    def create(self, image: str, specs: dict[str, str]) -> None:
        """Create the server on a host that offers what the flavor requests."""
        cloud, stack = self._cloud, self._stack
        stored = cloud.create_image(
            NAME, filename=image, disk_format="qcow2", container_format="bare", wait=True
        )
        stack.callback(cloud.delete_image, stored.id)
        flavor = cloud.create_flavor(NAME, ram=8192, vcpus=2, disk=40)
        stack.callback(cloud.delete_flavor, flavor.id)
        cloud.set_flavor_specs(flavor.id, specs)
        self._server = cloud.compute.create_server(
            name=NAME,
            image_id=stored.id,
            flavor_id=flavor.id,
            networks="none",
            config_drive=True,
            user_data=base64.b64encode(user_data().encode()).decode(),
        )
        stack.callback(cloud.delete_server, self._server.id, wait=True, timeout=GUEST_TIMEOUT)
        cloud.compute.wait_for_server(self._server, wait=GUEST_TIMEOUT)

    @property
    def host(self) -> str:
        """The compute host's name in Nova."""
        return str(self._cloud.compute.get_server(self._server.id).compute_host)

    def start_again(self) -> None:
        """Start the server whatever state Nova assumes; Nova may still be updating the state."""

        def is_started() -> bool:
            with contextlib.suppress(openstack.exceptions.ConflictException):
                self._cloud.compute.reboot_server(self._server, "HARD")
                return True
            return False

        fleet.await_until(is_started, "Nova starts the guest", GUEST_TIMEOUT)
        self._cloud.compute.wait_for_server(self._server, wait=GUEST_TIMEOUT)

    def await_verdict(self, *, after: str = "") -> Verdict:
        """Wait for the result of a boot other than an earlier one, and return it."""

        def results() -> list[Verdict]:
            console = self._cloud.compute.get_server_console_output(self._server)["output"]
            return [verdict for verdict in verdicts(console) if verdict.boot != after]

        return fleet.await_until(results, "the guest adds vectors", GUEST_TIMEOUT)[-1]
