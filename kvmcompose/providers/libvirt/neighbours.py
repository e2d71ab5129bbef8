"""Which machines answer at which addresses, as a host sees its neighbours (ARP)."""

from __future__ import annotations

import contextlib

import msgspec

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError

#: States of a neighbour that has not answered, or was not asked (ip-neighbour(8)).
_SILENT = frozenset({"FAILED", "INCOMPLETE", "NONE"})


class _Neighbour(msgspec.Struct, frozen=True):
    """A neighbour as ``ip -json neighbour show`` prints it."""

    lladdr: str = ""
    state: tuple[str, ...] = ()


async def answers(runner: CommandRunner, mac: str, address: str) -> bool:
    """Return whether the machine at an IPv4 address has this MAC address.

    The host asks for it once more: what it remembers may be old. The machine need not answer the ping.
    """
    with contextlib.suppress(DriverError):  # not installed: what the host remembers has to do
        await runner.run(["ping", "-n", "-q", "-c", "1", "-W", "1", "--", address], check=False)
    shown = await runner.run(["ip", "-json", "neighbour", "show", "to", address])
    try:
        found = msgspec.json.decode(shown.stdout or b"[]", type=list[_Neighbour])
    except msgspec.DecodeError as error:
        raise DriverError(f"ip -json neighbour show printed invalid output: {error}") from error
    return any(each.lladdr == mac.lower() and _SILENT.isdisjoint(each.state) for each in found)
