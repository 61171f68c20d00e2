# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The OpenStack client's own parser, without a cloud."""

from __future__ import annotations

import shlex
import warnings
from types import SimpleNamespace

from cliff.commandmanager import CommandManager

_GROUPS = (
    *("openstack.common", "openstack.compute.v2", "openstack.identity.v3", "openstack.image.v2"),
    *("openstack.network.v2", "openstack.placement.v1"),
)
_COMMANDS = CommandManager("openstack.cli")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a command whose module warns would be left out
    for _group in _GROUPS:
        _COMMANDS.load_commands(_group)


def parse(command: str) -> None:
    """Parse a command as the client does.

    Raises:
        ValueError: the client has no such command.
        SystemExit: the command does not take these arguments.
    """
    words = shlex.split(command, comments=True)
    assert words[0] == "openstack", command
    factory, name, arguments = _COMMANDS.find_command(words[1:])
    app = SimpleNamespace(command_manager=_COMMANDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client's own
        factory(app, None, cmd_name=name).get_parser(name).parse_args(arguments)
