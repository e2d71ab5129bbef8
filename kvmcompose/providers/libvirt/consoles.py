"""Serial consoles and screens of domains.

A console is a stream of libvirt, which is copied from and to a socket in the thread of libvirt's event loop,
as virsh does it. What the guest prints is always read: libvirt's client keeps what is not, without a limit,
and the kernel of a guest whose serial line nobody reads waits at each line that it prints. So a client that
is too slow misses some output, and receives a note where it is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from typing import Any

import libvirt

from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import ConsoleTakenError, DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import Connection, lookup
from kvmcompose.providers.libvirt.interface.consoles import Screen

#: How much of what a guest prints waits for its client, and how much stays when that is too much, in bytes.
MOST_WAITING, KEPT = 1 << 19, 1 << 18
_CHUNK = 1 << 16
#: How much input is taken from the client at a time, in bytes.
_INPUT = 4096
_LEFT_OUT = "\x1b[0m\r\n[kvm-compose: {} bytes left out: they came faster than they were read]\r\n"

_STREAM_ENDS = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
_SOCKET_ENDS = libvirt.VIR_EVENT_HANDLE_ERROR | libvirt.VIR_EVENT_HANDLE_HANGUP


class LibvirtConsoles:
    """The consoles and screens of domains on one host. ``runner`` connects to screens."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner

    async def open(self, name: str, *, force: bool) -> socket.socket:
        doing = f"open the console of {name}"

        def open_it(connection: Any) -> socket.socket:
            domain = lookup(connection, name)
            if domain is None:
                raise RefusedError(f"there is no domain {name} on {self._runner.name}")
            return _opened(connection, domain, force=force)

        opening = asyncio.ensure_future(self._connection.call_once(doing, open_it))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # it is waited for all the same, and then nobody wants it
            with contextlib.suppress(DriverError):
                (await opening).close()
            raise

    async def screen(self, name: str) -> Screen | None:
        def look(connection: Any) -> Screen | None:
            domain = lookup(connection, name)
            return None if domain is None else screen(domain)

        return await self._connection.call(f"inspect the domain {name}", look)

    async def open_screen(self, screen: Screen) -> socket.socket:
        return await self._runner.connect(screen.address, screen.port)


def _opened(connection: Any, domain: Any, *, force: bool) -> socket.socket:
    """Open the console of a domain. Raises RefusedError, libvirtError."""
    name = domain.name()
    if not domain.isActive():
        raise RefusedError(f"{name} is off")
    stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
    try:
        # two users at a time would each read a part of what it prints
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED and "Active console" in str(error):
            raise ConsoleTakenError(f"another user has the console of {name}") from None
        raise
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    _Copying(stream, theirs)
    return ours


class WaitingOutput:
    """What a guest has printed and its client has not read yet, of bounded size."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __bool__(self) -> bool:
        return bool(self._data)

    def add(self, data: bytes) -> None:
        """Add what was printed; where that is too much, the newest stays, from the start of a line on."""
        self._data += data
        if len(self._data) <= MOST_WAITING:
            return
        cut = self._data.find(b"\n", len(self._data) - KEPT)
        cut = cut + 1 if cut >= 0 else len(self._data) - KEPT
        note = _LEFT_OUT.format(cut).encode()
        self._data[:cut] = note

    def sent(self, count: int) -> None:
        """Remove what was read."""
        del self._data[:count]

    def part(self) -> bytes:
        """Return what is to be read next."""
        return bytes(self._data[:_CHUNK])


class _Copying:
    """Copies until the stream or the socket ends; all methods run in the thread of libvirt's event loop."""

    def __init__(self, stream: Any, endpoint: socket.socket) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._output = WaitingOutput()
        self._input = b""
        self._wanted = libvirt.VIR_STREAM_EVENT_READABLE, libvirt.VIR_EVENT_HANDLE_READABLE
        self._over = False
        self._watch = libvirt.virEventAddHandle(
            endpoint.fileno(), self._wanted[1] | _SOCKET_ENDS, self._on_socket, None
        )
        stream.eventAddCallback(self._wanted[0] | _STREAM_ENDS, self._on_stream, None)

    def _on_stream(self, _stream: Any, events: int, _opaque: None) -> None:
        if self._over:
            return
        try:
            if events & libvirt.VIR_STREAM_EVENT_READABLE:
                self._read_stream()
            if events & libvirt.VIR_STREAM_EVENT_WRITABLE:
                self._write_stream()
        except libvirt.libvirtError:
            self._end()
            return
        if events & _STREAM_ENDS:
            self._end()
        self._listen()

    def _on_socket(self, _watch: int, _fd: int, events: int, _opaque: None) -> None:
        if self._over:
            return
        try:
            if events & libvirt.VIR_EVENT_HANDLE_WRITABLE:
                self._write_socket()
            if events & libvirt.VIR_EVENT_HANDLE_READABLE:
                self._input = self._endpoint.recv(_INPUT)
                if not self._input:
                    self._end()
                    return
                self._write_stream()
        except BlockingIOError:
            pass
        except (OSError, libvirt.libvirtError):
            self._end()
            return
        if events & _SOCKET_ENDS:
            self._end()
        self._listen()

    def _read_stream(self) -> None:
        data = self._stream.recv(_CHUNK)
        if data == _WOULD_BLOCK:
            return
        if not data:
            self._write_socket()
            self._end()
            return
        self._output.add(data)
        self._write_socket()

    def _write_socket(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._output:
                self._output.sent(self._endpoint.send(self._output.part()))

    def _write_stream(self) -> None:
        while self._input:
            count = self._stream.send(self._input)
            if count < 0:  # it takes nothing now
                return
            self._input = self._input[count:]

    def _listen(self) -> None:
        """Ask for the events that there is something to do for."""
        if self._over:
            return
        stream = libvirt.VIR_STREAM_EVENT_READABLE | (libvirt.VIR_STREAM_EVENT_WRITABLE if self._input else 0)
        # while input waits, no more is taken
        events = 0 if self._input else libvirt.VIR_EVENT_HANDLE_READABLE
        events |= libvirt.VIR_EVENT_HANDLE_WRITABLE if self._output else 0
        if (stream, events) == self._wanted:
            return
        self._wanted = stream, events
        try:
            self._stream.eventUpdateCallback(stream | _STREAM_ENDS)
        except libvirt.libvirtError:
            self._end()
            return
        libvirt.virEventUpdateHandle(self._watch, events | _SOCKET_ENDS)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        libvirt.virEventRemoveHandle(self._watch)
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.eventRemoveCallback()
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()
        self._endpoint.close()


#: What ``virStream.recv`` and ``send`` return where they would block.
_WOULD_BLOCK = -2


def screen(domain: Any) -> Screen | None:
    """Return the screen of a domain: VNC, if it has several."""
    found = screen_of(domain.XMLDesc(0))
    if found is None or domain.isActive():  # asked last: what has ended meanwhile serves nothing either
        return found
    # what the XML of one that is off says is not QEMU's, but any program's that has this port
    return Screen(kind=found.kind)


def screen_of(xml: str) -> Screen | None:
    """Return the screen that the XML of a domain describes."""
    found = []
    for each in xmls.parse(xml, "domain").iterfind("devices/graphics"):
        listen = each.find("listen")
        where = "" if listen is None else listen.get("address", "")
        number = each.get("port", "")
        at_port = listen is None or listen.get("type", "address") in ("address", "network")
        found.append(
            Screen(
                kind=each.get("type", ""),
                address=_reachable(where or each.get("listen", "")),
                port=int(number) if at_port and number.isdecimal() else 0,
            )
        )
    return next((each for each in found if each.kind == "vnc"), next(iter(found), None))


def _reachable(address: str) -> str:
    """Return an address at which the host itself reaches what listens at this one."""
    try:
        listening = ipaddress.ip_address(address)
    except ValueError:  # a name, or nothing
        return address or "127.0.0.1"
    if listening.is_unspecified:
        return "127.0.0.1" if listening.version == 4 else "::1"  # noqa: PLR2004 (of IP)
    return address
