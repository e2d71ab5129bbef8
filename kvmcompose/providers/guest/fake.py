"""Guests of simulated hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeDisk, FakeDomain, World, Worlds
from kvmcompose.providers.guest.interface import Login, OnLine


class FakeShell:
    """See ``GuestShell``. Only a few commands that tests and users need have an effect."""

    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds

    def _find(self, login: Login) -> tuple[World, FakeDomain]:
        for world in self._worlds.worlds.values():
            domain = world.domains.get(login.alias)
            if domain is not None and domain.started:
                return world, domain
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
    ) -> int:
        words = list(argv[3:] if list(argv[:3]) == ["sudo", "-n", "--"] else argv)
        await self._worlds.call("run", f"{login.guest}:{words[-1]}")
        world, domain = self._find(login)
        markers = world.disks.setdefault(domain.disk, FakeDisk()).markers
        match words:
            case ["test", "-e", path]:
                return 0 if path in markers else 1
            case ["sh", "-c", note, _, path] if ': >"$1"' in note:
                markers.append(path)
                self._worlds.keep()
            case ["false"]:
                return 1
            case ["echo", *rest]:
                on_line(" ".join(rest))
            case ["sleep", time_]:
                try:
                    await asyncio.wait_for(asyncio.sleep(float(time_)), seconds)
                except TimeoutError:
                    raise DriverError(f"{login.guest}: sleep did not end within {seconds:g} s") from None
            case _:
                on_line(f"(a fake guest) {words[-1]}")
        return 0

    async def forget(self, login: Login) -> None:
        await self._worlds.call("forget", login.guest)
