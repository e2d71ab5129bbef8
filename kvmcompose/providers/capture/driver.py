"""Packets of a host, captured by tcpdump(8).

The interface of an Open vSwitch bridge itself shows only packets for the host. So a bridge is captured at a
port that mirrors all traffic of the bridge (``Mirrors``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from kvmcompose.core.commands import Capture
from kvmcompose.hosts.command import CommandRunner, failure
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.capture.interface import Mirrors

_WRONG = "can't parse filter expression: "
#: What tcpdump prints when its interface disappears: the guest is off, the bridge was removed.
_GONE = ("The interface disappeared", "The interface went down")


class TcpdumpCaptures:
    """See ``Captures``."""

    def __init__(self, runner: CommandRunner, mirrors: Mirrors) -> None:
        self._runner = runner
        self._mirrors = mirrors

    async def check_filter(self, expression: str) -> str | None:
        """Return what tcpdump says is wrong with it."""
        argv = ["tcpdump", "-d", "--", expression]
        done = await self._runner.run(argv, check=False)
        if done.status == 0:
            return None
        said = done.complaint
        if not said.startswith("tcpdump: "):
            raise failure(argv, done, self._runner.name)
        return said.removeprefix("tcpdump: ").removeprefix(_WRONG)

    def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        return self._stream(arguments(name, wanted))

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Yield packets that enter a bridge."""
        async with (
            self._mirrors.open(project, name) as port,
            aclosing(self._stream(arguments(port, wanted, mirrored=True))) as packets,
        ):
            async for chunk in packets:
                yield chunk

    async def _stream(self, argv: list[str]) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._runner.stream(argv, privileged=True)) as packets:
                async for chunk in packets:
                    yield chunk
        except DriverError as error:
            if not any(word in error.message for word in _GONE):
                raise


def arguments(interface: str, wanted: Capture, *, mirrored: bool = False) -> list[str]:
    """Return the command that writes packets to its standard output without delay.

    ``mirrored``: only received packets count; what the host itself sends there is not the bridge's.
    """
    argv = ["tcpdump", "-i", interface, "-U", "--immediate-mode", "-s", str(wanted.snaplen), "-w", "-"]
    if mirrored:
        argv += ["-Q", "in"]
    if wanted.count is not None:
        argv += ["-c", str(wanted.count)]
    if wanted.filter is not None:
        argv += ["--", wanted.filter]
    return argv
