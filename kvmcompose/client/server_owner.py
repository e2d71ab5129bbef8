"""Who listens: on this machine a secret is given only to a server of this user or of root."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from kvmcompose.client.errors import RefusedByServerError
from kvmcompose.effects.credentials import peer_credentials

#: Sockets of this network namespace (proc(5), "/proc/net/tcp").
_TABLES = {socket.AF_INET: Path("/proc/net/tcp"), socket.AF_INET6: Path("/proc/net/tcp6")}
_LISTEN = "0A"
_HINT = (
    "whoever holds the port would learn the token: is this the server's port? unix:/path/to/socket needs no"
    " token; --insecure gives it all the same"
)


def check_port(address: str, port: int) -> bool:
    """Whether somebody listens there. Raises RefusedByServerError when it is not this user or root alone."""
    owners = {uid for at, uid in _listeners(port) if at.is_unspecified or at == ipaddress.ip_address(address)}
    strangers = owners - {0, os.geteuid()}
    if strangers:
        named = ", ".join(str(uid) for uid in sorted(strangers))
        raise RefusedByServerError(
            f"port {port} of {address} is held by another user (uid {named}): it is not given the token",
            hint=_HINT,
        )
    return bool(owners)


def _listeners(port: int) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    for path in _TABLES.values():
        try:
            rows = path.read_text().splitlines()[1:]
        except FileNotFoundError:  # no IPv6
            continue
        except OSError as error:
            raise RefusedByServerError(
                f"cannot find out who listens on port {port}: {path}: {error.strerror}", hint=_HINT
            ) from error
        for row in rows:
            words = row.split()
            place, _, number = words[1].partition(":")
            if words[3] == _LISTEN and int(number, 16) == port:
                yield _address(place), int(words[7])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as the kernel writes it: words of 32 bits in the machine's order of bytes."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    found = ipaddress.ip_address(raw)
    return getattr(found, "ipv4_mapped", None) or found


def connect_to_own(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to a server of this user or root on this machine. Raises RefusedByServerError, OSError.

    Who listens is looked at before and after: nobody else can have had the port in between, as one that
    is held is not given to another user.
    """
    last: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        known = check_port(str(address[0]), port)
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(seconds)
            connection.connect(address)
            if not known or not check_port(str(address[0]), port):
                raise RefusedByServerError(  # noqa: TRY301 (the connection is closed below)
                    f"cannot find out who listens on port {port} of {address[0]}: it is not given the token",
                    hint=_HINT,
                )
        except OSError as error:
            connection.close()
            last = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise last or OSError(f"there is no address for {host}")


def check_socket(connection: socket.socket, path: Path) -> None:
    """Raises RefusedByServerError when another user than this one or root listens on a Unix socket."""
    _pid, uid = peer_credentials(connection)
    if uid not in (0, os.geteuid()):
        raise RefusedByServerError(
            f"{path}: another user listens there (uid {uid})",
            hint=f"if that is the server that is meant, name it: --server unix:{path}",
        )
