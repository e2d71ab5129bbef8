"""What is known of guests, and of the outside, before probes are sent between them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.expectation import INTERNET
from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.core.probe import Question
from kvmcompose.core.state import Interface
from kvmcompose.networks import external_addresses
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.reachability.evidence import Port
from kvmcompose.reachability.outside import addresses_outside
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.instances import instances_of_hosts
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed


class End(msgspec.Struct, frozen=True, kw_only=True):
    """A guest, or the outside: its interfaces by host, its addresses; ``why`` it cannot be asked, or ''.

    ``entrance`` is None for what cannot be entered, ``no_entry`` says why.
    """

    ports: tuple[tuple[str, str, Port], ...] = ()
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    why: str = ""
    entrance: Entrance | None = None
    no_entry: str = ""


class Ends:
    """Finds out what is known of guests before anything is sent."""

    def __init__(self, context: Context, testbed: LoadedTestbed) -> None:
        self._context = context
        self._testbed = testbed

    async def all(self, questions: Sequence[Question]) -> dict[str, End]:
        """Return all guests that questions are about, and the outside."""
        names = {name: None for each in questions for name in (each.source, each.target)}
        guests = [self._testbed.guests[name] for name in names if name in self._testbed.guests]
        domains, silent = await instances_of_hosts(
            self._context, self._testbed, {guest.state.testbed_host for guest in guests}
        )
        addresses = await self._context.addresses(guests, self._testbed)
        external = external_addresses(self._testbed.state)
        found: dict[str, End] = {}
        for name in names:
            if name == INTERNET and name not in self._testbed.guests:
                found[name] = self._outside()
                continue
            guest = self._testbed.guests.get(name)
            if guest is None:
                found[name] = End(why=f"{name} is not in the testbed that is up: kvm-compose up")
                continue
            error = silent.get(guest.state.testbed_host)
            domain = domains.get(name)
            state = domain.state if domain is not None else "not up"
            why = error.message if error is not None else "" if state == "running" else f"{name} is {state}"
            found[name] = await self._guest(guest, why, addresses[name], external)
        return found

    async def _guest(
        self, guest: LoadedGuest, why: str, address: str | None, external: Mapping[str, Sequence[str]]
    ) -> End:
        try:
            self._context.guest(self._testbed, guest.name)
        except RefusedError as error:
            return End(why=error.message)
        own = [each for nic in guest.state.interfaces for each in nic.addresses]
        if address is not None and guest.management is None:
            own.append(address)
        more = [each for one in own for each in external.get(one, ())]
        gateways = [
            each
            for nic in guest.state.interfaces
            for each in (nic.gateway, nic.ipv6_gateway, self._nat_gateway(nic))
            if each
        ]
        entrance, no_entry = None, ""
        if not why:
            try:
                entrance = await runtime_of(guest).entrance(self._context, self._testbed, guest)
            except KvmComposeError as error:
                no_entry = error.message
        return End(
            ports=tuple(
                (host := guest.state.testbed_host, nic.target, Port(f"{host}/{nic.target}", nic.mac.lower()))
                for nic in guest.state.interfaces
                if nic.link == "up"  # else what is sent to its tap does not get into the guest
            ),
            addresses=tuple(dict.fromkeys(str(ipaddress.ip_address(each)) for each in (*own, *more))),
            gateways=tuple(dict.fromkeys(gateways)),
            why=why,
            entrance=entrance,
            no_entry=no_entry,
        )

    def _nat_gateway(self, nic: Interface) -> str | None:
        """Return the address of the main host on the bridges that its NAT serves."""
        plan = self._testbed.network_plan
        if plan.network is None or nic.bridge not in plan.reachable or not nic.is_in_reach:
            return None
        return str(next(ipaddress.ip_network(plan.network.subnet).hosts()))

    def _outside(self) -> End:
        """Return where packets leave: bridges of NAT, interfaces of hosts, ways out of OVN."""
        plan = self._testbed.network_plan
        ways = [(plan.network.host, plan.network.bridge)] if plan.network is not None else []
        ways += [(each.host, each.nic) for each in plan.nics]
        ways += [
            (each.ref.host, each.spec.bridge)
            for each in plan.resources
            if isinstance(each.spec, Outside) and each.ref.host is not None
        ]
        subnets = [
            ipaddress.ip_network(f"{nic.ip}/{nic.prefix_length}", strict=False)
            for guest in self._testbed.guests.values()
            for nic in guest.state.interfaces
            if nic.ip != "dynamic"
        ]
        ports = tuple((host, name, Port(f"{host}/{name}")) for host, name in dict.fromkeys(ways))
        return End(ports=ports, addresses=tuple(map(str, addresses_outside(subnets).values())))
