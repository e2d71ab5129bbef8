"""Connects the terminal of this process to a shell in a guest, over a WebSocket."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

import msgspec
import websocket

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError
from kvmcompose.client.websockets import open_channel
from kvmcompose.core.access import ShellEnded, TerminalSize
from kvmcompose.core.commands import INPUT_CHUNK
from kvmcompose.core.plain import without_controls

_NORMAL_CLOSURE = 1000
#: Leaves a shell that does not answer, at the start of a line (ssh(1), ESCAPE CHARACTERS).
_WAY_OUT = b"~."


def run_shell(
    address: Address,
    path: str,
    headers: dict[str, str],
    ca_file: str | None,
    *,
    source: int,
    target: int,
    resized: int,
    size: Callable[[], TerminalSize],
) -> int | None:
    """Copy between two file descriptors and a new shell until either ends.

    Returns the exit status, None where the user has left or it is not known. A byte in ``resized`` says that
    the terminal has another ``size``. Raises ServerError.
    """
    first = size()
    asked = f"{path}?columns={first.columns}&rows={first.rows}"
    connection = open_channel(address, asked, headers, ca_file)
    typing = _Typing(connection, source, resized, size)
    threading.Thread(target=typing.run, daemon=True, name="input").start()
    try:
        return _shown(connection, target)
    except (websocket.WebSocketException, OSError) as error:
        if typing.has_left:
            return None
        raise ServerError(f"the connection to the server on {address} was lost: {error}") from error
    finally:
        connection.shutdown()  # type: ignore[no-untyped-call]


def _shown(connection: websocket.WebSocket, target: int) -> int | None:
    """Write what the shell prints, and return its exit status. Raises ServerError."""
    status: int | None = None
    while True:
        opcode, data = connection.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            if int.from_bytes(data[:2], "big") != _NORMAL_CLOSURE:
                raise ServerError(without_controls(data[2:].decode(errors="replace")))
            return status
        if opcode == websocket.ABNF.OPCODE_TEXT:
            try:
                status = msgspec.json.decode(data, type=ShellEnded).exit_status
            except msgspec.MsgspecError as error:
                raise ServerError(f"the server sent an invalid message: {error}") from error
            continue
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


class _Typing:
    """Sends what is typed, and the size when it changes. Runs in a thread of its own."""

    def __init__(
        self,
        connection: websocket.WebSocket,
        source: int,
        resized: int,
        size: Callable[[], TerminalSize],
    ) -> None:
        self._connection = connection
        self._source = source
        self._resized = resized
        self._size = size
        self.has_left = False

    def run(self) -> None:
        try:
            self._send()
            self.has_left = True
            self._connection.send(_NORMAL_CLOSURE.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)
        except (websocket.WebSocketException, OSError):
            return  # the other direction says why

    def _send(self) -> None:
        """Return when the input has ended, or the user leaves."""
        way = LineStart()
        while True:
            ready, _, _ = select.select([self._source, self._resized], [], [])
            if self._resized in ready:
                os.read(self._resized, INPUT_CHUNK)
                self._connection.send(msgspec.json.encode(self._size()).decode())
            if self._source in ready:
                data = os.read(self._source, INPUT_CHUNK // 2)  # with what was held back it is a message
                typed, leaves = way.after(data)
                if typed:
                    self._connection.send_binary(typed)
                if leaves or not data:
                    return


class LineStart:
    """Finds the way out of a shell in what is typed: ``~.`` after the end of a line."""

    def __init__(self) -> None:
        self._at_start = True
        self._held = b""

    def after(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to be sent, and whether the user leaves. A ``~`` waits for what follows it."""
        found = bytearray()
        for byte in (data[at : at + 1] for at in range(len(data))):
            if self._held + byte == _WAY_OUT:
                return bytes(found), True
            if self._at_start and not self._held and byte == _WAY_OUT[:1]:
                self._held = byte
                continue
            found += self._held + byte
            self._held = b""
            self._at_start = byte in b"\r\n"
        return bytes(found), False
