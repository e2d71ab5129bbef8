"""A client for JSON-RPC over Unix sockets: that of OVSDB (RFC 7047), and the control sockets of daemons.

``ovsdb-client`` takes a transaction as one argument, which the kernel limits to 128 KiB (execve(2)), and
``ovn-appctl`` would be a process for each of a thousand questions.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from kvmcompose.core.errors import KvmComposeError

_CHUNK = 1 << 18
#: What one answer may have, in bytes: far more than the trace of one packet.
_MOST = 1 << 28


class JsonRpc:
    """A connection to a socket of a daemon. A time limit applies to each call."""

    def __init__(self, path: Path, seconds: float) -> None:
        """Connect. Raises KvmComposeError."""
        self._name = path.name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        self._calls = 0
        # the address of a socket has room for 107 bytes (unix(7)), a temporary folder may have a longer path
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as error:
            self._socket.close()
            raise KvmComposeError(f"cannot connect to {self._name} of OVN: {error}") from error
        finally:
            os.close(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, method: str, *parameters: Any) -> Any:
        """Return the result of a method. Raises KvmComposeError for an error, none in time, or too much."""
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": parameters}
        try:
            self._socket.sendall(msgspec.json.encode(request))
            answer = self._receive()
        except (OSError, ValueError) as error:
            raise KvmComposeError(f"no answer from {self._name} of OVN: {error}") from error
        if answer.get("error") is not None:
            raise KvmComposeError(f"{self._name} of OVN: {_text(answer['error'])}")
        return answer.get("result")

    def _receive(self) -> dict[str, Any]:
        """Return the answer to the last request. Over Unix sockets OVSDB sends nothing else."""
        data = bytearray()
        while True:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise ValueError("the connection was closed")
            data += chunk
            if len(data) > _MOST:
                raise ValueError(f"more than {_MOST >> 20} MiB")
            if not chunk.rstrip().endswith(b"}"):
                continue
            try:
                answer = msgspec.json.decode(data)
            except msgspec.DecodeError:
                continue  # incomplete
            if isinstance(answer, dict) and answer.get("id") == self._calls:
                return answer
            raise ValueError("an unexpected answer")


def _text(error: object) -> str:
    return error.strip() if isinstance(error, str) else json.dumps(error)
