"""What OVN needs on hosts beside its rows: databases, each host's part, the way to the outside."""

from __future__ import annotations

import msgspec


class Central(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The southbound database on the main host, which other hosts reach at ``address`` by TLS."""

    address: str


class ChassisSpec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A host's part in an OVN (ovn-controller(8)).

    ``remote`` is the southbound database, in the syntax of ovsdb(7). With ``keys``, kvm-compose makes a TLS
    identity for the host. ``encap_ip`` is the address where tunnels end. ``name`` is for a host whose Open
    vSwitch has no ``system-id`` yet.
    """

    name: str
    remote: str
    encap_ip: str
    encap_type: str
    bridge: str
    datapath_type: str
    keys: bool = False


class Outside(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The bridge of a physical network of OVN on a host.

    ``network`` is the physical network's name in OVN, ``address`` that of the bridge, in CIDR notation. What
    comes from its subnet leaves the host with the host's own address. ``has_guests`` is whether guests, or
    interfaces of hosts, are on the network itself: not behind a router.
    """

    network: str
    bridge: str
    address: str
    datapath_type: str
    has_guests: bool = False


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A TLS identity: PEM texts of its private key, its certificate, and that of the authority.

    ``expires`` is the day of the certificate's end, as in ``2036-11-28``.
    """

    key: str
    certificate: str
    ca: str
    expires: str = ""


class HostPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An interface of a host that is a logical port: an internal port of the integration bridge.

    ``interface_id`` is the logical port's name, ``addresses`` have prefix lengths, ``mtu`` is in bytes. With
    ``is_pair`` it is an end of a veth pair that exists already: neither ``mac`` nor ``addresses`` are set.
    """

    name: str
    bridge: str
    interface_id: str
    mac: str
    addresses: tuple[str, ...]
    mtu: int
    datapath_type: str
    is_pair: bool = False
