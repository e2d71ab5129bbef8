"""Follows the events of a deployment over a WebSocket, and reconnects when the connection is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import get_args
from urllib.parse import urlencode

import msgspec
import websocket

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError, error_of
from kvmcompose.client.websockets import open_websocket
from kvmcompose.core.deployment_event import DeploymentEvent

#: How long to try to reconnect, in seconds.
PATIENCE = 30.0
#: The server pings every 20 s; a longer silence means that the connection is dead.
_SILENCE_SECONDS = 50.0
#: A connection that lasted so many seconds counts as successful, even if it brought no event.
_HELD_SECONDS = 20.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_ENDED = 1000
#: The answer of a server of 0.1.
_NO_SUCH_ROUTE = "no such resource"
#: HTTP statuses of a server that will soon be back.
_COMING_BACK = frozenset({502, 503, 504})


class _Unknown(msgspec.Struct):
    """What every event has, whatever its type."""

    event: str
    number: int


_decode = msgspec.json.Decoder(DeploymentEvent).decode
_decode_unknown = msgspec.json.Decoder(_Unknown).decode
_KNOWN = frozenset(each.__struct_config__.tag for each in get_args(DeploymentEvent))


class _LostError(Exception):
    """The connection was lost before the stream ended."""


class EventStream:
    """The events of a deployment, or of one of its actions, until its end. ``query`` is what is asked for.

    ``after`` is the number after which they begin; None: the current state, and events from now on. Then it
    is that of the last event, so that a new connection goes on where the last one ended.
    """

    def __init__(
        self,
        address: Address,
        path: str,
        headers: dict[str, str],
        *,
        query: dict[str, str],
        after: int | None,
        ca_file: str | None,
        revive: Callable[[], None] | None,
    ) -> None:
        self._address = address
        self._path = path
        self._headers = headers
        self._query = query
        self._ca_file = ca_file
        self._revive = revive
        self.after = after

    def events(self) -> Iterator[DeploymentEvent]:
        """Yield the events, each once. Raises ServerError."""
        lost_since: float | None = None
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                for data in self._connection():
                    lost_since, pause = None, _FIRST_PAUSE
                    event = self._decoded(data)
                    if event is not None:
                        yield event
            except _LostError as error:
                moment = time.monotonic()
                if lost_since is None or moment - began > _HELD_SECONDS:
                    lost_since = moment
                if moment - lost_since > PATIENCE:
                    hint = "the action continues if the server is running: kvm-compose logs -f"
                    raise ServerError(
                        f"lost the connection to the server on {self._address}: {error}",
                        hint=hint if "action" in self._query else None,
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if self._revive is not None:
                    self._revive()
            else:
                return

    def _decoded(self, data: bytes) -> DeploymentEvent | None:
        """Return an event, and note its number; None for a type that only later versions know."""
        try:
            event: DeploymentEvent = _decode(data)
        except msgspec.MsgspecError as error:
            try:
                unknown = _decode_unknown(data)
            except msgspec.MsgspecError:
                raise self._invalid(error) from error
            if unknown.event in _KNOWN:
                raise self._invalid(error) from error
            self.after = unknown.number
            return None
        self.after = event.number
        return event

    def _invalid(self, error: Exception) -> ServerError:
        return ServerError(
            f"the server on {self._address} sent an invalid event: {error}",
            hint="is it a kvm-compose server of this version?",
        )

    def _connection(self) -> Iterator[bytes]:
        """Yield the messages of one connection. Raises _LostError, ServerError."""
        connection = self._open()
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
                yield data
        finally:
            # close() would leave the socket open if the server closed first
            connection.shutdown()  # type: ignore[no-untyped-call]

    def _open(self) -> websocket.WebSocket:
        query = self._query if self.after is None else {**self._query, "after": str(self.after)}
        target = f"{self._path}?{urlencode(query)}" if query else self._path
        try:
            return open_websocket(self._address, target, self._headers, self._ca_file)
        except websocket.WebSocketBadStatusException as error:
            problem = error_of(error.status_code, error.resp_body or b"", str(self._address))
            if problem.message == _NO_SUCH_ROUTE:
                raise ServerError(
                    f"the server on {self._address} is older than this client: it has no events",
                    hint="compare `kvm-compose --version`; restart the server",
                    status=error.status_code,
                ) from error
            if error.status_code in _COMING_BACK:
                raise _LostError(problem.message) from error
            raise problem from error
        except (websocket.WebSocketException, OSError) as error:
            raise _LostError(str(error)) from error
