"""The oracle for OVN: asks a throw-away OVN where a packet goes, and where its answer goes.

A guest sends as Linux does: by the interface whose subnet has the address, else to its gateway, whose MAC
address it asks for. A guest is reached if one of its addresses is: its own, and those that a router
translates to them.

``ovn-trace`` knows no connections. So an answer is traced with the state that its connection would have at
each port, and where a router would restore an address, the trace continues behind it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.answers import Answer, Cause
from kvmcompose.core.expectation import INTERNET, PING, Traffic
from kvmcompose.core.northbound import Row
from kvmcompose.reachability import packets
from kvmcompose.reachability.behind_routers import OUTSIDE_MAC, BehindRouters
from kvmcompose.reachability.causes import Causes, Places
from kvmcompose.reachability.logical_network import Address, GuestNic, LogicalNetwork
from kvmcompose.reachability.outside import addresses_outside
from kvmcompose.reachability.packets import Packet
from kvmcompose.reachability.throwaway import Neighbour, Throwaway
from kvmcompose.reachability.trace import Output, Trace, read_trace

NEW, REPLY = "new", "est,rpl"
#: Ports in a match, where the decision between two packets may lie.
_PORTS = re.compile(r"\b(tcp|udp)\.dst\s*[=!<>]+\s*(\{[^}]*\}|\d+)")
#: A port that is in no match; the first of these that is not.
_OTHER_PORTS = (40001, 40002, 40003)
_HIGHEST_PORT = 65535


class _Way(msgspec.Struct, frozen=True):
    """How a guest sends to an address: by which interface, from which address, to which MAC address."""

    nic: GuestNic
    source: Address
    mac: str


class _Arrived(msgspec.Struct, frozen=True):
    """A packet that arrived: as it was sent, its trace, and where and how it leaves."""

    sent: Packet
    trace: Trace
    output: Output

    def address(self, end: str) -> Address:
        """Return an address (``src`` or ``dst``) as the target sees it."""
        return ipaddress.ip_address(self.output.fields[f"{self.sent.ip}.{end}"])


class _LostError(Exception):
    """A packet does not arrive."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.text)
        self.cause = cause


class OvnOracle:
    """See the module. ``guests`` are all guests, ``nics`` their interfaces that are logical ports."""

    def __init__(
        self,
        ovn: Throwaway,
        rows: Sequence[Row],
        nics: Iterable[GuestNic],
        guests: Iterable[str],
        places: Places,
    ) -> None:
        self._ovn = ovn
        self._network = LogicalNetwork(rows)
        self._nics: dict[str, list[GuestNic]] = {name: [] for name in guests}
        for nic in nics:
            self._nics[nic.guest].append(nic)
        self._by_port = {nic.port: nic for each in self._nics.values() for nic in each}
        self._owners = {each.ip: nic for nic in self._by_port.values() for each in nic.addresses}
        self._causes = Causes(rows, self._network, ovn.hints(), ovn.datapaths(), self._by_port, places)
        self._neighbours: dict[tuple[str, Address], str | Cause] = {}
        self._behind = BehindRouters(self._network)
        self._outside = addresses_outside(list(self._network.subnets()))
        self.probes = standing_probes(rows)

    def answer(self, source: str, target: str, probe: Traffic) -> Answer:
        """See ``Oracle``."""
        first: Answer | None = None
        for address in self._addresses(source, target):
            found = self._answer(source, target, address, probe)
            if found.reaches:
                return found
            if first is None or (found.arrives and not first.arrives):
                first = found
        return first or Answer(reaches=False, cause=self._causes.no_address(source, target))

    def _answer(self, source: str, target: str, address: Address, probe: Traffic) -> Answer:
        try:
            arrived = self._there(source, target, address, probe)
        except _LostError as lost:
            return Answer(reaches=False, cause=lost.cause)
        try:
            self._back(source, target, arrived, probe)
        except _LostError as lost:
            cause = Cause(f"its answer is lost: {lost.cause.text}", lost.cause.path)
            return Answer(reaches=False, cause=cause, arrives=True)
        return Answer(reaches=True, cause=self._causes.passes(arrived.trace.steps), arrives=True)

    def _addresses(self, source: str, target: str) -> Iterator[Address]:
        """Yield the addresses at which a target could be reached."""
        versions = {each.version for nic in self._nics.get(source, ()) for each in nic.addresses}
        if target == INTERNET:
            yield from (each for version, each in self._outside.items() if version in versions)
            return
        own = [each.ip for nic in self._nics[target] for each in nic.addresses]
        if source != INTERNET:
            yield from (each for each in own if each.version in versions)
        else:
            yield from (each for each in own if self._entries(each))
        for address in own:
            for nat in self._network.external_addresses(address):
                if source == INTERNET or nat.external.version in versions:
                    yield nat.external

    # -- there -----------------------------------------------------------------------------------------

    def _there(self, source: str, target: str, address: Address, probe: Traffic) -> _Arrived:
        """Return how a new packet arrives. Raises _LostError."""
        what = packets.request(probe, address.version)
        if source == INTERNET:
            lost: _LostError | None = None
            for switch, port, mac in self._entries(address):
                outside = self._outside[address.version]
                packet = Packet(switch, port, OUTSIDE_MAC, mac, outside, address, what)
                try:
                    return self._arrival(packet, self._trace(packet, NEW), target)
                except _LostError as error:
                    lost = lost or error
            raise lost or _LostError(self._causes.no_address(source, target))
        packet = self._sent(self._way(source, address), address, what)
        return self._arrival(packet, self._trace(packet, NEW), target)

    def _arrival(self, packet: Packet, trace: Trace, target: str) -> _Arrived:
        for output in trace.outputs:
            if output.is_original and self._is_at(output, target, packet.ip):
                self._refuse_down(self._by_port.get(output.port))
                return _Arrived(packet, trace, output)
        raise _LostError(self._causes.blocked(trace, target))

    def _is_at(self, output: Output, target: str, ip: str) -> bool:
        """Return whether a packet leaves at its target, which accepts it."""
        address = output.fields[f"{ip}.dst"]
        if target == INTERNET:
            return self._is_localnet(output.port) and address in map(str, self._outside.values())
        nic = self._by_port.get(output.port)
        return (
            nic is not None
            and nic.guest == target
            and output.fields["eth.dst"] == nic.mac
            and any(str(each.ip) == address for own in self._nics[target] for each in own.addresses)
        )

    def _refuse_down(self, nic: GuestNic | None) -> None:
        """Raise _LostError for an interface without carrier."""
        if nic is not None and not nic.up:
            raise _LostError(self._causes.link_down(nic))

    def _is_localnet(self, port: str) -> bool:
        return port in self._network.localnets.get(self._network.switch_of.get(port, ""), ())

    def _entries(self, address: Address) -> list[tuple[str, str, str]]:
        """Return where packets to an address come in from outside: switch, port, and MAC address there."""
        found = []
        for switch, ports in self._network.localnets.items():
            for end in self._network.ports_on(switch):
                translated = any(
                    nat.external == address and nat.is_both and nat.router == end.router
                    for nat in self._network.nats
                )
                if translated and any(address in each.network for each in end.addresses):
                    found.append((switch, ports[0], end.mac))
            found += [
                (switch, ports[0], nic.mac)
                for nic in self._by_port.values()
                if self._network.switch_of[nic.port] == switch and nic.has(address)
            ]
        return found

    # -- and back --------------------------------------------------------------------------------------

    def _back(self, source: str, target: str, arrived: _Arrived, probe: Traffic) -> None:
        """Follow the answer to a packet. Raises _LostError when it does not get back."""
        what = packets.answer(probe, arrived.sent.source.version)
        seen, own = arrived.address("src"), arrived.address("dst")
        if target == INTERNET:
            packet = self._from_outside(arrived, seen, what)
        else:
            way = self._way(target, seen)
            packet = self._sent(msgspec.structs.replace(way, source=own), seen, what)
        known = frozenset(arrived.trace.lookups)
        restorable = [each for each in arrived.trace.translations if each.is_source and each.field]
        while True:
            trace = self._reply(packet, known, probe)
            if any(self._is_home(output, source, arrived.sent) for output in trace.outputs):
                return
            following = self._behind.sent_to(packet, trace, arrived.trace)
            following = following or self._behind.untranslated(packet, trace, arrived.trace, probe)
            if following is None and restorable:
                following = self._behind.restored(packet, trace, restorable.pop())
            if following is None or following == packet:
                raise _LostError(self._causes.unanswered(trace, source, arrived.sent))
            packet = following

    def _from_outside(self, arrived: _Arrived, seen: Address, what: str) -> Packet:
        port = arrived.output.port
        switch = self._network.switch_of[port]
        subnets = [each.network for end in self._network.ports_on(switch) for each in end.addresses]
        subnets += [
            each.network
            for nic in self._by_port.values()
            if self._network.switch_of[nic.port] == switch
            for each in nic.addresses
        ]
        if not any(seen in subnet for subnet in subnets):
            raise _LostError(self._causes.not_translated(seen, switch))
        mac = arrived.output.fields["eth.src"]
        return Packet(switch, port, OUTSIDE_MAC, mac, arrived.address("dst"), seen, what)

    def _reply(self, packet: Packet, known: frozenset[str], probe: Traffic) -> Trace:
        """Trace an answer, with the states that its connection has at the ports where it is looked up.

        Where the first packet was not looked up (``allow-stateless``), the answer belongs to no connection.
        """
        trace = self._trace(packet, REPLY)
        strange = {zone for zone in trace.lookups if zone in self._network.switch_of} - known
        if not strange:
            return trace
        unknown = "trk,new" if probe.protocol == "udp" else "trk,inv"
        states = [unknown if zone in strange else REPLY for zone in trace.lookups]
        text = self._ovn.trace_once(packet.datapath, packet.expression, states)
        return read_trace(text, packet.fields)

    def _is_home(self, output: Output, source: str, sent: Packet) -> bool:
        """Return whether an answer arrives where the packet came from, from where that was sent to."""
        fields = output.fields
        addresses = (fields[f"{sent.ip}.dst"], fields[f"{sent.ip}.src"])
        if not output.is_original or addresses != (str(sent.source), str(sent.target)):
            return False
        if source == INTERNET:
            return self._is_localnet(output.port)
        nic = self._by_port.get(output.port)
        return nic is not None and nic.guest == source and fields["eth.dst"] == nic.mac

    # -- what a guest does -----------------------------------------------------------------------------

    def _sent(self, way: _Way, address: Address, what: str) -> Packet:
        switch = self._network.switch_of[way.nic.port]
        return Packet(switch, way.nic.port, way.nic.mac, way.mac, way.source, address, what)

    def _way(self, guest: str, address: Address) -> _Way:
        """Return how a guest sends to an address. Raises _LostError."""
        near = [
            (own.network.prefixlen, own, nic)
            for nic in self._nics[guest]
            for own in nic.addresses
            if own.version == address.version and address in own.network
        ]
        if near:
            _, own, nic = max(near, key=lambda each: each[0])
            self._refuse_down(nic)
            return _Way(nic, own.ip, self._neighbour(nic, own.ip, address))
        for nic in self._nics[guest]:
            own_ips = [each.ip for each in nic.addresses if each.version == address.version]
            gateway = next((each for each in nic.gateways if each.version == address.version), None)
            if own_ips and gateway is not None:
                self._refuse_down(nic)
                return _Way(nic, own_ips[0], self._neighbour(nic, own_ips[0], gateway))
        raise _LostError(self._causes.no_gateway(guest, address))

    def _neighbour(self, nic: GuestNic, source: Address, address: Address) -> str:
        """Return the MAC address that a guest learns for an address. Raises _LostError."""
        key = (nic.port, address)
        if key not in self._neighbours:
            try:
                self._neighbours[key] = self._learned(nic, source, address)
            except _LostError as lost:
                self._neighbours[key] = lost.cause
        found = self._neighbours[key]
        if isinstance(found, Cause):
            raise _LostError(found)
        return found

    def _learned(self, nic: GuestNic, source: Address, address: Address) -> str:
        switch = self._network.switch_of[nic.port]
        owner = self._owners.get(address)
        if isinstance(address, ipaddress.IPv6Address):
            return self._nearby(nic, switch, address, owner)
        asked = self._arp(switch, *packets.arp_request(nic.port, nic.mac, source, address))
        if asked.is_rejected:
            return self._nearby(nic, switch, address, owner)
        for output in asked.outputs:
            if output.port == nic.port and output.fields["eth.src"] != nic.mac:
                return output.fields["eth.src"]
        for output in asked.outputs:
            if owner is not None and output.port == owner.port:
                answered = self._arp(
                    switch, *packets.arp_reply(owner.port, owner.mac, address, nic.mac, source)
                )
                if answered.is_rejected or any(each.port == nic.port for each in answered.outputs):
                    return owner.mac
                raise _LostError(self._causes.blocked(answered, nic.guest))
        if owner is None and any(self._is_localnet(output.port) for output in asked.outputs):
            return OUTSIDE_MAC
        raise _LostError(self._causes.no_neighbour(asked, nic, address))

    def _arp(self, switch: str, expression: str, fields: Mapping[str, str]) -> Trace:
        return read_trace(self._ovn.tracer(NEW).trace(switch, expression), fields)

    def _nearby(self, nic: GuestNic, switch: str, address: Address, owner: GuestNic | None) -> str:
        """Return the MAC address of a neighbour without a trace of the question.

        ovn-trace 23.03 fails with an assertion (``ovnact_get_ND_NA``) where a router answers a neighbour
        solicitation; and it takes ARP to be rejected, which ovn-controller never does: ``reject`` is for IP.
        """
        for end in self._network.ports_on(switch):
            if any(each.ip == address for each in end.addresses):
                return end.mac
        if owner is not None and self._network.switch_of[owner.port] == switch:
            return owner.mac
        if owner is None and switch in self._network.localnets:
            return OUTSIDE_MAC
        raise _LostError(self._causes.no_neighbour(None, nic, address))

    def _trace(self, packet: Packet, state: str) -> Trace:
        text = self._ovn.tracer(state).trace(packet.datapath, packet.expression)
        return read_trace(text, packet.fields)


def outside_neighbours(rows: Sequence[Row]) -> tuple[Neighbour, ...]:
    """Return the next hops outside, which answer when routers ask for their MAC addresses."""
    network = LogicalNetwork(rows)
    routers = {row.ref: str(row.columns["name"]) for row in rows if row.ref.table == "Logical_Router"}
    found = {}
    for row in rows:
        if row.ref.table != "Logical_Router_Static_Route" or row.parent is None:
            continue
        hop = ipaddress.ip_address(str(row.columns["nexthop"]))
        for port in network.router_ports.values():
            is_outside = port.router == routers[row.parent] and port.switch in network.localnets
            if is_outside and any(hop in each.network for each in port.addresses):
                found[port.name, hop] = Neighbour(port.name, str(hop), OUTSIDE_MAC)
    return tuple(found.values())


def standing_probes(rows: Sequence[Row]) -> tuple[Traffic, ...]:
    """Return probes that represent traffic of every kind."""
    return (PING, *sorted(_probes(rows)))


def _probes(rows: Iterable[Row]) -> Iterator[Traffic]:
    """Yield probes for all TCP and UDP: each port in a match and its neighbours, and one in none."""
    ports = {
        near
        for row in rows
        if row.ref.table == "ACL"
        for _, written in _PORTS.findall(str(row.columns["match"]))
        for port in map(int, re.findall(r"\d+", written))
        for near in (port - 1, port, port + 1)
        if 0 < near <= _HIGHEST_PORT
    }
    ports.add(next(port for port in _OTHER_PORTS if port not in ports))
    yield from (Traffic(protocol, port) for protocol in ("tcp", "udp") for port in ports)
