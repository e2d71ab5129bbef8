"""The way out of an OVN on one host: a bridge with an address, behind which guests are masqueraded.

The bridge is mapped to a physical network, to which a ``localnet`` port belongs. Its mark in Open vSwitch
names its project. A bridge that exists already, without a mark, is used as it is: its address and its other
ports are the administrator's. The config must name such a bridge, which requires the user's consent.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.chassis import USUAL_MAPPINGS
from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovs.database import OvsdbTable
from kvmcompose.providers.ovs.driver import VSCTL, run_ovs

#: The keys in ``external_ids`` of the bridge: its project, and the physical network.
PROJECT_KEY, NETWORK_KEY = "kvm-compose-outside", "kvm-compose-network"
#: The key of a bridge that existed before; its value is the address that was wanted.
KEPT_KEY = "kvm-compose-kept"
_LIST = ("--format=json", "--", "--columns=name,external_ids,datapath_type", "list", "Bridge")


class FoundOutside(msgspec.Struct, frozen=True):
    """A way out, as it is. ``wrong`` says what is missing, in words."""

    spec: Outside
    wrong: str = ""


class Outsides(Protocol):
    """The ways out on one host."""

    async def observe(self, project: str) -> Sequence[FoundOutside]:
        """Return those of a project."""

    async def foreign(self, project: str, wanted: Outside) -> str | None:
        """Return what is in the way of one: a bridge of this name, or a subnet that the host has."""

    async def create(self, project: str, wanted: Outside) -> None:
        """Create it, or set what differs; without the mapping."""

    async def remove(self, bridge: str) -> None:
        """Remove it, with its rules."""


class OvsOutsides:
    """See ``Outsides``: ovs-vsctl(8), ip(8), nft(8)."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def observe(self, project: str) -> Sequence[FoundOutside]:
        found = []
        for row in await self._bridges():
            ids = dict(row["external_ids"][1])
            if ids.get(PROJECT_KEY) != project:
                continue
            name = row["name"]
            addresses = [
                f"{each.get('local')}/{each.get('prefixlen')}"
                for interface in await self._interfaces()
                if interface.get("ifname") == name
                for each in interface.get("addr_info", ())
                if each.get("scope") == "global"
            ]
            kept = ids.get(KEPT_KEY)
            wrong = "" if kept or await self._has_rules(name) else "without masquerading"
            spec = Outside(
                network=ids.get(NETWORK_KEY, ""),
                bridge=name,
                address=kept or " ".join(addresses),
                datapath_type=row["datapath_type"],
            )
            found.append(FoundOutside(spec, wrong))
        return found

    async def foreign(self, project: str, wanted: Outside) -> str | None:
        there = await self._bridge(wanted.bridge)
        if there is not None:
            owner = there.get(PROJECT_KEY)
            if owner not in (None, project):
                return f"the bridge {wanted.bridge} is that of the project {owner}"
            if owner is None:
                return refused_as_it_is(wanted)
            if KEPT_KEY in there:
                return None
        subnet = ipaddress.ip_interface(wanted.address).network
        for interface in await self._interfaces():
            if interface.get("ifname") == wanted.bridge:
                continue
            for each in interface.get("addr_info", ()):
                other = ipaddress.ip_interface(f"{each['local']}/{each['prefixlen']}").network
                if other.version == subnet.version and other.overlaps(subnet):
                    return f"the subnet {subnet} overlaps {other}, which is reached by {interface['ifname']}"
        return None

    async def create(self, project: str, wanted: Outside) -> None:
        why = await self.foreign(project, wanted)
        if why is not None:
            raise DriverError(f"no way out on {self._runner.name}: {why}", hint=another_subnet(wanted))
        name = wanted.bridge
        marks = [f'external_ids:{PROJECT_KEY}="{project}"', f'external_ids:{NETWORK_KEY}="{wanted.network}"']
        there = await self._bridge(name)
        if there is not None and (PROJECT_KEY not in there or KEPT_KEY in there):
            marks.append(f'external_ids:{KEPT_KEY}="{wanted.address}"')
            await run_ovs(self._runner, [*VSCTL, "--", "set", "bridge", name, *marks])
            return
        await run_ovs(self._runner, [
            *VSCTL, "--", "--may-exist", "add-br", name,
            "--", "set", "bridge", name, f"datapath_type={wanted.datapath_type}", *marks,
        ])  # fmt: skip
        interface = ipaddress.ip_interface(wanted.address)
        batch = f"address flush dev {name} scope global\naddress replace {interface} dev {name}\n"
        batch += f"link set dev {name} up\n"
        argv = ["ip", "-batch", "-"]
        await self._runner.run(argv, stdin=batch.encode(), privileged=True)
        if (
            wanted.datapath_type == "netdev"
        ):  # checksums are left to hardware that a userspace bridge does not have
            await self._runner.run(["ethtool", "-K", name, "tx", "off"], privileged=True)
        await self._runner.run(["nft", "-f", "-"], stdin=_rules(name, interface).encode(), privileged=True)
        key = "net.ipv4.ip_forward" if interface.version == 4 else "net.ipv6.conf.all.forwarding"  # noqa: PLR2004
        await self._runner.run(["sysctl", "-q", "-w", f"{key}=1"], privileged=True)

    async def remove(self, bridge: str) -> None:
        if KEPT_KEY in (await self._bridge(bridge) or {}):
            keys = (PROJECT_KEY, NETWORK_KEY, KEPT_KEY)
            await run_ovs(self._runner, [*VSCTL, "--", "remove", "bridge", bridge, "external_ids", *keys])
            return
        # the bridge has the mark, so it is the last to go
        for family in ("ip", "ip6"):
            table = f"{family} {_table(bridge)}"
            # `delete` fails where there is none
            rules = f"add table {table}\ndelete table {table}\n"
            await self._runner.run(["nft", "-f", "-"], stdin=rules.encode(), privileged=True)
        await run_ovs(self._runner, [*VSCTL, "--", "--if-exists", "del-br", bridge])

    async def _bridge(self, name: str) -> dict[str, str] | None:
        """Return the ``external_ids`` of a bridge, None where there is none."""
        for row in await self._bridges():
            if row["name"] == name:
                return dict(row["external_ids"][1])
        return None

    async def _bridges(self) -> Sequence[Mapping[str, Any]]:
        done = await run_ovs(self._runner, [*VSCTL, *_LIST])
        try:
            return list(msgspec.json.decode(done.stdout, type=OvsdbTable).rows())
        except (ValueError, LookupError, TypeError) as error:
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def _interfaces(self) -> Sequence[dict[str, Any]]:
        done = await self._runner.run(["ip", "-json", "address", "show"])
        found: Sequence[dict[str, Any]] = json.loads(done.stdout or b"[]")
        return found

    async def _has_rules(self, bridge: str) -> bool:
        done = await self._runner.run(["nft", "list", "tables"], privileged=True)
        return any(line.endswith(f" {_table(bridge)}") for line in done.text.splitlines())


def refused_as_it_is(wanted: Outside) -> str | None:
    """Return why a bridge that kvm-compose has not made is not used: no config names it.

    The usual mapping needs no consent, because its bridge leads outside by NAT only.
    """
    if (wanted.network, wanted.bridge, wanted.address) not in USUAL_MAPPINGS:
        return None
    return f"there is a bridge {wanted.bridge} that kvm-compose has not made"


def another_subnet(wanted: Outside) -> str:
    """Return how to use another bridge and subnet, for a hint."""
    return (
        f"give the host another bridge and address for the network {wanted.network}: "
        "`bridge_mappings` of its `ovn` in kvm-compose-config.json"
    )


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
