"""Guests of simulated hosts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeDisk, FakeDomain, Worlds
from kvmcompose.providers.guest.interface import Input, Login, OnLine

_USERS = frozenset({"root", "postgres"})


def _unwrapped(login: Login, argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the user that a command runs as, and the command without what makes it run so."""
    match list(argv):
        case ["sudo", "-n", "-u", user, "--", "sh", "-c", _, "sh", *words]:
            return user, words
        case ["sudo", "-n", "--", *words]:
            return "root", words
    return login.user, list(argv)


async def _print(user: str, words: list[str], on_line: OnLine, stdin: Input | None) -> None:
    """Print what a command prints."""
    match words:
        case ["whoami"]:
            on_line(user)
        case ["echo", *rest]:
            on_line(" ".join(rest))
        case ["sha256sum"] if stdin is not None:
            digest = hashlib.sha256()
            async for chunk in stdin:
                digest.update(chunk)
            on_line(digest.hexdigest())
        case _:
            on_line(f"(a fake guest) {words[-1]}")


class FakeShell:
    """See ``GuestShell``. Only a few commands that tests and users need have an effect."""

    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds

    def _find(self, login: Login) -> tuple[str, FakeDomain]:
        """Return the name of the host that a guest runs on, and its domain."""
        for host, world in self._worlds.worlds.items():
            domain = world.domains.get(login.alias)
            if domain is not None and domain.started:
                return host, domain
        raise DriverError(f"{login.guest} is not running")

    async def wait_ready(self, login: Login, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        await self._worlds.call("wait_ready", login.guest)
        self._find(login)

    async def run(
        self,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        seconds: float | None = None,
        stdin: Input | None = None,
    ) -> int:
        user, words = _unwrapped(login, argv)
        await self._worlds.call("run", f"{login.guest}:{words[-1]}")
        host, domain = self._find(login)
        markers = self._worlds.worlds[host].disks.setdefault(domain.disk, FakeDisk()).markers
        if user not in _USERS | {login.user}:
            on_line(f"sudo: unknown user: {user}")
            return 1
        match words:
            case ["test", "-e", path]:
                return 0 if path in markers else 1
            case ["sh", "-c", note, _, path] if ': >"$1"' in note:
                markers.append(path)
                self._worlds.keep(host, ("disks", domain.disk))
            case ["false"]:
                return 1
            case ["sleep", time_]:
                try:
                    await asyncio.wait_for(asyncio.sleep(float(time_)), seconds)
                except TimeoutError:
                    raise DriverError(f"{login.guest}: sleep did not end within {seconds:g} s") from None
            case _:
                await _print(user, words, on_line, stdin)
        return 0

    async def disconnect(self, alias: str) -> None:
        await self._worlds.call("disconnect", alias)

    async def forget(self, login: Login) -> None:
        await self._worlds.call("forget", login.guest)
