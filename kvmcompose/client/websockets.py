"""Opens WebSockets to a server."""

from __future__ import annotations

import websocket

from kvmcompose.client.address import CONNECT_SECONDS, Address
from kvmcompose.client.errors import ServerError, error_of


def open_websocket(
    address: Address, path: str, headers: dict[str, str], ca_file: str | None, *, threads: bool = False
) -> websocket.WebSocket:
    """Return a connection; with ``threads`` several may use it. Raises OSError, WebSocketException.

    Text is not validated: msgspec does that when it decodes a message, a thousand times as fast.
    """
    endpoint = address.connect(ca_file)
    try:
        return websocket.create_connection(
            f"{'wss' if address.tls else 'ws'}://{address.authority}{path}",
            timeout=CONNECT_SECONDS,
            socket=endpoint,
            host=address.authority,
            header={name: value for name, value in headers.items() if name != "Host"},
            suppress_origin=True,
            redirect_limit=0,
            enable_multithread=threads,
            skip_utf8_validation=True,
        )
    except BaseException:
        endpoint.close()
        raise


def open_channel(
    address: Address,
    path: str,
    headers: dict[str, str],
    ca_file: str | None,
    *,
    doing: str = "reach the server on",
) -> websocket.WebSocket:
    """Return a connection that several threads may use, and that waits without limit. Raises ServerError."""
    try:
        connection = open_websocket(address, path, headers, ca_file, threads=True)
    except websocket.WebSocketBadStatusException as error:
        raise error_of(error.status_code, error.resp_body or b"", str(address)) from error
    except (websocket.WebSocketException, OSError) as error:
        raise ServerError(f"cannot {doing} {address}: {error}") from error
    connection.settimeout(None)
    return connection
