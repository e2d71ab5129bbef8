"""The other ends of simulated terminals: a shell that echoes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

_PROMPT = b"# "
#: What the command ``flood`` prints: far more than any client reads at once.
_FLOOD_LINE, _FLOOD_LINES = b"0123456789abcdef" * 8 + b"\r\n", 1 << 16

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
#: What a command prints that only some shells have; None: there is no such command. EOFError ends the shell.
Command = Callable[[Sequence[str]], str | None]


def connected(talk: Talk) -> tuple[socket.socket, asyncio.Task[None]]:
    """Return a socket, which does not block, to ``talk``, and the task that this runs in."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, asyncio.create_task(_serve(theirs, talk))


async def _serve(endpoint: socket.socket, talk: Talk) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=endpoint)
    try:
        with suppress(OSError, EOFError):
            await talk(reader, writer)
    finally:
        writer.close()


def shell(command: Command = lambda _words: None) -> Talk:
    """Return a shell: it echoes what is typed, and prints after each line what its command prints."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = b""
        while data := await reader.read(4096):
            for key in (data[at : at + 1] for at in range(len(data))):
                if key in b"\r\n":
                    writer.write(b"\r\n")
                    await _run(line.decode(errors="replace").split(), command, writer)
                    writer.write(_PROMPT)
                    line = b""
                elif key in b"\x7f\x08":
                    writer.write(b"\x08 \x08" if line else b"")
                    line = line[:-1]
                else:
                    writer.write(key)
                    line = (line + key)[-4096:]
            await writer.drain()

    return talk


async def _run(words: list[str], command: Command, writer: asyncio.StreamWriter) -> None:
    match words:
        case ["flood"]:
            for _ in range(_FLOOD_LINES):
                writer.write(_FLOOD_LINE)
                await writer.drain()
        case ["echo", *said]:
            writer.write(" ".join(said).encode() + b"\r\n")
        case ["hostile"]:  # what a terminal must not obey: clipboard, title, a link; questions, and a colour
            writer.write(b"\x1b]52;c;aGFja2Vk\x07\x1b]0;hacked\x07\x1b]8;;https://hacked.invalid\x1b\\link")
            writer.write(b"\x1b]8;;\x1b\\\x1b[c\x1b[6n\x1b[21t\x1b[38;2;200;30;40mred\x1b[0m\r\n")
        case []:
            pass
        case _:
            printed = command(words)
            writer.write((printed or f"{words[0]}: not found (this is a fake guest)").encode() + b"\r\n")
