"""A transport for requests: HTTP over Unix sockets, and over TCP without TLS.

The packages for this (requests-unixsocket and its forks) put the socket into each URL, keep a connection pool
per URL, and are hardly maintained.
"""

from __future__ import annotations

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from kvmcompose.client.address import CONNECT_SECONDS, Address

#: Connections that are kept open. urllib3 warns on stderr of each one more: a client watches up to 32 actions
#: side by side, and sends a cancellation for each.
KEPT_CONNECTIONS = 64


class PlainAdapter(HTTPAdapter):
    """Sends every request to one address, whatever host its URL names."""

    def __init__(self, address: Address) -> None:
        class Connection(HTTPConnection):
            def connect(self) -> None:
                seconds = self.timeout if isinstance(self.timeout, int | float) else CONNECT_SECONDS
                self.sock: socket.socket = address.connect(seconds=seconds)

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        self._pool = Pool(address.authority, maxsize=KEPT_CONNECTIONS)
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        """Return the only pool."""
        return self._pool

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        super().close()
