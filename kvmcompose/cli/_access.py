"""How OpenSSH's programs are told to reach a guest, and how one of them takes over from us."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from kvmcompose.core.deployment import GuestAccess, HostAccess
    from kvmcompose.monitor.console import Console

_SSH_PORT = 22


def destination(guest: GuestAccess) -> str:
    """``user@address``. Raises KvmComposeError for a guest that no connection leads to."""
    if guest.address is None:
        raise KvmComposeError(
            f"no connection to {guest.name}",
            hint=f"it is on no bridge that this host reaches; kvm-compose console {guest.name} needs none",
        )
    return guest.address if guest.user is None else f"{guest.user}@{guest.address}"


def ssh_options(guest: GuestAccess) -> list[str]:
    """The ``-o`` options: this guest's key and host key, and nothing of the user's own configuration."""
    settings = dict(ssh_settings(guest))
    return ["-F", "none", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def ssh_settings(guest: GuestAccess) -> Iterator[tuple[str, str]]:
    """Keywords of ssh_config(5) with their values."""
    if guest.port != _SSH_PORT:
        yield "Port", str(guest.port)
    if guest.identity_file is not None:
        yield "IdentityFile", _path(guest.identity_file)
        yield "IdentitiesOnly", "yes"
    if guest.known_hosts is not None:
        yield "UserKnownHostsFile", _path(guest.known_hosts)
        yield "GlobalKnownHostsFile", "/dev/null"
        # up has pinned the key; one that it could not see yet is taken at first sight, another never
        yield "StrictHostKeyChecking", "accept-new"
    if guest.host_key_alias is not None:
        yield "HostKeyAlias", guest.host_key_alias
    yield "LogLevel", "ERROR"


def through(host: HostAccess, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` on another testbed host, with this terminal as its own.

    As when the server goes there, the user's own configuration of ssh counts.
    """
    options = ["-t", "-o", "LogLevel=ERROR"]
    if host.port is not None:
        options += ["-p", str(host.port)]
    if host.identity_file is not None:
        options += ["-o", f"IdentityFile={_path(host.identity_file)}", "-o", "IdentitiesOnly=yes"]
    if host.host_key is not None:
        # %H: whatever name the key is looked up under
        options += ["-o", f"KnownHostsCommand=/bin/echo %H {host.host_key}", "-o", "UserKnownHostsFile=none"]
    options += ["-o", "StrictHostKeyChecking=yes"]
    destination = host.address if host.user is None else f"{host.user}@{host.address}"
    return ["ssh", *options, "--", destination, shlex.join(argv)]


def _path(path: str) -> str:
    """A path as ssh_config(5) reads it: quoted, and no token in it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def become(argv: Sequence[str], console: Console) -> NoReturn:
    """See ``effects.process.become``; shows the command first."""
    from kvmcompose.effects import process

    console.detail(f"$ {shlex.join(argv)}")
    process.become(argv)
