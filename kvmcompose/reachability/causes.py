"""Why a packet passes or not, in the words of the YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kvmcompose.core.answers import Cause
from kvmcompose.core.document import Path
from kvmcompose.core.expectation import INTERNET
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.reachability.logical_network import Address, GuestNic, LogicalNetwork
from kvmcompose.reachability.packets import Packet
from kvmcompose.reachability.trace import FlowStep, Trace

_RULE, _ROUTE = "ACL", "Logical_Router_Static_Route"
_RULES = ("ls_in_acl", "ls_out_acl")
#: How an action begins that asks for a MAC address, which a router does instead of sending.
_ASKING = ("arp {", "nd_ns {")
_ROUTING, _RESOLVING = "lr_in_ip_routing", ("lr_in_arp_resolve", "lr_in_arp_request")


class Places(Protocol):
    """Where the YAML has what rows are made from."""

    def row(self, ref: RowRef) -> Path:
        """Return the path of a row; empty if no line is its origin."""

    def interfaces(self, guest: str) -> Path:
        """Return the path of a guest's interfaces."""


class Causes:
    """Explains traces. ``hints`` are the rows that logical flows come from, ``datapaths`` names by UUIDs."""

    def __init__(
        self,
        rows: Sequence[Row],
        network: LogicalNetwork,
        hints: Mapping[str, RowRef],
        datapaths: Mapping[str, str],
        nics: Mapping[str, GuestNic],
        places: Places,
    ) -> None:
        self._rows = {row.ref: row for row in rows}
        self._network = network
        self._hints = hints
        self._datapaths = datapaths
        self._nics = nics
        self._places = places

    def passes(self, steps: Sequence[FlowStep]) -> Cause:
        """Return what lets a packet pass: the last rule that allows it, or that none is against it."""
        for step in reversed(steps):
            ref = self._origin(step)
            if ref is not None and ref.table == _RULE:
                return Cause(f"{self._rule(ref)} allows it", self._places.row(ref))
        return Cause("no rule drops it")

    def blocked(self, trace: Trace, target: str) -> Cause:
        """Return why a packet does not arrive."""
        if not trace.steps:
            return Cause("it is dropped at once")
        last = trace.steps[-1]
        ref = self._origin(last)
        for step in trace.steps:
            rejecting = self._origin(step) if any("reject" in each for each in step.actions) else None
            if rejecting is not None:
                return Cause(f"{self._rule(rejecting)} rejects it", self._places.row(rejecting))
        if ref is not None and ref.table == _RULE:
            return Cause(f"{self._rule(ref)} drops it", self._places.row(ref))
        for output in trace.outputs:
            if output.is_original:
                return self._strayed(trace, output.port, target)
        asking = (step for step in trace.steps if any(each.startswith(_ASKING) for each in step.actions))
        return self._dropped(trace, next(asking, last))

    def _dropped(self, trace: Trace, last: FlowStep) -> Cause:
        name = self._name(last.place.datapath)
        at = self._datapath_path(last.place.datapath)
        if last.stage == _ROUTING:
            return Cause(f"router {name} has no route to its destination", at)
        if last.stage in _RESOLVING:
            route = self._route(trace)
            if route is not None:
                hop = self._rows[route].columns["nexthop"]
                return Cause(
                    f"nothing answers for the next hop {hop} of router {name}", self._places.row(route)
                )
            return Cause(f"nothing on the switch has its destination, for router {name}", at)
        if last.stage.startswith(("ls_in_l2", "ls_out_l2")):
            return Cause(f"no port of switch {name} has its destination", at)
        if last.stage in _RULES:
            return Cause(f"it belongs to no connection that switch {name} knows", at)
        if "port_sec" in last.stage:
            return Cause(f"switch {name} accepts no such address from that port", at)
        if last.stage == "lr_in_ip_input":
            return Cause(f"router {name} answers for its destination itself", at)
        return Cause(f"{last.stage} of {name} drops it", at)

    def _strayed(self, trace: Trace, port: str, target: str) -> Cause:
        """Return the cause of a packet that goes elsewhere."""
        nic = self._nics.get(port)
        route = self._route(trace)
        path = self._places.row(route) if route is not None else ()
        if nic is not None:
            return Cause(f"it arrives at {nic.guest} instead of {target}", path)
        if self._network.switch_of.get(port, "") in self._network.localnets:
            return Cause("it leaves the testbed", path)
        return Cause(f"it ends at port {port}", path)

    def unanswered(self, trace: Trace, source: str, sent: Packet) -> Cause:
        """Return why an answer does not arrive at the source of a packet."""
        for output in trace.outputs:
            nic = self._nics.get(output.port)
            if output.is_original and nic is not None and nic.guest == source:
                comes_from = output.fields[f"{sent.ip}.src"]
                text = f"it comes from {comes_from} instead of {sent.target}"
                return Cause(text, self._nat_path(sent.target))
        return self.blocked(trace, source)

    def not_translated(self, seen: Address, switch: str) -> Cause:
        """Return the cause of an answer that nothing outside could send."""
        ends = list(self._network.ports_on(switch))
        path = self._datapath_path(ends[0].router) if ends else self._datapath_path(switch)
        return Cause(f"no NAT translates {seen}, which the outside does not know", path)

    def no_gateway(self, guest: str, address: Address) -> Cause:
        """Return the cause of a packet that a guest has no route for."""
        return Cause(
            f"{guest} has no gateway, and no interface on the subnet of {address}",
            self._places.interfaces(guest),
        )

    def link_down(self, nic: GuestNic) -> Cause:
        """Return the cause of a packet to or from an interface without carrier."""
        switch = self._name(self._network.switch_of[nic.port])
        return Cause(f"the link of {nic.guest} on {switch} is down", self._places.interfaces(nic.guest))

    def no_neighbour(self, trace: Trace | None, nic: GuestNic, address: Address) -> Cause:
        """Return why a guest learns no MAC address for an address on its switch."""
        last = trace.steps[-1] if trace is not None and trace.steps and not trace.outputs else None
        ref = self._origin(last) if last is not None else None
        if ref is not None and ref.table == _RULE:
            return Cause(
                f"{self._rule(ref)} drops the request for the MAC address of {address}", self._places.row(ref)
            )
        switch = self._name(self._network.switch_of[nic.port])
        return Cause(f"nothing on switch {switch} answers for {address}", self._places.interfaces(nic.guest))

    def no_address(self, source: str, target: str) -> Cause:
        """Return why there is no address to send to."""
        guest = source if target == INTERNET else target
        if not any(nic.guest == guest for nic in self._nics.values()):
            return Cause(f"{guest} has no interface", self._places.interfaces(guest))
        if source == INTERNET:
            text = f"no address of {target} is known outside (no dnat_and_snat, no provider network)"
            return Cause(text, self._places.interfaces(target))
        return Cause(f"{source} and {target} have no addresses of one family", self._places.interfaces(guest))

    def _origin(self, step: FlowStep) -> RowRef | None:
        """Return the row that a logical flow comes from.

        Switches share flows that are the same, which then name the rule of one of them.
        """
        ref = self._hints.get(step.uuid)
        switch = self._ref(step.place.datapath)
        if ref is None or ref.table != _RULE or self._rows[ref].parent == switch:
            return ref
        columns = self._rows[ref].columns
        rules = (row for row in self._rows.values() if row.ref.table == _RULE and row.parent == switch)
        return next((row.ref for row in rules if row.columns == columns), ref)

    def _rule(self, ref: RowRef) -> str:
        row = self._rows[ref]
        switch = row.parent.name if row.parent else ""
        return f"rule {row.columns['direction']} {row.columns['priority']} of {switch}"

    def _route(self, trace: Trace) -> RowRef | None:
        refs = (self._origin(step) for step in reversed(trace.steps) if step.stage == _ROUTING)
        return next((ref for ref in refs if ref is not None and ref.table == _ROUTE), None)

    def _nat_path(self, address: Address) -> Path:
        return next((self._places.row(nat.ref) for nat in self._network.nats if nat.external == address), ())

    def _name(self, datapath: str) -> str:
        ref = self._ref(datapath)
        return ref.name if ref is not None else datapath

    def _datapath_path(self, datapath: str) -> Path:
        ref = self._ref(datapath)
        return self._places.row(ref) if ref is not None else ()

    def _ref(self, datapath: str) -> RowRef | None:
        """Return the row of a switch or router, by its name or UUID."""
        return self._network.refs.get(self._datapaths.get(datapath, datapath))
