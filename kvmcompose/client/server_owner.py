"""Checks to whom a server on this machine belongs: secrets are sent only to this user's and root's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from kvmcompose.client.errors import RefusedByServerError
from kvmcompose.effects.credentials import peer_credentials
from kvmcompose.effects.tcp_connections import LISTENS, TcpSocket, endpoint, tcp_sockets

_HINT = "is this the server's port? unix:/path/to/socket needs no token; --insecure sends it in any case"


def check_port(address: str, port: int) -> bool:
    """Return whether a process listens on a port. Raises RefusedByServerError for another user's."""
    wanted = endpoint(address, port).address
    places = ((each.local.address, each.uid) for each in _listeners(port))
    owners = {uid for at, uid in places if at.is_unspecified or at == wanted}
    strangers = owners - {0, os.geteuid()}
    if strangers:
        named = ", ".join(str(uid) for uid in sorted(strangers))
        raise RefusedByServerError(
            f"port {port} of {address} belongs to another user (uid {named}): refusing to send the token",
            hint=_HINT,
        )
    return bool(owners)


def _listeners(port: int) -> list[TcpSocket]:
    try:
        return [each for each in tcp_sockets() if each.state == LISTENS and each.local.port == port]
    except OSError as error:
        raise RefusedByServerError(
            f"cannot determine who listens on port {port}: {error.filename}: {error.strerror}", hint=_HINT
        ) from error


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
