"""The oracle for bridges: what is connected reaches each other, by every protocol.

Guests of connected bridges share a subnet, and nothing between them filters. Guests of the external bridge's
network reach the outside by the NAT of the main host, which lets nothing in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from kvmcompose.core.answers import Answer, Cause
from kvmcompose.core.document import Path
from kvmcompose.core.expectation import INTERNET, PING, Traffic
from kvmcompose.core.model import Link, LogicalTestbed
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
        for start in self._bridges(source):
            for end in self._bridges(target):
                if end in self._from(start):
                    return Answer(reaches=True, cause=self._joined(start, end, target), arrives=True)
        ends = f"{_listed(self._bridges(source))} and {_listed(self._bridges(target))}"
        path: Path = ("network", "bridge_connections")
        return Answer(reaches=False, cause=Cause(f"no connection joins {ends}", path))

    def _outside(self, name: str, *, inbound: bool) -> Answer:
        ways = [
            outlet
            for outlet in self._outlets
            if any(outlet.bridge in self._from(bridge) for bridge in self._bridges(name))
        ]
        open_ways = [way for way in ways if not (inbound and way.is_nat)]
        if open_ways:
            return Answer(reaches=True, cause=Cause(open_ways[0].text, open_ways[0].path), arrives=True)
        if ways:
            text = "the NAT of the main host lets no connection in"
            return Answer(reaches=False, cause=Cause(text, ways[0].path))
        bridges = _listed(self._bridges(name))
        text = f"no connection joins {bridges} and the outside"
        return Answer(reaches=False, cause=Cause(text, ("network", "external_bridge")))

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
