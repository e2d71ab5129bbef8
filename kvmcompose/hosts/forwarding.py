"""Sockets of other hosts, forwarded to local ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

import asyncssh

from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.ssh import BEGIN_SECONDS, text_of

log = logging.getLogger(__name__)


class ForwardedSocket:
    """A local socket that forwards each connection to one of the ``targets`` on another host.

    It outlives the connection to the host: each client uses the one that is open then.
    """

    def __init__(self, connection: HostConnection, path: Path, targets: tuple[str, ...]) -> None:
        """Listen on ``path``; the first of the ``targets`` that accepts a connection is used."""
        self.path = path
        self._connection = connection
        self._targets = targets
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._socket)
                reader, writer = await asyncio.open_unix_connection(sock=accepted)
            except OSError as error:  # too many open files: later there may be fewer
                log.warning("cannot accept a connection to %s: %s", self.path, text_of(error))
                await asyncio.sleep(1)
                continue
            task = loop.create_task(self._forward(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward in both directions until the other end closes; pass on when this one does."""
        try:
            there_reader, there_writer = await self._reach()
            there = asyncio.create_task(pump(reader, there_writer))
            try:
                await pump(there_reader, writer)
            finally:
                there.cancel()
                await asyncio.gather(there, return_exceptions=True)
                there_writer.close()
        except (DriverError, OSError, asyncssh.Error) as error:
            log.warning("cannot forward %s: %s", self.path, text_of(error))
        finally:
            writer.close()

    async def _reach(self) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        connection = await self._connection.get()
        last: Exception | None = None
        for target in self._targets:
            try:
                async with asyncio.timeout(BEGIN_SECONDS):
                    return await connection.open_unix_connection(target)
            except asyncssh.ChannelOpenError as error:
                last = error
        raise last or DriverError("there is no socket to connect to")


async def pump(
    source: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    target: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    """Copy to the end, and pass on that end."""
    with contextlib.suppress(OSError, asyncssh.Error):
        try:
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        finally:
            target.write_eof()
