"""Runs a program on this machine with the rights of one user, in that user's folder.

Nothing of this process reaches it but what is given: no environment, no descriptors, no terminal. It is ended
with its children when it takes too long, prints too much, or nobody wants its output any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.command import CHUNK, SYSTEM_PATH, Completed, Readable, tail
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import Program, start_as

#: The most that a program prints, in bytes: a plan of ten thousand guests.
MOST_OUTPUT = 1 << 25
#: The longest line, in bytes.
LONGEST_LINE = 1 << 20
#: How long a program that was interrupted may take to end, in seconds: it ends programs of its own.
_INTERRUPTED_SECONDS = 3.0
#: The same for one that was killed: the kernel ends it, and its pipes unless others have them, too.
_KILLED_SECONDS = 1.0
#: Changes to the folder with the rights of the user, which the kernel checks on the way.
_IN_FOLDER = 'cd -- "$1" || exit 126; shift; ulimit -c 0; exec "$@"'
_NO_FOLDER = 126


class UserAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A user of this machine, and the groups that the user is in."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str

    @property
    def environment(self) -> dict[str, str]:
        """The least that a program of this user needs."""
        return {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": SYSTEM_PATH,
            "LANG": "C.UTF-8",
        }


def account_of(uid: int) -> UserAccount:
    """Return a user. Raises RefusedError where there is no account."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise RefusedError(f"the user ID {uid} has no account on this machine") from None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return UserAccount(uid=uid, gid=entry.pw_gid, groups=groups, name=entry.pw_name, home=entry.pw_dir)


class OwnerCommand:
    """One run of a program as a user. ``title`` is what messages call it."""

    def __init__(
        self,
        title: str,
        argv: Sequence[str],
        *,
        account: UserAccount,
        folder: Path,
        environment: Mapping[str, str],
        seconds: float,
    ) -> None:
        self._title = title
        self._argv = ["/bin/sh", "-c", _IN_FOLDER, "sh", str(folder), *argv]
        self._account = account
        self._folder = folder
        self._environment = environment
        self._seconds = seconds
        self._deadline = 0.0
        self._process: Program | None = None

    @property
    def pid(self) -> int | None:
        """The number of its process, as soon as it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self, *, merged: bool = False) -> None:
        """Start it; ``merged``: standard error goes to standard output. Raises DriverError."""
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        other = self._account if os.geteuid() != self._account.uid else None
        self._process = await start_as(
            self._argv,
            environment=self._environment,
            rights=None if other is None else (other.uid, other.gid, other.groups),
            merged=merged,
            longest_line=LONGEST_LINE,
        )

    async def output(self, stdin: bytes = b"") -> Completed:
        """Return its status and output, once it has ended. Raises DriverError."""
        process = self._started()
        assert process.stdout is not None  # noqa: S101 (a pipe, as is the next)
        assert process.stderr is not None  # noqa: S101
        feeding = asyncio.create_task(self._feed(stdin))
        complaining = asyncio.create_task(tail(process.stderr))
        try:
            async with asyncio.timeout_at(self._deadline):
                printed = await self._bounded(process.stdout)
                status = await process.wait()
                complaints = await complaining
        except TimeoutError:
            raise self._too_slow() from None
        finally:
            for task in (feeding, complaining):
                task.cancel()
            await asyncio.gather(feeding, complaining, return_exceptions=True)
            await self.end()
        self._check_folder(status, complaints)
        return Completed(status, printed, complaints)

    async def lines(self, stdin: bytes = b"") -> AsyncGenerator[bytes]:
        """Yield each line that it prints, then end. ``status`` is known then. Raises DriverError."""
        process = self._started()
        assert process.stdout is not None  # noqa: S101 (a pipe)
        feeding = asyncio.create_task(self._feed(stdin))
        left = MOST_OUTPUT
        try:
            while line := await self._line(process.stdout):
                left -= len(line)
                if left < 0:
                    raise self._too_much()
                yield line
            async with asyncio.timeout_at(self._deadline):
                await process.wait()
        except TimeoutError:
            raise self._too_slow() from None
        except ValueError:  # a line without an end
            raise self._too_much() from None
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await self.end()

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs, and for one that was killed."""
        status = self._process.returncode if self._process is not None else None
        return status if status is not None and status >= 0 else None

    async def end(self) -> None:
        """End it, if it runs: by an interrupt, upon which it ends its own programs, then by force."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            await _interrupt(process)
        # a program of its own that has left its session lives on, and would keep the pipes open
        process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001

    async def _line(self, source: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout_at(self._deadline):
            return await source.readline()

    def _started(self) -> Program:
        assert self._process is not None  # noqa: S101 (the caller has started it)
        return self._process

    async def _feed(self, data: bytes) -> None:
        process = self._started()
        assert process.stdin is not None  # noqa: S101 (a pipe)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.close()

    async def _bounded(self, source: Readable) -> bytes:
        found = bytearray()
        while chunk := await source.read(CHUNK):
            found += chunk
            if len(found) > MOST_OUTPUT:
                raise self._too_much()
        return bytes(found)

    def _check_folder(self, status: int, complaints: bytes) -> None:
        if status == _NO_FOLDER and complaints.startswith((b"/bin/sh:", b"sh:")):
            raise DriverError(
                f"{self._account.name} cannot run the command line in {self._folder}: "
                f"{complaints.decode(errors='replace').strip().splitlines()[-1]}",
                hint="may this user enter the folder, and read the installation of kvm-compose?",
            )

    def _too_slow(self) -> DriverError:
        return DriverError(f"{self._title} did not end within {self._seconds:g} s, and was ended")

    def _too_much(self) -> DriverError:
        return DriverError(f"{self._title} printed more than {MOST_OUTPUT >> 20} MiB, and was ended")


async def _interrupt(process: Program) -> None:
    """Interrupt a program with its children; kill them if that takes too long."""
    for number, seconds in ((signal.SIGINT, _INTERRUPTED_SECONDS), (signal.SIGKILL, _KILLED_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        # for asyncio a process ends only when its pipes do, and unread output keeps those open
        rest = [
            asyncio.create_task(_discard(pipe))
            for pipe in (process.stdout, process.stderr)
            if pipe is not None
        ]
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(process.wait())
        except TimeoutError:
            continue
        finally:
            for each in rest:
                each.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        return


async def _discard(pipe: asyncio.StreamReader) -> None:
    with contextlib.suppress(ValueError, OSError):
        await tail(pipe)
