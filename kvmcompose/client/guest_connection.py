"""Connects standard input and output to the SSH server of a guest, over a WebSocket."""

from __future__ import annotations

import os
import threading

import websocket

from kvmcompose.client.address import Address
from kvmcompose.client.errors import ServerError
from kvmcompose.client.websockets import open_channel
from kvmcompose.core.commands import INPUT_CHUNK

_NORMAL_CLOSURE = 1000


def connect_guest(
    address: Address, path: str, headers: dict[str, str], ca_file: str | None, *, source: int, target: int
) -> None:
    """Copy between two file descriptors and the guest until either side ends. Raises ServerError."""
    connection = open_channel(address, path, headers, ca_file)
    threading.Thread(target=_send, args=(connection, source), daemon=True, name="input").start()
    try:
        while True:
            opcode, data = connection.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    except BrokenPipeError:
        return  # ssh has ended
    except (websocket.WebSocketException, OSError) as error:
        raise ServerError(f"the connection to the server on {address} was lost: {error}") from error
    finally:
        connection.shutdown()  # type: ignore[no-untyped-call]


def _send(connection: websocket.WebSocket, source: int) -> None:
    try:
        while data := os.read(source, INPUT_CHUNK):
            connection.send_binary(data)
        connection.send(_NORMAL_CLOSURE.to_bytes(2, "big"), websocket.ABNF.OPCODE_CLOSE)
    except (websocket.WebSocketException, OSError):
        return  # the other direction says why
