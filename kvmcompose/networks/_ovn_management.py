"""Management ports of logical switches: through them the server reaches guests.

Each switch with such guests has one logical port more, a ``localport`` (ovn-nb(5)): it is on every host with
one of these guests, with the same addresses, and no packet of it leaves the host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from kvmcompose.core.deployable import ManagementAccess, ManagementPort
from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Attachment, Guest, Management
from kvmcompose.core.names import UniqueNames, management_namespace
from kvmcompose.core.northbound import RowRef
from kvmcompose.core.ovn_hosts import HostPort
from kvmcompose.core.resource import Ref, Resource
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import _management
from kvmcompose.networks._addresses import management_mac
from kvmcompose.networks._management import PortState
from kvmcompose.networks._ovn_addresses import SwitchAddresses, interface_path
from kvmcompose.networks._ovn_model import DYNAMIC, OvnNetwork, OvnState, Path, Rule, SwitchNic, by_family
from kvmcompose.networks._ovn_ports import OVN, logical_interfaces

#: The highest priority of OVN. Where two rules have one, OVN applies either.
PRIORITY = 32767
_IPV4 = 4


def check(network: OvnNetwork, guests: Sequence[Guest], management: Management) -> Iterator[Complaint]:
    """Yield a warning for guests without an IPv4 address, and rules that could take the place of ours."""
    switches: set[str] = set()
    lacking: dict[Path, Guest] = {}
    for guest, index in _managed(network, guests, management):
        if index is None:
            lacking.setdefault(interface_path(guest, guest.attachments[0].own), guest)
        else:
            switches.add(guest.attachments[index].segment)
    for at, guest in lacking.items():
        is_up = any(each.keys.is_in_reach for each in guest.attachments)
        yield Complaint(
            code="unmanaged-guest",
            path=at,
            message=f"{guest.name!r} cannot be reached: "
            f"{'it has no IPv4 address' if is_up else 'the links of its interfaces are down'}",
            hint=(
                "give the switch an IPv4 subnet, and the interface an address in it" if is_up else "link: up"
            )
            + "; or name the guest in testbed_options.management.except",
            severity=Severity.WARNING,
        )
    for switch, rules in network.acl.switches.items():
        for number, rule in enumerate(rules):
            if switch in switches and rule.priority == PRIORITY:
                yield Complaint(
                    code="bad-value",
                    path=("network", OVN, "acl", "switches", switch, number, "priority"),
                    message=f"management ports need rules of a higher priority on {switch!r}",
                    found=str(rule.priority),
                    wanted=f"at most {PRIORITY - 1}",
                )


def _managed(
    network: OvnNetwork, guests: Sequence[Guest], management: Management
) -> Iterator[tuple[Guest, int | None]]:
    """Yield the guests to reach, with the interface to use: the first one with an IPv4 address, if any."""
    for guest in guests:
        if guest.is_golden_image or not guest.attachments or guest.name in management.excluded:
            continue
        suitable = (i for i, each in enumerate(guest.attachments) if _has_ipv4(network, each))
        yield guest, next(suitable, None)


def _has_ipv4(network: OvnNetwork, attachment: Attachment) -> bool:
    """Return whether an interface is up and gets an IPv4 address; with written ones, it has no others."""
    if not attachment.keys.is_in_reach:
        return False
    nic: SwitchNic = attachment.own
    written = [each for each in nic.ips if each != DYNAMIC]
    has_subnet = _IPV4 in by_family(network.switches[attachment.segment].subnets)
    return has_subnet and (not written or any(":" not in each for each in written))


class ManagedSwitches(msgspec.Struct, frozen=True):
    """What the ports of a testbed depend on: ``pools`` by switch, ``interfaces`` by guest."""

    project: str
    network: OvnNetwork
    guests: Sequence[Guest]
    management: Management
    pools: Mapping[str, SwitchAddresses]
    interfaces: Mapping[str, Sequence[Interface]]

    def ports(self, state: OvnState, names: UniqueNames) -> tuple[tuple[PortState, ...], list[Complaint]]:
        """Return the ports, in the order in which the guests need them, and what is wrong."""
        reached: dict[str, list[str]] = {}
        for guest, index in _managed(self.network, self.guests, self.management):
            if index is not None:
                reached.setdefault(guest.attachments[index].segment, []).append(guest.name)
        macs = {nic.mac for each in self.interfaces.values() for nic in each} | _macs(state)
        ports: list[PortState] = []
        full: list[Complaint] = []
        for switch, guests in reached.items():
            subnet = self.pools[switch].subnets[_IPV4]
            ip = self.pools[switch].management_address(self.project, switch)
            if ip is None:
                full.append(
                    Complaint(
                        code="no-free-address",
                        path=("network", OVN, "switches", switch, "subnet"),
                        message=f"{subnet} has no free address for the management port of {switch!r}",
                        wanted="a larger subnet, or fewer excluded addresses",
                        hint="or name its guests in testbed_options.management.except",
                    )
                )
                continue
            mac = management_mac(self.project, switch, macs)
            macs.add(mac)
            name = names.name(f"{self.project}-{switch}-mgmt")
            ports.append(PortState(switch, name, mac, ip, subnet.prefixlen, tuple(guests)))
        return tuple(ports), full


def _macs(state: OvnState) -> set[str]:
    """Return the MAC addresses of the network that are no guest's."""
    found = {port.mac_address for port in state.router_ports.values()}
    return found | {port.mac_address for port in state.switch_ports.values() if port.mac_address is not None}


# -- in OVN


def port_ref(switch: str) -> RowRef:
    """Return the logical port of a switch. As with guests, its name in OVN is the row's UUID."""
    return RowRef("Logical_Switch_Port", f"management {switch}")


def rules(port: PortState, name: str) -> Iterator[Rule]:
    """Yield the rules that a switch with others needs, one for each direction.

    Nothing passes by them but ARP for the port, and packets between it and port 22 of guests. They are
    stateless: a rule with connection tracking would make OVN track what ``allow`` of the YAML lets pass, too,
    and so let replies pass. That only replies come in is ensured by the namespace.
    """
    sent = f'inport == "{name}" && ip4 && tcp.dst == 22'
    answers = f"eth.dst == {port.mac} && ip4.dst == {port.ip} && tcp.src == 22"
    matches = {
        "from-lport": f'(inport == "{name}" && arp) || arp.tpa == {port.ip} || ({sent}) || ({answers})',
        "to-lport": f'arp.tpa == {port.ip} || arp.spa == {port.ip} || ({sent}) || (outport == "{name}" && '
        f"{answers})",
    }
    for direction, match in matches.items():
        yield Rule(direction, PRIORITY, match, "allow-stateless")  # type: ignore[arg-type]


# -- on hosts


def access(state: State, network: OvnState) -> dict[str, ManagementAccess]:
    """Return how guests are reached: each by the port on its own host."""
    found: dict[str, ManagementAccess] = {}
    for port in network.management_ports:
        for name in port.guests:
            guest = state.testbed_guests[name]
            nic = next(
                nic
                for nic in guest.interfaces
                if nic.bridge == port.bridge and nic.is_in_reach and _management.ipv4(nic)
            )
            host = state.testbed_hosts[guest.testbed_host]
            made = ManagementPort(
                host=host.name,
                namespace=management_namespace(state.project_name, port.bridge),
                bridge=host.chassis.bridge,
                name=port.port,
                mac=port.mac,
                address=f"{port.ip}/{port.prefix_length}",
                mtu=network.mtu,
                userspace=host.datapath_type == "netdev",
            )
            found[name] = ManagementAccess(str(_management.ipv4(nic)), made)
    return found


def resources(state: State, network: OvnState, ways: Mapping[str, ManagementAccess]) -> Iterator[Resource]:
    """Yield the ports on hosts, each after its namespace."""
    switches = {port.port: port.bridge for port in network.management_ports}
    for port in dict.fromkeys(each.port for each in ways.values()):
        own = Ref("management-port", port.namespace, port.host)
        yield Resource(ref=own, spec=port)
        spec = HostPort(
            name=port.name,
            bridge=port.bridge,
            interface_id=str(port_ref(switches[port.name]).uuid(state.project_name)),
            mac="",
            addresses=(),
            mtu=port.mtu,
            datapath_type=state.testbed_hosts[port.host].datapath_type,
            is_pair=True,
        )
        yield Resource(ref=Ref("ovn-host-port", port.name, port.host), spec=spec, needs=(own,))


# -- a state that is read back


def check_stored(state: State, network: OvnState, written: OvnNetwork) -> Iterator[Complaint]:
    """Yield what ``ManagedSwitches.ports`` could not have written. ``written`` is the network of the YAML."""
    ports = network.management_ports
    names: Collection[str] = {each.name for each in network.ovs_ports.values()}
    yield from _management.check_stored(
        state, ports, (), attach=OVN, other_macs=_macs(network), other_names=names
    )
    used = {each.bridge for each in ports}
    pools = {name: SwitchAddresses(written, name) for name in network.switches if name in used}
    for _, _, nic in logical_interfaces(state):
        if nic.bridge in pools:
            gateways = tuple(each for each in (nic.gateway, nic.ipv6_gateway) if each is not None)
            pools[nic.bridge].give(SwitchNic((), nic.addresses, gateways))
    for index, port in enumerate(ports):
        # a switch that does not exist has no guests, which is reported
        if port.bridge in pools and not pools[port.bridge].is_free(port.ip):
            yield Complaint(
                code="bad-value",
                path=("network", "management_ports", index, "ip"),
                message=f"{port.ip} is the address of something else",
                wanted="a free one of the switch's subnet",
            )
