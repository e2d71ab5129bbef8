"""Serial consoles and screens of domains."""

from __future__ import annotations

import socket
from typing import Protocol

import msgspec


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """The screen of a domain. ``kind`` is libvirt's term: ``vnc``, ``spice``.

    ``port`` is where it is served on its host while the domain runs, at ``address``; 0: nowhere.
    """

    kind: str
    address: str = "127.0.0.1"
    port: int = 0


class DomainConsoles(Protocol):
    """The serial consoles and screens of domains on one host."""

    async def open(self, name: str, *, force: bool) -> socket.socket:
        """Return a socket, which does not block, that is the serial console of a running domain.

        What it prints is always read: of what its user does not read in time, the newest stays. It is closed
        when the domain goes off, or another user takes the console. ``force``: take it from another user.
        Raises ConsoleTakenError, RefusedError for a domain that is off or not there, DriverError.
        """

    async def screen(self, name: str) -> Screen | None:
        """Return the screen of a domain as it runs, or as it will; None: it has none, or is not there."""

    async def open_screen(self, screen: Screen) -> socket.socket:
        """Return a socket, which does not block, that is connected to a screen with a port: RFC 6143 for VNC.

        Raises DriverError.
        """
