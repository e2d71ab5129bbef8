"""Runs programs on a testbed host. Commands are argv lists, never shell strings.

Code that drives a host takes a ``CommandRunner``: ``local`` runs programs on this machine, ``remote`` on
another one, over SSH.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.hosts.errors import DriverError, NotInstalledError

log = logging.getLogger(__name__)

#: Appended to PATH: a user's may lack the folders of administration programs.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_PACKAGES = {
    "ethtool": "ethtool",
    "ip": "iproute2",
    "nft": "nftables",
    "ovn-appctl": "ovn-common",
    "nsenter": "util-linux",
    "ovs-appctl": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "pkill": "procps",
    "ps": "procps",
    "python3": "python3",
    "qemu-img": "qemu-utils",
    "sudo": "sudo",
    "tcpdump": "tcpdump",
}
#: How long a program has to exit after its time limit, in seconds; then it is killed.
GRACE = 1
_NO_SUCH_PROGRAM = 127
#: How long a TCP port may take to answer, in seconds.
CONNECT_SECONDS = 10
CHUNK = 1 << 16
#: How much of a program's standard error is kept, in bytes: the end.
_COMPLAINTS = 1 << 16
#: The most that a program may print, in bytes: ten times what Open vSwitch prints for ten thousand guests.
MOST_OUTPUT = 1 << 26
#: Runs a program in a process group of its own until this shell's standard input ends. The caller may not be
#: allowed to kill the program (which runs as root), be dead, or have lost the connection. SIGTERM, because a
#: shell's background processes ignore SIGINT; tcpdump flushes its output at either.
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
#: The longest standard input that is shown with a command in messages, in bytes.
_SHOWN = 1 << 16


class Completed(msgspec.Struct, frozen=True):
    """Exit status and output of a program."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def complaint(self) -> str:
        """The last line of standard error."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it printed nothing)"


class CommandRunner(Protocol):
    """Runs programs on one host."""

    name: str

    async def reach(self) -> None:
        """Raise DriverError when the host does not answer."""

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

        ``privileged``: as root. Its locale is C. Raises DriverError when it cannot be started, takes too long
        or (unless ``check=False``) fails.
        """

    def stream(self, argv: Sequence[str], *, privileged: bool = False) -> AsyncGenerator[bytes]:
        """Yield what a program prints as it arrives; chunks are never empty.

        When the generator is closed (``aclose``) or cancelled, the program gets SIGTERM, shortly afterwards
        SIGKILL, and has ended when this returns. It ends, too, when this process dies or the connection to
        the host is lost. While no chunks are read, the program blocks. Raises DriverError when it cannot be
        started or fails.
        """

    async def attach(self, argv: Sequence[str], *, privileged: bool = False) -> socket.socket:
        """Start a program, and return a socket that is its standard input, output and error.

        The socket does not block. The program has to end at the end of its input, which comes when the socket
        is closed, this process dies or the connection to the host is lost. Raises DriverError when it cannot
        be started.
        """

    async def connect(self, address: str, port: int) -> socket.socket:
        """Return a socket, which does not block, that is connected to a TCP port as the host sees it.

        Raises DriverError when nothing answers.
        """


def not_connected(host: str, address: str, port: int, reason: str) -> DriverError:
    """Return the error of a TCP port that does not answer."""
    return DriverError(f"cannot connect to {address}, port {port}, on {host}: {reason}")


def while_wanted(argv: Sequence[str]) -> list[str]:
    """Return a command that runs another one, and ends it at the end of its own standard input."""
    return ["sh", "-c", _WHILE_WANTED, "sh", *argv]


def _too_much(program: str, host: str) -> DriverError:
    """Return the error of a program that prints too much."""
    return DriverError(
        f"{program} printed more than {MOST_OUTPUT >> 20} MiB on {host} and was killed",
        hint="see what it prints: run it there by hand, with `| head`",
    )


async def _bounded(source: Readable, program: str, host: str) -> bytes:
    """Read to the end. Raises DriverError for more than MOST_OUTPUT."""
    found = bytearray()
    while chunk := await source.read(CHUNK):
        found += chunk
        if len(found) > MOST_OUTPUT:
            raise _too_much(program, host)
    return bytes(found)


async def collect(
    stdout: Readable, stderr: Readable, feed: Coroutine[Any, Any, None], program: str, host: str
) -> tuple[bytes, bytes]:
    """Return both outputs of a program once it has closed them, while ``feed`` writes its input.

    Of standard error only the end is kept. Raises DriverError for too much on standard output.
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
    """A source of bytes."""

    async def read(self, n: int, /) -> bytes:
        """Return up to ``n`` bytes, none at the end."""


async def tail(source: Readable) -> bytes:
    """Read to the end, and return the last of it."""
    found = b""
    while chunk := await source.read(CHUNK):
        found = (found + chunk)[-_COMPLAINTS:]
    return found


def as_root(argv: Sequence[str], seconds: float) -> list[str]:
    """Return the command under sudo, with its own time limit: we may not kill what runs as root."""
    return ["sudo", "-n", "--", "timeout", f"--kill-after={GRACE}", f"{seconds:g}", *argv]


def failure(
    argv: Sequence[str],
    completed: Completed,
    host: str,
    *,
    stdin: bytes | None = None,
    privileged: bool = False,
) -> DriverError:
    """Return the error of a program that failed: its message, and the command to reproduce it."""
    if completed.complaint.startswith("sudo: a password is required"):
        return DriverError(
            f"{argv[0]} has to run as root on {host}, but sudo requires a password",
            hint="run the server as root, or let its user run sudo without a password",
        )
    if is_not_installed(completed):
        return not_installed(argv[0], host)
    # a line under its own name says more than the last line: tcpdump ends with its counters
    lines = completed.stderr.decode(errors="replace").splitlines()
    own = [line for line in lines if line.startswith(f"{argv[0]}: ")] or [completed.complaint]
    return DriverError(
        f"{argv[0]} failed with status {completed.status} on {host}: {own[-1]}",
        hint=f"to reproduce: {pasteable(argv, stdin, privileged=privileged)}",
    )


def pasteable(argv: Sequence[str], stdin: bytes | None = None, *, privileged: bool = False) -> str:
    """Return a command with its standard input, to be pasted into a shell."""
    text = shlex.join(["sudo", *argv] if privileged and os.geteuid() != 0 else argv)
    if stdin is None:
        return text
    if len(stdin) > _SHOWN or b"\0" in stdin:
        return f"{text}  # with {len(stdin)} bytes on its standard input"
    return f"{text} <<'END'\n{stdin.decode(errors='replace').rstrip()}\nEND"


def is_not_installed(completed: Completed) -> bool:
    """Return whether there is no such program, as reported by env, timeout and sudo."""
    return completed.status == _NO_SUCH_PROGRAM and "No such file" in completed.complaint


def not_installed(program: str, host: str) -> NotInstalledError:
    """Return the error of a missing program, and the package that has it."""
    package = _PACKAGES.get(program)
    return NotInstalledError(
        f"the program {program!r} is not installed on {host}",
        hint=f"sudo apt-get install {package}" if package else None,
    )
