"""The addresses of servers, and connections to them."""

from __future__ import annotations

import ssl
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, create_connection
from socket import socket as Socket  # noqa: N812 (a field is called socket)
from urllib.parse import urlsplit

import msgspec

from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.client.server_owner import check_socket, connect_to_own

CONNECT_SECONDS = 10.0
_HINT = "unix:/path/to/socket, http://host:port or https://host:port"
#: Names of this machine that no other one reaches.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens: on a Unix socket, or on a host and port, with TLS or without.

    ``own``: refuse to connect unless the listening process belongs to this user or root.
    """

    socket: Path | None = None
    host: str = "localhost"
    port: int = 0
    tls: bool = False
    own: bool = False

    @staticmethod
    def parse(text: str) -> Address:
        """Parse ``unix:/path``, ``http://host:port`` or ``https://host:port``. Raises ServerError."""
        kind, _, rest = text.partition(":")
        if kind == "unix":
            path = Path(rest.removeprefix("//"))
            if path.is_absolute() and "\0" not in rest:
                return Address(socket=path)
        elif kind in _DEFAULT_PORTS:
            try:
                parts = urlsplit(text)
                port = _DEFAULT_PORTS[kind] if parts.port is None else parts.port
            except ValueError:
                parts, port = urlsplit(""), 0
            plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
            if parts.hostname and port and plain:
                return Address(host=parts.hostname, port=port, tls=kind == "https")
        raise RefusedByServerError(f"invalid server address {text!r}", hint=_HINT)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        if self.socket is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether it is an address of this machine only."""
        return self.socket is not None or self.host in LOOPBACK

    def __str__(self) -> str:
        """Return the address in the form that ``parse`` takes."""
        if self.socket is not None:
            return f"unix:{self.socket}"
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def connect(self, ca_file: str | None = None, seconds: float = CONNECT_SECONDS) -> Socket:
        """Return a connection, after the TLS handshake if any.

        Raises OSError, and RefusedByServerError when the server belongs to another user (see ``own``).
        """
        if self.socket is not None:
            connection = Socket(AF_UNIX, SOCK_STREAM)
            try:
                connection.settimeout(seconds)
                connection.connect(str(self.socket))
                if self.own:
                    check_socket(connection, self.socket)
            except BaseException:
                connection.close()
                raise
            return connection
        if self.own:
            return connect_to_own(self.host, self.port, seconds)
        connection = create_connection((self.host, self.port), seconds)
        if not self.tls:
            return connection
        try:
            return tls_context(ca_file).wrap_socket(connection, server_hostname=self.host)
        except BaseException:
            connection.close()
            raise


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the certificates in a file, or those of the system. Raises ServerError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ServerError(f"cannot use the certificates in {ca_file}: {error.strerror or error}") from error
