"""Command lines for OpenSSH's programs to reach a guest, and exec(2) of such a program."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from kvmcompose.core.access import GuestAccess, HostAccess
    from kvmcompose.monitor.console import Console

_SSH_PORT = 22


def destination(guest: GuestAccess) -> str:
    """Return ``user@address``. Raises KvmComposeError for a guest that cannot be reached."""
    if not guest.by_ssh:
        raise KvmComposeError(
            f"{guest.name} is not entered by SSH", hint=f"kvm-compose exec {guest.name} -- COMMAND"
        )
    if guest.address is None:
        raise KvmComposeError(
            f"no connection to {guest.name}",
            hint="it is on no network that this host reaches: set testbed_options.management to true;"
            f" kvm-compose console {guest.name} needs none, nor does exec where the guest agent runs",
        )
    return guest.address if guest.user is None else f"{guest.user}@{guest.address}"


def ssh_options(guest: GuestAccess, proxy: Sequence[str] = ()) -> list[str]:
    """Return ``-o`` options with the guest's key and host key, which ignore the user's configuration."""
    settings = dict(ssh_settings(guest, proxy))
    return ["-F", "none", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def ssh_settings(guest: GuestAccess, proxy: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield keywords of ssh_config(5) with their values.

    ``proxy`` is the command that reaches a guest which only the server reaches, without the guest's name.
    """
    if guest.through_server:
        # ssh expands tokens, then passes it to the user's shell
        yield "ProxyCommand", shlex.join([*proxy, guest.name]).replace("%", "%%")
    if guest.port != _SSH_PORT:
        yield "Port", str(guest.port)
    if guest.identity_file is not None:
        yield "IdentityFile", _path(guest.identity_file)
        yield "IdentitiesOnly", "yes"
    if guest.known_hosts is not None:
        yield "UserKnownHostsFile", _path(guest.known_hosts)
        yield "GlobalKnownHostsFile", "/dev/null"
        # up has pinned the key; without a pinned key the first one is accepted, a changed one never
        yield "StrictHostKeyChecking", "accept-new"
    if guest.host_key_alias is not None:
        yield "HostKeyAlias", guest.host_key_alias
    yield "LogLevel", "ERROR"


def stdio_command(arguments: argparse.Namespace) -> list[str]:
    """Return the command that connects its standard input and output to a guest, but for the guest's name.

    ``arguments`` are those of this command.
    """
    return list(_stdio(arguments))


def _stdio(arguments: argparse.Namespace) -> Iterator[str]:
    yield from (sys.executable, "-P", "-m", "kvmcompose", "-C", str(arguments.directory.resolve()))
    if arguments.project_name is not None:
        yield from ("--project-name", arguments.project_name)
    yield from ("ssh", "--stdio")
    for option, value in (
        ("--server", arguments.server),
        ("--token-file", arguments.token_file and str(Path(arguments.token_file).absolute())),
        ("--ca-file", arguments.ca_file and str(Path(arguments.ca_file).absolute())),
    ):
        if value is not None:
            yield from (option, value)
    if arguments.insecure:
        yield "--insecure"


def through(host: HostAccess, argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` on another testbed host, on this terminal.

    As for the server's own connections, the user's configuration of ssh applies.
    """
    options = ["-t", "-o", "LogLevel=ERROR"]
    if host.port is not None:
        options += ["-p", str(host.port)]
    if host.identity_file is not None:
        options += ["-o", f"IdentityFile={_path(host.identity_file)}", "-o", "IdentitiesOnly=yes"]
    if host.host_key is not None:
        # %H: the name under which ssh looks up the key
        options += ["-o", f"KnownHostsCommand=/bin/echo %H {host.host_key}", "-o", "UserKnownHostsFile=none"]
    options += ["-o", "StrictHostKeyChecking=yes"]
    destination = host.address if host.user is None else f"{host.user}@{host.address}"
    return ["ssh", *options, "--", destination, shlex.join(argv)]


def _path(path: str) -> str:
    """Quote a path for ssh_config(5), with tokens escaped."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def become(argv: Sequence[str], console: Console) -> NoReturn:
    """Replace this process by a command, which is printed first if verbose (``effects.process.become``)."""
    from kvmcompose.effects import process

    console.detail(f"$ {shlex.join(argv)}")
    process.become(argv)
