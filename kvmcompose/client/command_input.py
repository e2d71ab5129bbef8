"""Sends the standard input of a command in a guest over a WebSocket, as fast as the command takes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import websocket

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError
from kvmcompose.client.websockets import open_channel
from kvmcompose.core.commands import INPUT_CHUNK, INPUT_WINDOW

_CONFLICT = 409
_NORMAL_CLOSURE = 1000


class CommandInput:
    """Reads a file descriptor to its end, and sends what it reads. Runs in threads of its own."""

    def __init__(
        self,
        address: Address,
        path: str,
        headers: dict[str, str],
        *,
        ca_file: str | None,
        source: int,
        failed: Callable[[ServerError], None],
    ) -> None:
        """``failed`` is called when the server does not take the input."""
        self._address = address
        self._path = path
        self._headers = headers
        self._ca_file = ca_file
        self._source = source
        self._failed = failed
        self._taken = 0
        self._closed = False
        self._progress = threading.Condition()

    def start(self) -> None:
        """Begin to send. The threads end with the input, the command, or this process."""
        threading.Thread(target=self._run, daemon=True, name="input").start()

    def _run(self) -> None:
        try:
            connection = self._open()
        except ServerError as error:
            if error.status != _CONFLICT:  # the command may have ended already: its log says why
                self._failed(error)
            return
        threading.Thread(target=self._listen, args=(connection,), daemon=True, name="input taken").start()
        try:
            self._send(connection)
        except (websocket.WebSocketException, OSError):
            return  # the server ends the command when the input breaks off, and says so in its log

    def _open(self) -> websocket.WebSocket:
        doing = "send the input to"
        return open_channel(self._address, self._path, self._headers, self._ca_file, doing=doing)

    def _send(self, connection: websocket.WebSocket) -> None:
        sent = 0
        while data := os.read(self._source, INPUT_CHUNK):
            with self._progress:
                while not self._closed and sent + len(data) - self._taken > INPUT_WINDOW:
                    self._progress.wait()
            if self._closed:
                return
            connection.send_binary(data)
            sent += len(data)
        connection.send(_NORMAL_CLOSURE.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)

    def _listen(self, connection: websocket.WebSocket) -> None:
        """Take note of what the command has taken; answers the server's pings meanwhile."""
        try:
            while True:
                opcode, data = connection.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    return
                if data.isdigit():
                    with self._progress:
                        self._taken = int(data)
                        self._progress.notify_all()
        except (websocket.WebSocketException, OSError):
            return
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]
            with self._progress:
                self._closed = True
                self._progress.notify_all()
