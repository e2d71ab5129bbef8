"""The one way to run programs on a testbed host. Commands are argv lists, never shell strings.

Whatever drives a host takes a ``CommandRunner``: ``local`` runs programs on this machine, ``remote`` on
another one, over SSH.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.hosts.errors import DriverError

log = logging.getLogger(__name__)

#: Programs of the system's administration are not on everybody's PATH.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_PACKAGES = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "ovs-appctl": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "pkill": "procps",
    "ps": "procps",
    "qemu-img": "qemu-utils",
    "sudo": "sudo",
    "tcpdump": "tcpdump",
}
#: How long a program that was told to end by its time limit gets, in seconds.
GRACE = 1
_NO_SUCH_PROGRAM = 127
CHUNK = 1 << 16
#: What is kept of what a stream's program says on standard error, in bytes: the last.
_COMPLAINTS = 1 << 16
#: What a program may print, in bytes: what Open vSwitch tells of ten thousand guests is a tenth of it.
MOST_OUTPUT = 1 << 26
#: Runs a program, with a process group of its own, until this shell's standard input ends, whatever ended it:
#: who started it may not be allowed to kill it (it is root's), be dead, or have lost the connection. SIGTERM,
#: as what a shell starts in the background ignores SIGINT; tcpdump writes out what it has at either.
_WHILE_WANTED = """\
exec 3<&0
setsid env "$@" </dev/null 3<&- & group=$!
{ read -r _; kill -TERM "-$group"; sleep 2; kill -KILL "-$group"; } <&3 >/dev/null 2>&1 & watcher=$!
exec 3<&-
wait "$group"
status=$?
kill "$watcher"
exit "$status"
"""
#: The longest standard input that is shown with a command, in bytes.
_SHOWN = 1 << 16


class Completed(msgspec.Struct, frozen=True):
    """How a program ended, and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """The last line on standard error."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"


class CommandRunner(Protocol):
    """A host that programs can be run on."""

    name: str

    async def reach(self) -> None:
        """Raises DriverError when the host does not answer."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        """Run a program to its end; it and its children are killed after ``seconds`` or when cancelled.

        ``privileged``: as root. Messages are in English. Raises DriverError when it cannot be run, takes
        too long or (unless ``check=False``) fails.
        """

    def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        """What a program prints, as it comes, until it ends; chunks are never empty.

        Whoever has had enough closes the generator (``aclose``), or is cancelled: then the program gets
        SIGTERM, soon after that SIGKILL, and has ended when this returns. It ends as well when this process
        dies or the connection to the host is lost. While nobody takes chunks, it waits. Raises DriverError
        when it cannot be run or fails.
        """


def while_wanted(argv: Sequence[str]) -> list[str]:
    """The command that runs another one, and ends it when its own standard input comes to its end."""
    return ["sh", "-c", _WHILE_WANTED, "sh", *argv]


def _too_much(program: str, host: str) -> DriverError:
    """The error of a program that prints without end."""
    return DriverError(
        f"{program} printed more than {MOST_OUTPUT >> 20} MiB on {host}: it was ended",
        hint="see what it prints: run it there by hand, with `| head`",
    )


async def _bounded(source: Readable, program: str, host: str) -> bytes:
    """Read to the end. Raises DriverError for more than a program may print."""
    found = bytearray()
    while chunk := await source.read(CHUNK):
        found += chunk
        if len(found) > MOST_OUTPUT:
            raise _too_much(program, host)
    return bytes(found)


async def collect(
    stdout: Readable, stderr: Readable, feed: Coroutine[Any, Any, None], program: str, host: str
) -> tuple[bytes, bytes]:
    """What a program prints until it closes both of its outputs, while ``feed`` gives it its input.

    Of standard error the last is kept. Raises DriverError for more on standard output than it may print.
    """
    printing = asyncio.ensure_future(_bounded(stdout, program, host))
    complaining = asyncio.ensure_future(tail(stderr))
    feeding = asyncio.ensure_future(feed)
    try:
        printed, complaints, _ = await asyncio.gather(printing, complaining, feeding)
    finally:
        for task in (printing, complaining, feeding):
            task.cancel()
        await asyncio.gather(printing, complaining, feeding, return_exceptions=True)
    return printed, complaints


class Readable(Protocol):
    """Where bytes come from."""

    async def read(self, n: int, /) -> bytes:
        """Up to ``n`` bytes, none at the end."""


async def tail(source: Readable) -> bytes:
    """Read to the end; the last of it."""
    found = b""
    while chunk := await source.read(CHUNK):
        found = (found + chunk)[-_COMPLAINTS:]
    return found


def as_root(argv: Sequence[str], seconds: float) -> list[str]:
    """The command through sudo. What runs as root we could not kill: there it has its own time limit."""
    return ["sudo", "-n", "--", "timeout", f"--kill-after={GRACE}", f"{seconds:g}", *argv]


def failure(
    argv: Sequence[str],
    completed: Completed,
    host: str,
    *,
    stdin: bytes | None = None,
    privileged: bool = False,
) -> DriverError:
    """The error of a program that failed: its last words, and the command to see them again."""
    if completed.complaint.startswith("sudo: a password is required"):
        return DriverError(
            f"{argv[0]} has to run as root on {host}, and sudo asks for a password",
            hint="run the server as root, or let its user run sudo without a password",
        )
    if is_not_installed(completed):
        return not_installed(argv[0], host)
    # what it says in its own name tells more than what it says last: tcpdump ends with its counts
    lines = completed.stderr.decode(errors="replace").splitlines()
    own = [line for line in lines if line.startswith(f"{argv[0]}: ")] or [completed.complaint]
    return DriverError(
        f"{argv[0]} failed with status {completed.status} on {host}: {own[-1]}",
        hint=f"to see it yourself, run: {pasteable(argv, stdin, privileged=privileged)}",
    )


def pasteable(argv: Sequence[str], stdin: bytes | None = None, *, privileged: bool = False) -> str:
    """A command as a shell takes it, with its standard input."""
    text = shlex.join(["sudo", *argv] if privileged and os.geteuid() != 0 else argv)
    if stdin is None:
        return text
    if len(stdin) > _SHOWN or b"\0" in stdin:
        return f"{text}  # with {len(stdin)} bytes on its standard input"
    return f"{text} <<'END'\n{stdin.decode(errors='replace').rstrip()}\nEND"


def is_not_installed(completed: Completed) -> bool:
    """Whether it ended because there is no such program: so say env, timeout and sudo."""
    return completed.status == _NO_SUCH_PROGRAM and "No such file" in completed.complaint


def not_installed(program: str, host: str) -> DriverError:
    """The error of a program that is not there, and the package it is in."""
    package = _PACKAGES.get(program)
    return DriverError(
        f"the program {program!r} is not installed on {host}",
        hint=f"sudo apt-get install {package}" if package else None,
    )
