"""A console of a guest that a client has opened."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Self

from kvmcompose.core.access import ConsoleOpened, ConsolePart
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.errors import ConsoleTakenError

#: How much of what was printed before is sent, in bytes.
_HISTORY = 1 << 16
_CHUNK = 1 << 16


class GuestConsole:
    """What was printed before; the console itself, or what there is to watch."""

    def __init__(
        self, printed: ConsolePart, endpoint: socket.socket | None, why: KvmComposeError | None = None
    ) -> None:
        """``endpoint`` is None where the console takes no input, ``why`` says why unless nobody asked for it.

        ``printed`` was read after ``endpoint`` was opened.
        """
        #: The console, which closes with the context of this.
        self.endpoint = endpoint
        #: Up to where the client has what was printed.
        self.offset = printed.start + len(printed.data)
        self.history = printed.data[-_HISTORY:]
        #: What was printed since the console was opened, and is no part of the history.
        self.since = b"" if endpoint is None else _without(self.history, _waiting(endpoint))
        self.opened = ConsoleOpened(
            input=endpoint is not None,
            history=len(self.history),
            reason=why.message if why is not None else None,
            hint=why.hint if why is not None else None,
            taken=isinstance(why, ConsoleTakenError),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.endpoint is not None:
            self.endpoint.close()


def _waiting(endpoint: socket.socket) -> bytes:
    with suppress(BlockingIOError):
        return endpoint.recv(_CHUNK)
    return b""


def _without(history: bytes, since: bytes) -> bytes:
    """Return what follows the history of what was printed since some point within it."""
    for count in range(min(len(since), len(history)), 0, -1):
        if history.endswith(since[:count]):
            return since[count:]
    return since
