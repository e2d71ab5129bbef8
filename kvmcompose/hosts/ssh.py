"""What connections through asyncssh to hosts and to guests have in common."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh

#: How long a server may take to begin a program on a connection that is there.
BEGIN_SECONDS = 45.0
#: What a connection holds that the other end does not take, in bytes: many windows of OpenSSH's (2 MiB).
MOST_UNSENT = 1 << 25
#: Options of a command of ours whose output nobody reads: what a guest sends is dropped as it comes.
SILENT: dict[str, Any] = {
    "stdin": asyncssh.DEVNULL, "stdout": asyncssh.DEVNULL, "stderr": asyncssh.DEVNULL, "encoding": None
}  # fmt: skip


def text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def bound_unsent(connection: asyncssh.SSHClientConnection) -> None:
    """Give a connection up when its other end makes us answer, or gives us a large window, and does not read.

    asyncssh writes on for ever, and has no option for that. Not for connections through another host.
    """
    transport = connection._transport  # noqa: SLF001
    if isinstance(transport, asyncio.Transport):
        transport.set_write_buffer_limits(high=MOST_UNSENT)
        connection.pause_writing = connection.abort  # type: ignore[method-assign]
