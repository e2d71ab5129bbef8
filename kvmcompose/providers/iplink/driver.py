"""Network interfaces of a host, through ip-link(8); each call changes them in one batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network

import msgspec

from kvmcompose.core.deployable import VethPair
from kvmcompose.hosts import arp
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.iplink.interface import Attached, FoundLink

#: Linux: IFNAMSIZ is 16 with the closing zero. No white space, which separates the words of a batch.
_NAME = re.compile(r"[^\s/\x00-\x1f]{1,15}")
_UP = "UP"
#: Open vSwitch's userspace datapath sets it on the interfaces that it has open; tcpdump's is not shown here.
_PROMISCUOUS = "PROMISC"


class _LinkInfo(msgspec.Struct, frozen=True):
    info_kind: str | None = None


class _Route(msgspec.Struct, frozen=True):
    dst: str
    dev: str = ""
    gateway: str | None = None
    scope: str = ""


class InterfaceState(msgspec.Struct, frozen=True):
    """An interface in ``ip -json -details link show``; ``link`` is the other end of a pair."""

    ifname: str
    address: str = ""
    flags: tuple[str, ...] = ()
    mtu: int = 0
    link: str | None = None
    master: str | None = None
    linkinfo: _LinkInfo = _LinkInfo()

    @property
    def is_veth(self) -> bool:
        return self.linkinfo.info_kind == "veth"

    @property
    def is_up(self) -> bool:
        return _UP in self.flags


class IpLinks:
    """The interfaces of one host."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def attached(self) -> Sequence[Attached]:
        done = await self._runner.run(["ip", "-json", "-4", "route", "show"])
        return parse_routes(done.stdout)

    async def observe(self, names: Collection[str]) -> Mapping[str, FoundLink]:
        there = await self._list()
        return {name: _found(there[name]) for name in names if name in there}

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        """See ``Links``. Raises DriverError when another interface has one of the names."""
        lines = batch_to_apply(await self._list(), veths, up=up, mtu=mtu)
        if lines:
            await self._batch(lines)

    async def remove(self, names: Sequence[str]) -> None:
        lines = batch_to_remove(await self._list(), names)
        if not lines:
            return
        try:
            await self._batch(lines)
        except DriverError:
            # another process may have been faster; what counts is that they are gone
            remaining = batch_to_remove(await self._list(), names)
            if remaining:
                await self._batch(remaining)

    async def arp_answering(self, names: Collection[str]) -> Sequence[str]:
        return await arp.answering(self._runner, names)

    async def leave_arp(self, names: Sequence[str]) -> None:
        await arp.leave_arp_to_bridges(self._runner, names)

    async def _list(self) -> dict[str, InterfaceState]:
        done = await self._runner.run(["ip", "-json", "-details", "link", "show"])
        return parse_links(done.stdout)

    async def _batch(self, lines: Sequence[str]) -> None:
        script = "".join(f"{line}\n" for line in lines).encode()
        await self._runner.run(["ip", "-batch", "-"], stdin=script, privileged=True)


def _found(link: InterfaceState) -> FoundLink:
    return FoundLink(
        up=link.is_up,
        mtu=link.mtu,
        peer=link.link if link.is_veth else None,
        master=link.master,
        attached=link.master is not None or _PROMISCUOUS in link.flags,
    )


def parse_links(output: bytes) -> dict[str, InterfaceState]:
    """Parse ``ip -json -details link show``: interfaces by name."""
    try:
        links = msgspec.json.decode(output or b"[]", type=list[InterfaceState])
    except msgspec.DecodeError as error:
        raise DriverError(f"ip -json link show printed invalid output: {error}") from error
    return {link.ifname: link for link in links}


def parse_routes(output: bytes) -> list[Attached]:
    """Parse ``ip -json -4 route show``: attached subnets, and gateways."""
    try:
        routes = msgspec.json.decode(output or b"[]", type=list[_Route])
    except msgspec.DecodeError as error:
        raise DriverError(f"ip -json route show printed invalid output: {error}") from error
    found = [(route.dst, route.dev) for route in routes if route.scope == "link" and route.dst != "default"]
    found += [(route.gateway, route.dev) for route in routes if route.gateway is not None]
    try:
        return [Attached(IPv4Network(address), interface) for address, interface in found]
    except ValueError as error:
        raise DriverError(f"ip -json route show printed invalid output: {error}") from error


def batch_to_apply(
    there: Mapping[str, InterfaceState], veths: Iterable[VethPair], *, up: Iterable[str], mtu: int
) -> list[str]:
    """Return the commands that create the pairs and set interfaces up, for ``ip -batch``.

    Of existing ones, what differs is set. Raises DriverError when another interface has the name.
    """
    lines: list[str] = []
    raised = list(up)
    for pair in veths:
        left, right = _checked(pair.left), _checked(pair.right)
        _refuse_foreign(there, pair)
        if left not in there:
            lines.append(f"link add name {left} mtu {mtu} type veth peer name {right} mtu {mtu}")
        lines += [
            f"link set dev {end} mtu {mtu}" for end in (left, right) if end in there and there[end].mtu != mtu
        ]
        if pair.right_is_linux and (right not in there or there[right].master != pair.right_bridge):
            lines.append(f"link set dev {right} master {_checked(pair.right_bridge)}")
        raised += [left, right]
    down = (name for name in dict.fromkeys(raised) if name not in there or not there[name].is_up)
    return [*lines, *(f"link set dev {_checked(name)} up" for name in down)]


def batch_to_remove(there: Mapping[str, InterfaceState], names: Iterable[str]) -> list[str]:
    """Return the commands that remove those of the names that exist."""
    gone: set[str] = set()
    lines = []
    for name in names:
        if name not in there or name in gone:
            continue
        lines.append(f"link delete dev {_checked(name)}")
        gone.add(name)
        other = there[name].link
        if other and there[name].is_veth:
            gone.add(other)
    return lines


def _refuse_foreign(there: Mapping[str, InterfaceState], pair: VethPair) -> None:
    left, right = there.get(pair.left), there.get(pair.right)
    if left is None and right is None:
        return
    if left is None or right is None or not left.is_veth or left.link != pair.right:
        name = pair.right if left is None else pair.left
        raise DriverError(
            f"there already is an interface {name}, and it is not an end of the pair"
            f" {pair.left}, {pair.right}",
            hint=f"inspect it: ip -details link show dev {name}; remove or rename it",
        )


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in {".", ".."} or len(name.encode()) > 15:  # noqa: PLR2004
        raise DriverError(f"invalid name of a network interface: {name!r}")
    return name
