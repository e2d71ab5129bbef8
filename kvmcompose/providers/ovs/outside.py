"""The way out of an OVN on one host: a bridge with an address, behind which guests are masqueraded.

The bridge is mapped to a provider network, to which a ``localnet`` port belongs. Its notes in Open vSwitch
name the projects that use it (``outside_notes``). A bridge that exists already, without a note, is used as it
is: its address and its other ports are the administrator's. The config must name such a bridge, which
requires the user's consent.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec

from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.chassis import MAPPINGS, bridge_mappings, quoted
from kvmcompose.providers.ovs.database import OvsdbTable
from kvmcompose.providers.ovs.driver import VSCTL, run_ovs
from kvmcompose.providers.ovs.outside_notes import (
    KEPT_KEY,
    MAPPED_KEY,
    OLD_NETWORK_KEY,
    OLD_PROJECT_KEY,
    USER_KEY,
    OutsideBridge,
    OutsideUser,
    check_outside,
    read_notes,
)

_LIST = (
    "--format=json",
    "--", "--columns=name,external_ids,datapath_type", "list", "Bridge",
    "--", "--columns=external_ids", "list", "Open_vSwitch",
)  # fmt: skip
#: One change at a time: mappings are one text of the host, which is read, changed and written.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class FoundOutside(msgspec.Struct, frozen=True):
    """A way out, as it is. ``wrong`` says what is missing, in words."""

    spec: Outside
    wrong: str = ""


class Outsides(Protocol):
    """The ways out on one host."""

    async def observe(self, project: str) -> Sequence[FoundOutside]:
        """Return those of a project."""

    async def users(self, bridge: str) -> Mapping[str, str]:
        """Return the projects that use a bridge, with the network that each has there."""

    async def check(self, project: str, wanted: Outside) -> None:
        """Raise DriverError for what is in the way of one; see ``check_outside``."""

    async def create(self, project: str, wanted: Outside) -> None:
        """Create it with its mapping, add the project to its users, or set what differs."""

    async def remove(self, project: str, bridge: str) -> None:
        """Forget a project; with the last one, remove the bridge and its rules."""


class _Host(msgspec.Struct, frozen=True):
    """What Open vSwitch has: bridges with their notes and datapath types, and the mappings."""

    bridges: Mapping[str, OutsideBridge]
    datapath_types: Mapping[str, str]
    mappings: Mapping[str, str]


class OvsOutsides:
    """See ``Outsides``: ovs-vsctl(8), ip(8), nft(8)."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def observe(self, project: str) -> Sequence[FoundOutside]:
        host, found = await self._host(), []
        for name, bridge in host.bridges.items():
            user = bridge.users.get(project)
            if user is None:
                continue
            addresses = [each for interface, each in await self._addresses("global") if interface == name]
            wrong = ""
            if not bridge.kept and not await self._has_rules(name):
                wrong = "without masquerading"
            elif host.mappings.get(user.network) != name:
                wrong = "not mapped"
            spec = Outside(
                network=user.network,
                bridge=name,
                address=user.address if bridge.kept else " ".join(addresses),
                datapath_type=host.datapath_types[name],
                has_guests=user.has_guests,
            )
            found.append(FoundOutside(spec, wrong))
        return found

    async def users(self, bridge: str) -> Mapping[str, str]:
        found = (await self._host()).bridges.get(bridge, OutsideBridge())
        return {project: each.network for project, each in found.users.items()}

    async def check(self, project: str, wanted: Outside) -> None:
        await self._check(project, wanted, await self._host())

    async def _check(self, project: str, wanted: Outside, host: _Host) -> None:
        check_outside(project, wanted, host.bridges, host.mappings, await self._addresses())

    async def create(self, project: str, wanted: Outside) -> None:
        async with _turn():
            host = await self._host()
            await self._check(project, wanted, host)
            await self._note(project, wanted, host)
        if wanted.bridge in host.bridges and host.bridges[wanted.bridge].kept:
            return
        name, interface = wanted.bridge, ipaddress.ip_interface(wanted.address)
        there = [each for other, each in await self._addresses("global") if other == name]
        # one that is there is not set again, as other projects may use it
        batch = [
            f"address del {each} dev {name}" for each in there if ipaddress.ip_interface(each) != interface
        ]
        batch += [f"address replace {interface} dev {name}", f"link set dev {name} up"]
        text = "".join(f"{line}\n" for line in batch)
        await self._runner.run(["ip", "-batch", "-"], stdin=text.encode(), privileged=True)
        if wanted.datapath_type == "netdev":
            # checksums are left to hardware that a userspace bridge does not have
            await self._runner.run(["ethtool", "-K", name, "tx", "off"], privileged=True)
        await self._runner.run(["nft", "-f", "-"], stdin=_rules(name, interface).encode(), privileged=True)
        key = "net.ipv4.ip_forward" if interface.version == 4 else "net.ipv6.conf.all.forwarding"  # noqa: PLR2004
        await self._runner.run(["sysctl", "-q", "-w", f"{key}=1"], privileged=True)

    async def _note(self, project: str, wanted: Outside, host: _Host) -> None:
        """Create the bridge with the project's note and its mapping, in one transaction."""
        name = wanted.bridge
        there = host.bridges.get(name, OutsideBridge())
        mappings, mapped = _without(project, there, host.mappings)
        if wanted.network not in mappings:
            mappings[wanted.network], mapped = name, mapped | {wanted.network}
        ids = {
            f"{USER_KEY}{project}": OutsideUser.of(wanted).text(),
            MAPPED_KEY: " ".join(sorted(mapped)),
        }
        words = ["--", "--may-exist", "add-br", name, *_forget_old(project, there, name)]
        if name in host.bridges and there.kept:
            if not there.users:
                ids[KEPT_KEY] = "yes"
            words += ["--", "set", "bridge", name]
        else:
            words += ["--", "set", "bridge", name, f"datapath_type={wanted.datapath_type}"]
        words += [f"external_ids:{key}={quoted(each)}" for key, each in ids.items()]
        await run_ovs(self._runner, [*VSCTL, *words, *_map(host.mappings, mappings)])

    async def remove(self, project: str, bridge: str) -> None:
        async with _turn():
            host = await self._host()
            there = host.bridges.get(bridge)
            if there is None or project not in there.users:
                return
            mappings, mapped = _without(project, there, host.mappings)
            unmapped = _map(host.mappings, mappings)
            if len(there.users) > 1 or there.kept:
                gone = [f"{USER_KEY}{project}", *([MAPPED_KEY, KEPT_KEY] if len(there.users) == 1 else ())]
                words = _forget_old(project, there, bridge)
                words += ["--", "remove", "bridge", bridge, "external_ids", *gone]
                if len(there.users) > 1:
                    note = quoted(" ".join(sorted(mapped)))
                    words += ["--", "set", "bridge", bridge, f"external_ids:{MAPPED_KEY}={note}"]
                await run_ovs(self._runner, [*VSCTL, *words, *unmapped])
                return
            # the bridge has the note, so it is the last to go
            for family in ("ip", "ip6"):
                table = f"{family} {_table(bridge)}"
                # `delete` fails where there is none
                rules = f"add table {table}\ndelete table {table}\n"
                await self._runner.run(["nft", "-f", "-"], stdin=rules.encode(), privileged=True)
            await run_ovs(self._runner, [*VSCTL, "--", "--if-exists", "del-br", bridge, *unmapped])

    async def _host(self) -> _Host:
        done = await run_ovs(self._runner, [*VSCTL, *_LIST])
        try:
            bridges, settings = (
                list(msgspec.json.decode(line, type=OvsdbTable).rows()) for line in done.stdout.splitlines()
            )
            return _Host(
                {row["name"]: read_notes(dict(row["external_ids"][1])) for row in bridges},
                {row["name"]: row["datapath_type"] for row in bridges},
                bridge_mappings(dict(settings[0]["external_ids"][1])),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def _addresses(self, scope: str = "") -> Sequence[tuple[str, str]]:
        """Return the host's addresses, or those of a scope: interface, and address with its prefix."""
        done = await self._runner.run(["ip", "-json", "address", "show"])
        found: Sequence[dict[str, Any]] = json.loads(done.stdout or b"[]")
        return [
            (interface.get("ifname", ""), f"{each['local']}/{each['prefixlen']}")
            for interface in found
            for each in interface.get("addr_info", ())
            if scope in ("", each.get("scope"))
        ]

    async def _has_rules(self, bridge: str) -> bool:
        done = await self._runner.run(["nft", "list", "tables"], privileged=True)
        return any(line.endswith(f" {_table(bridge)}") for line in done.text.splitlines())


def _turn() -> asyncio.Lock:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _without(
    project: str, bridge: OutsideBridge, mappings: Mapping[str, str]
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the mappings without a project's, and those of its bridge that kvm-compose has set.

    A network that another project has on the bridge stays mapped, and one that was mapped by others.
    """
    user = bridge.users.get(project)
    others = {each.network for name, each in bridge.users.items() if name != project}
    if user is None or user.network in others or user.network not in bridge.mapped:
        return dict(mappings), bridge.mapped
    left = {network: each for network, each in mappings.items() if network != user.network}
    return left, bridge.mapped - {user.network}


def _map(before: Mapping[str, str], mappings: Mapping[str, str]) -> list[str]:
    """Return the words of ovs-vsctl that set mappings, none if they do not differ."""
    if before == mappings:
        return []
    if not mappings:
        return ["--", "remove", "Open_vSwitch", ".", "external_ids", MAPPINGS]
    text = quoted(",".join(f"{network}:{mappings[network]}" for network in sorted(mappings)))
    return ["--", "set", "Open_vSwitch", ".", f"external_ids:{MAPPINGS}={text}"]


def _forget_old(project: str, bridge: OutsideBridge, name: str) -> list[str]:
    """Return the words of ovs-vsctl that remove the note of 0.1, if it is the project's."""
    if bridge.old != project:
        return []
    return ["--", "remove", "bridge", name, "external_ids", OLD_PROJECT_KEY, OLD_NETWORK_KEY]


def _table(bridge: str) -> str:
    return f"kvm-compose-{bridge}"


def _rules(bridge: str, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    """Return the table that masquerades what comes from the bridge and leaves elsewhere (nft(8))."""
    family = "ip" if interface.version == 4 else "ip6"  # noqa: PLR2004
    table = f"{family} {_table(bridge)}"
    return f"""\
add table {table}
delete table {table}
table {table} {{
    chain outside {{
        type nat hook postrouting priority srcnat; policy accept;
        {family} saddr {interface.network} oifname != "{bridge}" masquerade
    }}
}}
"""
