"""What the server has to know about a testbed to bring it up, whatever its kinds of guests and networks.

Guest kinds (``deployable``) and network dialects (``network_plan``) convert their part of the state into
these types; the server knows nothing else.
"""

from __future__ import annotations

import msgspec


class DomainGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that libvirt runs. Paths are relative to the project folder.

    ``files`` are all artefacts it cannot start without. ``disk`` is what it writes to, None when it has
    no disk of its own. Only a guest with ``cloud_init`` is waited for and can run scripts;
    ``setup_scripts`` and ``run_scripts`` are their paths inside the guest, in order. ``ready_timeout`` is
    how long its start may take, in seconds, None for what is usual on its host.
    """

    domain_xml: str
    files: tuple[str, ...]
    disk: str | None
    cloud_init: bool
    username: str | None
    setup_scripts: tuple[str, ...] = ()
    run_scripts: tuple[str, ...] = ()
    ready_timeout: float | None = None


class SwitchBridge(msgspec.Struct, frozen=True, kw_only=True):
    """An Open vSwitch bridge. ``protocol`` and ``controller`` as ovs-vsctl takes them.

    ``segment`` is what the user calls it.
    """

    name: str
    host: str
    protocol: str | None = None
    controller: str | None = None
    segment: str = ""


class VethPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two network interfaces that are one cable. Each end is a port of a bridge: of an Open vSwitch one, or
    with ``right_is_linux`` of a Linux bridge.
    """

    host: str
    left: str
    left_bridge: str
    right: str
    right_bridge: str
    right_is_linux: bool = False


class TunnelPort(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a GENEVE tunnel (RFC 8926). ``key`` is the virtual network identifier."""

    host: str
    bridge: str
    name: str
    remote_ip: str
    key: int


class NicPort(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface of the host that becomes a port of a bridge."""

    host: str
    bridge: str
    nic: str


class LibvirtNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """The NAT network. ``xml`` is the path of its definition, ``bridge`` the Linux bridge it makes."""

    host: str
    name: str
    bridge: str
    xml: str
    subnet: str


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that connects guests. The main host can reach guests on the bridges in ``reachable``."""

    network: LibvirtNetwork
    bridges: tuple[SwitchBridge, ...]
    veths: tuple[VethPair, ...]
    tunnels: tuple[TunnelPort, ...]
    nics: tuple[NicPort, ...]
    reachable: frozenset[str]
    mtu: int
