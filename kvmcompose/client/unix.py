"""HTTP over Unix sockets, and over TCP without TLS, for requests.

Our own, as the packages for it (requests-unixsocket and its forks) put the socket into each URL, keep one
pool of connections per URL with it, and are maintained by nobody in particular.
"""

from __future__ import annotations

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from kvmcompose.client.address import CONNECT_SECONDS, Address


class PlainAdapter(HTTPAdapter):
    """Sends every request over connections to one address, whatever host its URL names."""

    def __init__(self, address: Address) -> None:
        class Connection(HTTPConnection):
            def connect(self) -> None:
                seconds = self.timeout if isinstance(self.timeout, int | float) else CONNECT_SECONDS
                self.sock: socket.socket = address.connect(seconds=seconds)

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        # more than one: a cancellation goes out while the log is being followed
        self._pool = Pool(address.authority, maxsize=4)
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        """The one pool there is."""
        return self._pool

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.close()
        super().close()
