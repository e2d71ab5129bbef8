"""The hosts as OVN sees them: the MTU of what passes between them, and the problems of the config for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import Complaint
from kvmcompose.core.ip import ip_address
from kvmcompose.core.model import GUEST_MTU, Host
from kvmcompose.networks._ovn_model import IPV6, Path, Switch

#: By how many bytes the header of an encapsulation is shorter than that of GENEVE with options.
_SAVED = {"geneve": 0, "vxlan": 8}
#: How much longer the IPv6 header of a tunnel is.
_IPV6_HEADER = 20
#: Names of the main host in files of TestbedOS.
MAIN_NAMES = ("main", "master")


def host_of(name: str, hosts: Sequence[Host]) -> Host | None:
    """Return the host that a file means: by its name, its chassis' name, or ``main``; None for none."""
    by_name = (host for host in hosts if host.name == name)
    by_chassis = (host for host in hosts if host.chassis_name == name)
    main = (host for host in hosts if host.is_main_host and name in MAIN_NAMES)
    return next(by_name, None) or next(by_chassis, None) or next(main, None)


def bridge_addresses(switch: Switch, hosts: Sequence[Host]) -> Iterator[str]:
    """Yield the addresses that hosts have in the provider network of a switch, without prefix lengths."""
    physical = {port.localnet for port in switch.ports if port.localnet is not None}
    for host in hosts:
        for name, _, address in host.chassis.bridge_mappings:
            if name in physical:
                yield address.partition("/")[0]


def mtu(hosts: Sequence[Host]) -> int:
    """Return the MTU of all guests, whose packets fit into each tunnel of these hosts.

    It depends on the hosts only, and not on where guests are (decision 5).
    """
    saved = min(_SAVED.get(host.chassis.encap_type, 0) for host in hosts)
    ipv6 = sum(_version(host) == IPV6 for host in hosts) > 1
    return GUEST_MTU + saved - (_IPV6_HEADER if ipv6 else 0)


def _version(host: Host) -> int | None:
    """Return the version of IP of a host's tunnels; None for a host name, which ``up`` resolves to IPv4."""
    try:
        return ip_address(host.chassis.encap_ip or host.ip).version
    except ValueError:
        return None


def check_chassis(hosts: Sequence[Host]) -> Iterator[Complaint]:
    """Yield the problems of the hosts' parts in OVN, which only concern testbeds with such a network."""
    first: dict[str, str] = {}
    for host in hosts:
        at: Path = ("testbed_host_ssh_config", host.name, "ovn")
        other = first.setdefault(host.chassis_name, host.name)
        if other != host.name:
            yield Complaint(
                code="duplicate-name",
                path=(*at, "chassis_name"),
                message=f"{other!r} already has the name {host.chassis_name!r} in OVN",
                wanted="a name of its own, or none: then it is that of the host",
            )
        yield from _encapsulation(host, hosts, at)


def _encapsulation(host: Host, hosts: Sequence[Host], at: Path) -> Iterator[Complaint]:
    kind, main = host.chassis.encap_type, hosts[0].chassis.encap_type
    if kind != main:
        yield Complaint(
            code="bad-value",
            path=(*at, "encap_type"),
            message=f"{hosts[0].name!r} has {main}: the hosts could not send packets to each other",
            found=kind,
            wanted="the same encapsulation on all hosts",
        )
    given = host.ovn.encap_ip if host.ovn is not None else None
    if given is None:
        return
    try:
        address = ip_address(given)
    except ValueError:
        address = None
    alone = len(hosts) == 1
    if address is None or address.is_unspecified or address.is_multicast:
        yield Complaint(
            code="bad-address",
            path=(*at, "encap_ip"),
            message="not the address of one host",
            found=repr(given),
            wanted="an address that the other testbed hosts reach",
        )
    elif address.is_loopback and not alone:
        yield Complaint(
            code="loopback-address",
            path=(*at, "encap_ip"),
            message=f"{given} is a loopback address: other hosts cannot reach {host.name!r} at it",
            wanted="an address that the other testbed hosts reach",
            hint="without encap_ip it is the host's ip",
        )
