"""Serial consoles and screens of simulated domains: a shell that echoes, and a picture that keys change."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import ConsoleTakenError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.providers.libvirt.interface.consoles import Screen

_PROMPT = b"# "
#: What the command ``flood`` prints: far more than any client reads at once.
_FLOOD_LINE, _FLOOD_LINES = b"0123456789abcdef" * 8 + b"\r\n", 1 << 16
#: The size of the screen in pixels.
_WIDTH, _HEIGHT = 160, 100
#: How long messages of clients are, in bytes, by their type (RFC 6143, 7.5); these others are longer.
_FIXED = {0: 20, 3: 10, 4: 8, 5: 6}
_SET_ENCODINGS, _CUT_TEXT, _UPDATE_REQUEST, _KEY = 2, 6, 3, 4
#: True colour, 32 bits, little-endian: blue, green, red (RFC 6143, 7.4).
_PIXEL_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeConsoles:
    """See ``DomainConsoles``."""

    def __init__(self, host: SimulatedHost, terminals: FakeTerminals) -> None:
        self._host = host
        self._terminals = terminals

    async def open(self, name: str, *, force: bool) -> socket.socket:
        await self._host.call("open_console", name)
        domain = self._host.world.domains.get(name)
        if domain is None or not domain.started:
            raise RefusedError(f"{name} is off" if domain is not None else f"there is no domain {name}")
        return self._terminals.open(name, force=force)

    async def screen(self, name: str) -> Screen | None:
        await self._host.call("screen", name)
        domain = self._host.world.domains.get(name)
        if domain is None or not domain.hardware.screen:
            return None
        return Screen(kind=domain.hardware.screen, port=5900 if domain.started else 0)

    async def open_screen(self, screen: Screen) -> socket.socket:
        await self._host.call("open_screen", screen.kind)
        return self._terminals.open_screen()


class FakeTerminals:
    """What is open of the consoles and screens of a host; a console has one user at most."""

    def __init__(self) -> None:
        self._users: dict[str, asyncio.Task[None]] = {}
        self._screens: set[asyncio.Task[None]] = set()

    def open(self, name: str, *, force: bool) -> socket.socket:
        """Open a console. Raises ConsoleTakenError."""
        before = self._users.get(name)
        if before is not None and not before.done():
            if not force:
                raise ConsoleTakenError(f"another user has the console of {name}")
            before.cancel()
        ours, self._users[name] = _connected(_shell)
        return ours

    def open_screen(self) -> socket.socket:
        """Open a screen."""
        ours, task = _connected(_screen)
        self._screens.add(task)
        task.add_done_callback(self._screens.discard)
        return ours

    def close(self, name: str) -> None:
        """Close the console of a domain that goes off."""
        user = self._users.pop(name, None)
        if user is not None:
            user.cancel()

    async def end(self) -> None:
        """Close all."""
        tasks = [*self._users.values(), *self._screens]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _connected(talk: Talk) -> tuple[socket.socket, asyncio.Task[None]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, asyncio.create_task(_serve(theirs, talk))


async def _serve(endpoint: socket.socket, talk: Talk) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=endpoint)
    try:
        with suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
    finally:
        writer.close()


async def _shell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo what is typed, and after each line what its command prints."""
    line = b""
    while data := await reader.read(4096):
        for key in (data[at : at + 1] for at in range(len(data))):
            if key in b"\r\n":
                writer.write(b"\r\n")
                await _run(line.decode(errors="replace").split(), writer)
                writer.write(_PROMPT)
                line = b""
            elif key in b"\x7f\x08":
                writer.write(b"\x08 \x08" if line else b"")
                line = line[:-1]
            else:
                writer.write(key)
                line = (line + key)[-4096:]
        await writer.drain()


async def _run(words: list[str], writer: asyncio.StreamWriter) -> None:
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
            writer.write(f"{words[0]}: not found (this is a fake guest)\r\n".encode())


async def _screen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve RFB 3.8 without a password (RFC 6143, 7.1): a coloured area, and each key changes its colour."""
    writer.write(b"RFB 003.008\n")
    await reader.readexactly(12)
    writer.write(b"\x01\x01")  # one security type: none
    await reader.readexactly(1)
    writer.write(bytes(4))
    await reader.readexactly(1)
    name = b"a fake screen"
    writer.write(struct.pack(">HH", _WIDTH, _HEIGHT) + _PIXEL_FORMAT + struct.pack(">I", len(name)) + name)
    keys, shown = 0, -1
    while True:
        kind = (await reader.readexactly(1))[0]
        if kind == _SET_ENCODINGS:
            count = struct.unpack(">xH", await reader.readexactly(3))[0]
            await reader.readexactly(4 * count)
        elif kind == _CUT_TEXT:
            length = struct.unpack(">3xi", await reader.readexactly(7))[0]
            await reader.readexactly(abs(length))
        elif kind in _FIXED:
            body = await reader.readexactly(_FIXED[kind] - 1)
            keys += kind == _KEY and body[0]
            asked = kind == _UPDATE_REQUEST and body[0] == 0  # for all of it, whether it changed or not
            if asked or (kind in (_UPDATE_REQUEST, _KEY) and keys != shown):
                shown = keys
                writer.write(_picture(keys))
        else:
            return
        await writer.drain()


def _picture(keys: int) -> bytes:
    """Return the update of the whole screen, in raw encoding."""
    colour = ((0x80, 0x40, 0x20), (0x20, 0x80, 0x40), (0x40, 0x20, 0x80))[keys % 3]
    head = struct.pack(">BxHHHHHi", 0, 1, 0, 0, _WIDTH, _HEIGHT, 0)
    return head + bytes((*colour, 0)) * (_WIDTH * _HEIGHT)
