"""Waits until a port of a guest answers: TCP, or HTTP (RFC 9110). Guests are hostile: all is bounded."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket

from kvmcompose.core.plain import plain
from kvmcompose.core.ready import HttpReady
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.ssh import text_of
from kvmcompose.providers.guest.connection import reach
from kvmcompose.providers.guest.interface import Login

_PAUSES = (0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
#: How long a server may take to answer a request, in seconds, and how long its status line may be.
_ANSWER_SECONDS = 10.0
_LONGEST_LINE = 1024
_SHOWN = 60
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?:[ \r\n]|$)")


async def wait_answer(login: Login, seconds: float, http: HttpReady | None) -> None:
    """See ``GuestShell.wait_answer``."""
    cause = "nothing has answered yet"
    what = f"TCP port {login.port}" if http is None else f"http://{login.address}:{login.port}{http.path}"
    try:
        async with asyncio.timeout(seconds):
            for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
                try:
                    endpoint = await reach(login)
                    with endpoint:
                        cause = await _refusal(endpoint, login, http) if http is not None else ""
                    if not cause:
                        return
                except OSError as error:
                    cause = _why(login, error)
                await asyncio.sleep(pause)
    except TimeoutError:
        raise DriverError(
            f"{login.guest} was not ready within {seconds:.0f} s: it was waited for {what}; {cause}",
            hint=f"see its console: kvm-compose console {login.guest};"
            " a guest that takes longer has 'ready_timeout_seconds'",
        ) from None


def _why(login: Login, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{login.address} is up, but nothing listens on port {login.port}"
    if isinstance(error, TimeoutError):
        return f"nothing answers at {login.address} (no route to it, or it has not booted)"
    return f"{login.address} does not answer: {text_of(error)}"


async def _refusal(endpoint: socket.socket, login: Login, http: HttpReady) -> str:
    """Ask a server once; return why its answer is not the one that is waited for, "" if it is."""
    request = (
        f"GET {http.path} HTTP/1.1\r\nHost: {login.address}:{login.port}\r\n"
        "User-Agent: kvm-compose\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(endpoint, request.encode())
            line = b""
            while b"\n" not in line and len(line) < _LONGEST_LINE:
                part = await loop.sock_recv(endpoint, _LONGEST_LINE - len(line))
                if not part:
                    break
                line += part
    except TimeoutError:
        return f"it takes connections, but answered nothing within {_ANSWER_SECONDS:.0f} s"
    found = _STATUS_LINE.match(line)
    if found is None:
        said = plain(line.partition(b"\n")[0][:_SHOWN].decode(errors="replace").rstrip())
        return f"what answers is no HTTP server: {said!r}" if line else "it closed the connection unanswered"
    status = int(found[1])
    return "" if http.accepts(status) else f"it answers with status {status}"
