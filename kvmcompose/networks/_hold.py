"""Keep the addresses of running guests by lines of the YAML: ``subnet`` of a bridge, ``ip`` and ``mac``.

A connected network has one subnet, so ``subnet`` comes first: with it most guests derive the addresses that
they had. An ``ip`` is left for those whose derived address another guest has now.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from kvmcompose.core.model import Attachment, Guest, Link, LogicalTestbed, Machine, Segment, Topology
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import Drift
from kvmcompose.networks._addresses import DYNAMIC, could_be_derived, could_be_derived_mac
from kvmcompose.networks._connected import connected
from kvmcompose.networks._specialise import Network

_Key = tuple[str, int]


class Hold(msgspec.Struct, frozen=True):
    """Lines that keep addresses: ``subnet`` by bridge; ``ip`` and ``mac`` by interface (guest, number)."""

    subnets: dict[str, str] = {}
    ips: dict[_Key, str] = {}
    macs: dict[_Key, str] = {}


def subnet_of(interface: Interface) -> ipaddress.IPv4Network | None:
    """Return the subnet that an interface is in; None if it does not show: DHCP without a gateway."""
    address = interface.gateway if interface.ip == DYNAMIC else interface.ip
    if address is None:
        return None
    return ipaddress.IPv4Network((address, interface.prefix_length), strict=False)


def _attachments(guest: str, attachments: Sequence[Attachment], hold: Hold) -> tuple[Attachment, ...]:
    return tuple(
        msgspec.structs.replace(
            each, ip=hold.ips.get((guest, index), each.ip), mac=hold.macs.get((guest, index), each.mac)
        )
        for index, each in enumerate(attachments)
    )


def _machine(machine: Machine, hold: Hold) -> dict[str, Any]:
    if machine.scaled:
        return {"name": machine.name, machine.kind: {"scaling": {"interfaces": _scaled(machine, hold)}}}
    attachments = _attachments(machine.name, machine.attachments, hold)
    return {"name": machine.name, "interfaces": [_written(each) for each in attachments]}


def _scaled(machine: Machine, hold: Hold) -> list[dict[str, Any]]:
    """Return the interfaces of clones; those with an address of their own get an entry each."""
    found = []
    attached: Counter[int] = Counter()
    for each in machine.scaled:
        shared = []
        for number in each.clones:
            key = (f"{machine.name}-{number}", attached[number])
            attached[number] += 1
            if key in hold.ips or key in hold.macs:
                ip, mac = hold.ips.get(key, each.attachment.ip), hold.macs.get(key, each.attachment.mac)
                own = msgspec.structs.replace(each.attachment, ip=ip, mac=mac)
                found.append({**_written(own), "clones": [number]})
            else:
                shared.append(number)
        if shared:
            found.append({**_written(each.attachment), "clones": shared})
    return found


def _written(attachment: Attachment) -> dict[str, Any]:
    written = {"bridge": attachment.segment, "mac": attachment.mac, "ip": attachment.ip}
    return {key: value for key, value in written.items() if value is not None}


class Keeper:
    """An ``AddressKeeper``: ``before`` is the state to keep, ``logical`` the testbed as it is written."""

    nothing = Hold()

    def __init__(self, before: State, logical: LogicalTestbed) -> None:
        self._before = before
        self._logical = logical
        self._network: Network = logical.network
        self._home = connected(logical.topology)
        self._guests: dict[str, Guest] = {guest.name: guest for guest in logical.guests}
        self._written = {
            self._home[each.name]: ipaddress.IPv4Network(each.subnet)
            for each in self._network.bridges
            if each.subnet is not None
        }
        self._ips: dict[tuple[str, str], str] = {}
        self._macs: dict[str, str] = {}
        for guest in logical.guests:
            for each in guest.attachments:
                if each.ip is not None:
                    self._ips.setdefault((self._home[each.segment], each.ip), guest.name)
                if each.mac is not None:
                    self._macs.setdefault(each.mac, guest.name)
        self._old_home = _old_home(before)
        #: The old connected networks that the YAML gives another subnet than they had.
        self._renumbered = {
            self._old_home[each.name]
            for each in self._network.bridges
            if each.subnet is not None
            and each.name in self._old_home
            and ipaddress.IPv4Network(each.subnet) not in self._had(self._old_home[each.name])
        }

    def unnamed(self, drift: Drift) -> Drift | None:
        """Return the change without what the lines of the YAML ask for.

        These are the ``ip`` and ``mac`` of the interface, there now or removed, and a ``subnet`` other than
        its connected network had.
        """
        old, new = drift.old, drift.new
        guest = self._guests[drift.guest]
        origin = self._logical.project, guest.identity, drift.index
        written = guest.attachments[drift.index]
        subnet = subnet_of(old)
        is_removed = old.ip == DYNAMIC or (
            subnet is not None and not could_be_derived(*origin, old.ip, subnet)
        )
        if (old.ip != new.ip and (written.ip is not None or is_removed)) or (
            self._old_home.get(old.bridge) in self._renumbered
        ):
            old = msgspec.structs.replace(
                old, ip=new.ip, prefix_length=new.prefix_length, gateway=new.gateway
            )
        if written.mac is not None or not could_be_derived_mac(*origin, old.mac):
            old = msgspec.structs.replace(old, mac=new.mac)
        return None if old == new else msgspec.structs.replace(drift, old=old)

    def held(self, logical: LogicalTestbed, hold: Hold) -> LogicalTestbed:
        """Return the testbed as if the YAML had these lines."""
        network: Network = logical.network
        bridges = tuple(
            msgspec.structs.replace(each, subnet=hold.subnets.get(each.name, each.subnet))
            for each in network.bridges
        )
        changed = {guest for guest, _ in (*hold.ips, *hold.macs)}
        guests = tuple(
            msgspec.structs.replace(each, attachments=_attachments(each.name, each.attachments, hold))
            if each.name in changed
            else each
            for each in logical.guests
        )
        network = msgspec.structs.replace(network, bridges=bridges)
        return msgspec.structs.replace(logical, network=network, guests=guests)

    def lines(self, hold: Hold) -> dict[str, Any]:
        """Return the lines as they are in the YAML: ``subnet`` of bridges, ``interfaces`` of machines."""
        found: dict[str, Any] = {}
        if hold.subnets:
            bridges = [{"name": name, "subnet": subnet} for name, subnet in sorted(hold.subnets.items())]
            found["network"] = {"bridges": bridges}
        guests = (self._guests[guest] for guest, _ in (*hold.ips, *hold.macs))
        machines = {guest.machine.name: guest.machine for guest in guests}
        if machines:
            found["machines"] = [_machine(machines[name], hold) for name in sorted(machines)]
        return found

    def more(self, drifts: Sequence[Drift], hold: Hold) -> Hold:
        """Return the lines, with those that these changes require."""
        subnets, ips, macs = dict(hold.subnets), dict(hold.ips), dict(hold.macs)
        by_network: dict[str, list[Drift]] = {}
        for drift in drifts:
            by_network.setdefault(self._home[drift.new.bridge], []).append(drift)
            if drift.old.mac != drift.new.mac and drift.old.mac not in self._macs:
                macs[drift.key] = drift.old.mac
        for home, members in by_network.items():
            changed = [each for each in members if _is_elsewhere(each)]
            if not changed:
                continue
            subnet = self._held_subnet(home, hold)
            is_line = subnet is None
            subnet = subnet or self._best(home, changed)
            if subnet is None:
                continue
            current = next(filter(None, (subnet_of(each.new) for each in changed)), None)
            keep = {each.key: each.old.ip for each in changed if self._fits(home, each, subnet)}
            if current == subnet:
                ips |= keep
            # an `ip` without `subnet` would decide the subnet
            if is_line and (keep or current != subnet):
                subnets[self._bridge(home, subnet)] = str(subnet)
        return Hold(subnets, ips, macs)

    def obstacle(self, drift: Drift, hold: Hold) -> str:
        """Return why no line keeps an interface as it was."""
        home = self._home[drift.new.bridge]
        if drift.old.mac != drift.new.mac and drift.old.mac in self._macs:
            return f"{self._macs[drift.old.mac]} has the `mac` {drift.old.mac} now"
        subnet = self._held_subnet(home, hold) or subnet_of(drift.new)
        old = subnet_of(drift.old)
        if _is_elsewhere(drift) and subnet is not None and old != subnet:
            if home in self._written:
                return f"the `subnet` of its connected network is {subnet} now, not {old}"
            return f"the guests of connected bridges share one subnet, and {subnet} is that of the others"
        if (home, drift.old.ip) in self._ips:
            return f"{self._ips[home, drift.old.ip]} has the `ip` {drift.old.ip} now"
        return "no line of the YAML can"

    def _fits(self, home: str, drift: Drift, subnet: ipaddress.IPv4Network) -> bool:
        return (
            drift.old.ip not in (DYNAMIC, drift.new.ip)
            and subnet_of(drift.old) == subnet
            and (home, drift.old.ip) not in self._ips
        )

    def _held_subnet(self, home: str, hold: Hold) -> ipaddress.IPv4Network | None:
        """Return the subnet of a connected network, if it is written or held."""
        lines = (subnet for bridge, subnet in hold.subnets.items() if self._home[bridge] == home)
        line = next(lines, None)
        return self._written.get(home) if line is None else ipaddress.IPv4Network(line)

    def _had(self, old_home: str) -> set[ipaddress.IPv4Network | None]:
        """Return the subnet of an old connected network: one, or none without guests."""
        return {
            subnet_of(each)
            for guest in self._before.testbed_guests.values()
            for each in guest.interfaces
            if self._old_home.get(each.bridge) == old_home
        }

    @cached_property
    def _old_subnets(self) -> dict[str, list[tuple[str, ipaddress.IPv4Network]]]:
        """By connected network: bridge and old subnet of every interface that stays there."""
        found: dict[str, list[tuple[str, ipaddress.IPv4Network]]] = {}
        present = {guest.identity: guest for guest in self._logical.guests}
        for guest in self._before.testbed_guests.values():
            now = present.get(guest.identity)
            if now is None or guest.is_golden_image or now.is_golden_image:
                continue
            for old, new in zip(guest.interfaces, now.attachments, strict=False):
                subnet = subnet_of(old)
                if old.bridge == new.segment and subnet is not None:
                    found.setdefault(self._home[new.segment], []).append((old.bridge, subnet))
        return found

    def _best(self, home: str, changed: Sequence[Drift]) -> ipaddress.IPv4Network | None:
        """Return the subnet that most guests of a network had. Of two, the one that it would have anyway."""
        count = Counter(subnet for _, subnet in self._old_subnets.get(home, ()))
        current = subnet_of(changed[0].new)
        return max(count, key=lambda each: (count[each], each == current, -int(each[0])), default=None)

    def _bridge(self, home: str, subnet: ipaddress.IPv4Network) -> str:
        """Return the bridge to write a subnet at: the external one, or the first, of those that had it."""
        had = {bridge for bridge, each in self._old_subnets.get(home, ()) if each == subnet}
        if self._network.external_bridge in had:
            return str(self._network.external_bridge)
        return next(each.name for each in self._network.bridges if each.name in had)


def _old_home(before: State) -> dict[str, str]:
    """Return the connected networks of a state by bridge. Its network is plain data."""
    names = tuple(Segment(each["name"]) for each in before.network.get("bridges", ()))
    links = tuple(Link(*pair) for pair in before.network.get("logical_bridge_connections", ()))
    return connected(Topology(names, links, None))


def _is_elsewhere(drift: Drift) -> bool:
    """Return whether the address, its prefix length or the gateway differ."""
    old, new = drift.old, drift.new
    gateways = {old.gateway, new.gateway} - {None}
    return (old.ip, old.prefix_length) != (new.ip, new.prefix_length) or len(gateways) > 1
