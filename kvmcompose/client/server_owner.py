"""Checks to whom a server on this machine belongs: secrets are sent only to this user's and root's."""

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
_HINT = "is this the server's port? unix:/path/to/socket needs no token; --insecure sends it in any case"


def check_port(address: str, port: int) -> bool:
    """Return whether a process listens on a port. Raises RefusedByServerError for another user's."""
    owners = {uid for at, uid in _listeners(port) if at.is_unspecified or at == ipaddress.ip_address(address)}
    strangers = owners - {0, os.geteuid()}
    if strangers:
        named = ", ".join(str(uid) for uid in sorted(strangers))
        raise RefusedByServerError(
            f"port {port} of {address} belongs to another user (uid {named}): refusing to send the token",
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
                f"cannot determine who listens on port {port}: {path}: {error.strerror}", hint=_HINT
            ) from error
        for row in rows:
            words = row.split()
            place, _, number = words[1].partition(":")
            if words[3] == _LISTEN and int(number, 16) == port:
                yield _address(place), int(words[7])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address in the kernel's notation: words of 32 bits in native byte order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    found = ipaddress.ip_address(raw)
    return getattr(found, "ipv4_mapped", None) or found


def connect_to_own(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to a server of this user or root on this machine. Raises RefusedByServerError, OSError.

    The owner is checked before and after: no other user can have had the port in between, because the kernel
    does not let another user bind a port in use.
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
                    f"unknown owner of port {port} of {address[0]}: refusing to send the token",
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
    raise last or OSError(f"no address found for {host}")


def check_socket(connection: socket.socket, path: Path) -> None:
    """Raise RefusedByServerError unless the server on a Unix socket belongs to this user or root."""
    _pid, uid = peer_credentials(connection)
    if uid not in (0, os.geteuid()):
        raise RefusedByServerError(
            f"{path}: the server there belongs to another user (uid {uid})",
            hint=f"to use it anyway: --server unix:{path}",
        )
