"""Serial consoles and screens of simulated domains: a shell that echoes, and a picture that keys change."""

from __future__ import annotations

import asyncio
import socket
import struct

from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import ConsoleTakenError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_terminals import connected, shell
from kvmcompose.providers.libvirt.interface.consoles import Screen

#: The size of the screen in pixels.
_WIDTH, _HEIGHT = 160, 100
#: How long messages of clients are, in bytes, by their type (RFC 6143, 7.5); these others are longer.
_FIXED = {0: 20, 3: 10, 4: 8, 5: 6}
_SET_ENCODINGS, _CUT_TEXT, _UPDATE_REQUEST, _KEY = 2, 6, 3, 4
#: True colour, 32 bits, little-endian: blue, green, red (RFC 6143, 7.4).
_PIXEL_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


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
        ours, self._users[name] = connected(shell())
        return ours

    def open_screen(self) -> socket.socket:
        """Open a screen."""
        ours, task = connected(_screen)
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
