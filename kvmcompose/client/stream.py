"""Follows an action's log over a WebSocket, and reconnects when the connection is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import websocket

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError, error_of
from kvmcompose.client.websockets import open_websocket
from kvmcompose.core.deployment import LogLine

#: How long to try to reconnect, in seconds.
PATIENCE = 30.0
#: The server pings every 20 s; a longer silence means that the connection is dead.
_SILENCE_SECONDS = 50.0
#: A connection that lasted so many seconds counts as successful, even if it brought no line.
_HELD_SECONDS = 20.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_ENDED = 1000
#: HTTP statuses of a server that will soon be back.
_COMING_BACK = frozenset({502, 503, 504})

_decode = msgspec.json.Decoder(LogLine).decode


class _LostError(Exception):
    """The connection was lost before the log ended."""


def follow(
    address: Address,
    path: str,
    headers: dict[str, str],
    after: int,
    *,
    ca_file: str | None,
    revive: Callable[[], None] | None,
) -> Iterator[LogLine]:
    """Yield the log after line ``after`` until its end, each line once. Raises ServerError."""
    lost_since: float | None = None
    pause = _FIRST_PAUSE
    while True:
        began = time.monotonic()
        try:
            for line in _stream(address, f"{path}?after={after}", headers, ca_file):
                lost_since, pause = None, _FIRST_PAUSE
                if line.sequence > after:
                    after = line.sequence
                    yield line
        except _LostError as error:
            moment = time.monotonic()
            if lost_since is None or moment - began > _HELD_SECONDS:
                lost_since = moment
            if moment - lost_since > PATIENCE:
                raise ServerError(
                    f"lost the connection to the server on {address}: {error}",
                    hint="the action continues if the server is running: kvm-compose logs -f",
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if revive is not None:
                revive()
        else:
            return


def _stream(address: Address, path: str, headers: dict[str, str], ca_file: str | None) -> Iterator[LogLine]:
    """Yield the lines of one connection. Raises _LostError, ServerError."""
    connection = _open(address, path, headers, ca_file)
    try:
        connection.settimeout(_SILENCE_SECONDS)
        while True:
            try:
                opcode, data = connection.recv_data()
            except (websocket.WebSocketException, OSError) as error:
                raise _LostError(str(error)) from error
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                code = int.from_bytes(data[:2], "big")
                if code == _ENDED:
                    return
                reason = data[2:].decode(errors="replace") or "connection closed"
                raise _LostError(f"{reason} ({code})")
            try:
                line = _decode(data)
            except msgspec.MsgspecError as error:
                raise ServerError(
                    f"the server on {address} sent an invalid line: {error}",
                    hint="is it a kvm-compose server of this version?",
                ) from error
            yield line
    finally:
        # close() would leave the socket open if the server closed first
        connection.shutdown()  # type: ignore[no-untyped-call]


def _open(address: Address, path: str, headers: dict[str, str], ca_file: str | None) -> websocket.WebSocket:
    try:
        return open_websocket(address, path, headers, ca_file)
    except websocket.WebSocketBadStatusException as error:
        problem = error_of(error.status_code, error.resp_body or b"", str(address))
        if error.status_code in _COMING_BACK:
            raise _LostError(problem.message) from error
        raise problem from error
    except (websocket.WebSocketException, OSError) as error:
        raise _LostError(str(error)) from error
