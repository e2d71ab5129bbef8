"""Where an answer continues behind a router that translates addresses.

``ovn-trace`` knows no connections, so it neither restores the addresses of an answer nor leaves one alone.
"""

from __future__ import annotations

import ipaddress

from kvmcompose.core.expectation import Traffic
from kvmcompose.reachability.logical_network import LogicalNetwork
from kvmcompose.reachability.packets import Packet
from kvmcompose.reachability.trace import Trace, Translation

#: The MAC address of everything outside.
OUTSIDE_MAC = "0a:00:00:00:00:01"


class BehindRouters:
    """Finds the packet to continue with. ``there`` is the trace of the first packet, which is answered."""

    def __init__(self, network: LogicalNetwork) -> None:
        self._network = network

    def restored(self, packet: Packet, trace: Trace, made: Translation) -> Packet | None:
        """Return the answer behind the router that restores an address; None when it does not get there."""
        port = self._network.router_ports.get(made.place.outport)
        for lookup in trace.translations:
            is_there = lookup.place.datapath == made.place.datapath and lookup.is_source and not lookup.field
            if is_there and lookup.before[f"{packet.ip}.dst"] == str(packet.target) and port is not None:
                source = ipaddress.ip_address(lookup.before[f"{packet.ip}.src"])
                target = ipaddress.ip_address(made.before[f"{packet.ip}.src"])
                return Packet(port.router, port.name, OUTSIDE_MAC, port.mac, source, target, packet.what)
        return None

    def sent_to(self, packet: Packet, trace: Trace, there: Trace) -> Packet | None:
        """Return an answer that comes from where the first packet was sent to, as a router restores it."""
        for lookup in trace.translations:
            port = self._network.router_ports.get(lookup.place.inport)
            if lookup.is_source or lookup.field or port is None:
                continue
            for made in there.translations:
                is_it = made.field and not made.is_source and made.place.datapath == lookup.place.datapath
                if is_it and made.value == lookup.before[f"{packet.ip}.src"]:
                    source = ipaddress.ip_address(made.before[f"{packet.ip}.dst"])
                    return Packet(
                        port.router, port.name, OUTSIDE_MAC, port.mac, source, packet.target, packet.what
                    )
        return None

    def untranslated(self, packet: Packet, trace: Trace, there: Trace, probe: Traffic) -> Packet | None:
        """Return an answer behind a router that would translate its source, were it not an answer.

        Where a router has not translated the first packet, it knows no connection, and connection tracking
        takes an echo reply or a SYN-ACK for invalid: it passes as it is. An answer by UDP is
        a packet like any other.
        """
        known = {each.place.datapath for each in there.translations if each.field}
        for made in trace.translations:
            end = self._network.router_ports.get(made.place.outport)
            is_new = made.is_source and made.field and made.place.datapath not in known
            if probe.protocol == "udp" or not is_new or end is None:
                continue
            source = ipaddress.ip_address(made.before[f"{packet.ip}.src"])
            for output in trace.outputs:
                if output.is_original and self._network.switch_of.get(output.port) == end.switch:
                    mac = output.fields["eth.dst"]
                    return Packet(
                        end.switch, end.switch_port, end.mac, mac, source, packet.target, packet.what
                    )
        return None
