"""The oracle for bridges: what is connected, and in one VLAN, reaches each other, by every protocol.

Guests of connected bridges share a subnet, and nothing between them filters. VLANs are the same on all of
them: connections carry the tags. Guests of the external bridge's network reach the outside by the NAT of the
main host, which is in no VLAN and lets nothing in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from kvmcompose.core.answers import Answer, Cause
from kvmcompose.core.document import Path
from kvmcompose.core.expectation import INTERNET, PING, Traffic
from kvmcompose.core.model import Attachment, Link, LogicalTestbed
from kvmcompose.core.nic import vlan_of
from kvmcompose.networks._specialise import Network


class Outlet(msgspec.Struct, frozen=True):
    """A way from a bridge to what is outside the testbed: ``text`` names it, ``is_nat`` lets nothing in."""

    bridge: str
    text: str
    path: Path
    is_nat: bool


class Connectivity:
    """See the module. ``links`` are the connections of bridges, each with its place in the YAML."""

    probes = (PING,)

    def __init__(
        self, logical: LogicalTestbed, links: Mapping[Link, Path], outlets: tuple[Outlet, ...]
    ) -> None:
        self._guests = {guest.name: guest for guest in logical.guests if not guest.is_golden_image}
        self._links = links
        self._outlets = outlets
        self._next: dict[str, list[tuple[str, Link]]] = {}
        for link in links:
            self._next.setdefault(link.source, []).append((link.target, link))
            self._next.setdefault(link.target, []).append((link.source, link))
        self._known: dict[str, dict[str, Link | None]] = {}

    def answer(self, source: str, target: str, probe: Traffic) -> Answer:  # noqa: ARG002 (nothing filters)
        """See ``Oracle``."""
        if INTERNET in (source, target):
            inside = target if source == INTERNET else source
            return self._outside(inside, inbound=source == INTERNET)
        refused: Cause | None = None
        for start, end in self._shared(source, target):
            cause = self._refusal((source, start), (target, end))
            if cause is None:
                joined = self._joined(start.segment, end.segment, target)
                return Answer(reaches=True, cause=joined, arrives=True)
            refused = refused or cause
        if refused is not None:
            return Answer(reaches=False, cause=refused)
        ends = f"{_listed(self._bridges(source))} and {_listed(self._bridges(target))}"
        path: Path = ("network", "bridge_connections")
        return Answer(reaches=False, cause=Cause(f"no connection joins {ends}", path))

    def _shared(self, source: str, target: str) -> Iterator[tuple[Attachment, Attachment]]:
        """Yield the interfaces by which two guests send to each other, for each network that both are on.

        A network has one subnet. Linux sends by the first interface on it, whichever address is its own.
        """
        seen: set[str] = set()
        for nic in self._guests[source].attachments:
            if nic.segment in seen:
                continue
            joined = self._from(nic.segment)
            seen |= joined.keys()
            other = next((each for each in self._guests[target].attachments if each.segment in joined), None)
            if other is not None:
                yield nic, other

    def _refusal(self, *ends: tuple[str, Attachment]) -> Cause | None:
        """Return why two interfaces of joined bridges do not reach each other; None if they do."""
        for name, nic in ends:
            if nic.keys.link == "down":
                return Cause(f"the link of {name} on {nic.segment} is down", self._key(name, nic, "link"))
            if vlan_of(nic.keys.vlan) is None:
                text = f"{name} is on a trunk of {nic.segment} without 'native': its own frames have no VLAN"

                return Cause(text, self._key(name, nic, "vlan"))
        vlans = [vlan_of(nic.keys.vlan) for _, nic in ends]
        if vlans[0] == vlans[-1]:
            return None
        words = [
            f"{name} is in VLAN {vlan}" if vlan else f"{name} is in none"
            for (name, _), vlan in zip(ends, vlans, strict=True)
        ]
        tagged = next((name, nic) for name, nic in ends if nic.keys.vlan is not None)
        return Cause(" and ".join(words), self._key(*tagged, "vlan"))

    def _outside(self, name: str, *, inbound: bool) -> Answer:
        ways = [
            (nic, outlet)
            for nic in self._first_on_each(name)
            for outlet in self._outlets
            if outlet.bridge in self._from(nic.segment)
        ]
        open_ways = [(nic, way) for nic, way in ways if not (inbound and way.is_nat)]
        refused: Cause | None = None
        for nic, way in open_ways:
            cause = self._kept_in(name, nic, way)
            if cause is None:
                vlan = vlan_of(nic.keys.vlan)
                text = f"{way.text}, with the tag of VLAN {vlan}" if vlan else way.text
                return Answer(reaches=True, cause=Cause(text, way.path), arrives=True)
            refused = refused or cause
        if refused is not None:
            return Answer(reaches=False, cause=refused)
        if ways:
            text = "the NAT of the main host lets no connection in"
            return Answer(reaches=False, cause=Cause(text, ways[0][1].path))
        bridges = _listed(self._bridges(name))
        text = f"no connection joins {bridges} and the outside"
        return Answer(reaches=False, cause=Cause(text, ("network", "external_bridge")))

    def _kept_in(self, name: str, nic: Attachment, way: Outlet) -> Cause | None:
        """Return why a way out does not carry what an interface sends; None if it does."""
        cause = self._refusal((name, nic))
        if cause is None and way.is_nat and nic.keys.vlan is not None:
            text = f"{name} is in VLAN {vlan_of(nic.keys.vlan)}, and the NAT of the main host is in none"
            return Cause(text, self._key(name, nic, "vlan"))
        return cause

    def _first_on_each(self, name: str) -> Iterator[Attachment]:
        """Yield the interfaces by which a guest sends to what is outside.

        The gateway of the NAT network is that of the first interface there that is in no VLAN.
        """
        seen: set[str] = set()
        for nic in sorted(self._guests[name].attachments, key=lambda each: each.keys.vlan is not None):
            if nic.segment not in seen:
                seen |= self._from(nic.segment).keys()
                yield nic

    def _key(self, name: str, nic: Attachment, key: str) -> Path:
        guest = self._guests[name]
        section: Path = () if nic.at[:1] == (guest.machine.interfaces_key,) else (guest.machine.kind,)
        return ("machines", guest.machine.index, *section, *nic.at, key)

    def _joined(self, start: str, end: str, target: str) -> Cause:
        if start == end:
            return Cause(f"both are on {start}", self._at(target))
        way = [end]
        first: Link | None = None
        while (link := self._from(start)[way[-1]]) is not None:
            first = link
            way.append(link.source if link.target == way[-1] else link.target)
        assert first is not None  # noqa: S101 (start and end differ)
        return Cause(f"connections join {' - '.join(reversed(way))}", self._links[first])

    def _from(self, bridge: str) -> dict[str, Link | None]:
        """Return the bridges that a bridge is connected with, each with the link back to it."""
        if bridge not in self._known:
            found: dict[str, Link | None] = {bridge: None}
            waiting = deque([bridge])
            while waiting:
                for name, link in self._next.get(waiting.popleft(), ()):
                    if name not in found:
                        found[name] = link
                        waiting.append(name)
            self._known[bridge] = found
        return self._known[bridge]

    def _bridges(self, name: str) -> list[str]:
        return list(dict.fromkeys(each.segment for each in self._guests[name].attachments))

    def _at(self, name: str) -> Path:
        return self._guests[name].interfaces_path


def of_bridges(logical: LogicalTestbed) -> Connectivity:
    """Return what knows the connections of a testbed."""
    network: Network = logical.network
    at: Path = ("network", "bridge_connections")
    links = {
        link: (*at, index) if network.connections_are_pairs else (*at, link.source)
        for index, link in enumerate(network.connections)
    }
    outlets = [
        Outlet(
            nic.testbed_bridge,
            f"it leaves by the host's interface {nic.nic_name}",
            ("network", "network_interfaces", index),
            is_nat=False,
        )
        for index, nic in enumerate(network.network_interfaces)
    ]
    if network.external_bridge is not None:
        text = "the main host translates it (NAT)"
        outlets.append(Outlet(network.external_bridge, text, ("network", "external_bridge"), is_nat=True))
    return Connectivity(logical, links, tuple(outlets))


def _listed(names: list[str]) -> str:
    return " or ".join(names)
