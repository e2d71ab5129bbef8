"""Guests of simulated hosts."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import tarfile
from collections.abc import Sequence

from kvmcompose.core.ready import HttpReady
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import FakeProbe, Worlds
from kvmcompose.hosts.fake_world import FakeDisk, FakeDomain
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.providers.guest.interface import Login

_USERS = frozenset({"root", "postgres"})
#: The status of a script that belongs to something else than what was sent last.
_STALE = 113


def _unwrapped(login: Login, argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the user that a command runs as, and the command without what makes it run so."""
    match list(argv):
        case ["sudo", "-n", "-u", user, "--", "sh", "-c", _, "sh", *words]:
            return user, words
        case ["sudo", "-n", "--", *words]:
            return "root", words
    return login.user, list(argv)


async def _all(stdin: Pieces | None) -> bytes:
    return b"".join([chunk async for chunk in stdin]) if stdin is not None else b""


def _digests(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        files = {each.name: members.extractfile(each) for each in members if each.isreg()}
        return {name: hashlib.sha256(file.read()).hexdigest() for name, file in files.items() if file}


async def _of_scripts(words: list[str], disk: FakeDisk, on_line: OnLine, stdin: Pieces | None) -> int | None:
    """Do what the server's scripts in ``orchestrator.scripts`` do with files below ``/etc/nocloud``.

    Returns the status, None for another command.
    """
    match words:
        case ["sh", "-c", look, _, folder] if "for name in *" in look:
            on_line(disk.sent)
            for path, content in sorted(disk.markers.items()):
                if path.startswith(f"{folder}/"):
                    on_line(f"{path.rpartition('/')[2]}\t{content}")
            return 0
        case ["sh", "-c", note, _, path] if '.new" "$1"' in note:
            disk.markers[path] = (await _all(stdin)).decode()
            return 0
        case ["sh", "-c", send, _, digest] if "tar -xf -" in send:
            disk.files = _digests(await _all(stdin))
            disk.sent = digest
            return 0
        case ["sh", "-c", run, _, script, wanted] if 'exec sh "$1"' in run:
            if wanted and disk.sent not in ("", wanted):
                return _STALE
            on_line(f"(a fake guest) {script}")
            return 0
        case ["rm", "-rf", folder]:
            disk.markers = {
                path: content for path, content in disk.markers.items() if not path.startswith(f"{folder}/")
            }
            return 0
    return None


def _probes(domain: FakeDomain, lines: bytes) -> list[FakeProbe]:
    """Return what the sender of ``orchestrator.probe_sender`` sends: a line is a packet."""
    nics = domain.hardware.nics
    fields = [line.split() for line in lines.decode().splitlines()] if nics else []
    return [FakeProbe(nics[0].mac, each[1], each[2], int(each[3]), each[4]) for each in fields]


async def _print(user: str, words: list[str], on_line: OnLine, stdin: Pieces | None) -> None:
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

    async def _enter(self, login: Login) -> tuple[str, FakeDomain]:
        """Return what ``_find`` does, after connecting through the guest's gate, if it has one."""
        if login.gate is not None:
            (await login.gate.connect(login.address, login.port)).close()
        return self._find(login)

    async def reach(self, login: Login) -> socket.socket:
        await self._worlds.call("reach", login.guest)
        self._find(login)
        if login.gate is None:
            raise DriverError("a fake guest is on no network")
        return await login.gate.connect(login.address, login.port)

    async def wait_ready(self, login: Login, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        await self._worlds.call("wait_ready", login.guest)
        await self._enter(login)

    async def wait_answer(
        self,
        login: Login,
        seconds: float,  # noqa: ARG002 (fakes are ready at once)
        http: HttpReady | None = None,
    ) -> None:
        path = "" if http is None else http.path
        await self._worlds.call("wait_answer", f"{login.guest}:{login.port}{path}")
        await self._enter(login)

    async def run(
        self,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        user, words = _unwrapped(login, argv)
        is_script = words[:2] == ["sh", "-c"] and 'exec sh "$1"' in words[2]
        await self._worlds.call("run", f"{login.guest}:{words[4] if is_script else words[-1]}")
        host, domain = await self._enter(login)
        if user not in _USERS | {login.user}:
            on_line(f"sudo: unknown user: {user}")
            return 1
        try:
            return await asyncio.wait_for(self._do(host, domain, user, words, on_line, stdin), seconds)
        except TimeoutError:
            raise DriverError(f"{login.guest}: {words[0]} did not end within {seconds:g} s") from None

    async def inside(self, name: str, argv: Sequence[str], stdin: Pieces, on_line: OnLine) -> int:
        """Run a command of root's in a domain, as its guest agent does; return its exit status."""
        match list(argv):
            case ["su", "-s", _, "-c", _, "--", user, "sh", *words] if user in _USERS:
                pass
            case ["su", *_]:
                on_line("su: unknown user")
                return 1
            case words:
                user = "root"
        for host, world in self._worlds.worlds.items():
            if name in world.domains:
                return await self._do(host, world.domains[name], user, words, on_line, stdin)
        raise DriverError(f"there is no domain {name}")

    async def _do(
        self,
        host: str,
        domain: FakeDomain,
        user: str,
        words: list[str],
        on_line: OnLine,
        stdin: Pieces | None,
    ) -> int:
        disk = self._worlds.worlds[host].disks.setdefault(domain.disk, FakeDisk())
        status = await _of_scripts(words, disk, on_line, stdin)
        if status is not None:
            self._worlds.keep(host, ("disks", domain.disk))
            return status
        match words:
            case ["sh", "-c", _, _, sender, _] if "/dev/tcp" in sender:
                self._worlds.probes += _probes(domain, await _all(stdin))
                on_line("done")
            case ["false"]:
                return 1
            case ["sleep", time_]:
                await asyncio.sleep(float(time_))
            case _:
                await _print(user, words, on_line, stdin)
        return 0

    async def disconnect(self, alias: str) -> None:
        await self._worlds.call("disconnect", alias)

    async def host_key(self, login: Login) -> str | None:
        """Each life of a guest has a key."""
        await self._worlds.call("host_key", login.guest)
        return f"ssh-fake {login.alias}:{login.life or 'none'}"

    async def expect(self, login: Login, key: str) -> None:
        await self._worlds.call("expect", f"{login.guest}:{key}")

    async def forget(self, login: Login) -> None:
        await self._worlds.call("forget", login.guest)
