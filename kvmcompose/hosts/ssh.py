"""What asyncssh connections to hosts and to guests have in common."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh

#: How long an SSH server may take to start a program on an open connection, in seconds.
BEGIN_SECONDS = 45.0
#: The most unsent data that a connection holds, in bytes: many of OpenSSH's windows (2 MiB).
MOST_UNSENT = 1 << 25
#: Options of a command whose output is not needed: it is discarded as it arrives.
SILENT: dict[str, Any] = {
    "stdin": asyncssh.DEVNULL, "stdout": asyncssh.DEVNULL, "stderr": asyncssh.DEVNULL, "encoding": None
}  # fmt: skip


def text_of(error: Exception) -> str:
    """Return the message of an error, or its type if it has none."""
    return str(error) or type(error).__name__


def unsent(connection: asyncssh.SSHClientConnection) -> int:
    """Return how many bytes a connection holds that the network has not taken yet."""
    transport = connection._transport  # noqa: SLF001
    return transport.get_write_buffer_size() if isinstance(transport, asyncio.Transport) else 0


def bound_unsent(connection: asyncssh.SSHClientConnection) -> None:
    """Abort a connection when its other end requests data, or grants a large window, and does not read.

    asyncssh has no option that limits what it buffers. Has no effect on a connection through another host.
    """
    transport = connection._transport  # noqa: SLF001
    if isinstance(transport, asyncio.Transport):
        transport.set_write_buffer_limits(high=MOST_UNSENT)
        connection.pause_writing = connection.abort  # type: ignore[method-assign]
