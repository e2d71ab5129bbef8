"""Bridges of projects and their ports, in Open vSwitch on one host."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.core.nic import Vlan

#: The ``Interface.type`` of tunnels.
GENEVE = "geneve"
#: The ``Bridge.fail_mode`` of every bridge of a project.
FAIL_MODE = "standalone"


class SwitchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The desired bridges and ports on one host. ``datapath_type`` is ``system`` or ``netdev``."""

    project: str
    datapath_type: str
    bridges: tuple[SwitchBridge, ...] = ()
    veths: tuple[VethPair, ...] = ()
    tunnels: tuple[TunnelPort, ...] = ()
    nics: tuple[NicPort, ...] = ()


class GuestPort(msgspec.Struct, frozen=True, kw_only=True):
    """The tap of a running guest, and the bridge that it is to be a port of. ``mac`` is the guest's.

    ``interface_id`` and ``vm_id`` are the UUIDs of the NIC and of its domain in libvirt, "" where unknown.
    With ``integration`` the bridge is OVN's, which is no project's, and ``interface_id`` the logical port; a
    port that is created there is marked as the project's, which may remove it. ``vlan`` is that of a port on
    another bridge.
    """

    bridge: str
    name: str
    mac: str
    interface_id: str = ""
    vm_id: str = ""
    integration: bool = False
    vlan: Vlan = None


class SwitchChange(SwitchPlan, frozen=True, kw_only=True):
    """Changes to bridges and ports on one host; what is not named stays.

    What a plan has is created or, where it differs, set. ``guests`` are existing interfaces, which become
    ports of the given bridges. Ports that are on another bridge of the project are moved. A port that is
    in ``removed_ports`` and is also wanted is removed first, so that the switch opens its interface again:
    it keeps the old one open when an interface is removed and created while it is a port.
    """

    guests: tuple[GuestPort, ...] = ()
    removed_bridges: tuple[str, ...] = ()
    removed_ports: tuple[str, ...] = ()


class FoundPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A port, as Open vSwitch has it (``Port`` and ``Interface`` in ovs-vswitchd.conf.db(5)).

    ``type`` is empty for an interface of the host: an end of a veth pair, a NIC, the tap of a guest. ``mac``
    is the guest's and ``interface_id`` its NIC's, written there by libvirt. ``marked`` is whether it was
    created for the project by kvm-compose; a guest's port is not. ``error`` is why the switch could not set
    it up. ``shaped`` is whether it limits the throughput of what is sent through it, ``policed`` of what
    arrives.
    """

    name: str
    type: str = ""
    options: Mapping[str, str] = {}
    mac: str | None = None
    interface_id: str | None = None
    marked: bool = False
    error: str | None = None
    vlan: Vlan = None
    shaped: bool = False
    policed: bool = False


class FoundBridge(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge of a project, as Open vSwitch has it, with its ports in the order of their names.

    ``protocol`` is in the form of ``normal_protocol``. Several controllers are separated by spaces. The
    bridge's own interface and the ports of captures are left out.
    """

    name: str
    datapath_type: str
    protocol: str | None = None
    controller: str | None = None
    fail_mode: str | None = None
    ports: tuple[FoundPort, ...] = ()


def normal_protocol(protocol: str | None) -> str | None:
    """Return OpenFlow versions sorted and without duplicates, so that equal sets are equal texts."""
    return ",".join(sorted(set(protocol.split(",")))) if protocol else None


def tunnel_options(tunnel: TunnelPort) -> dict[str, str]:
    """Return the ``FoundPort.options`` of a tunnel that is as it should be."""
    return {"key": str(tunnel.key), "remote_ip": tunnel.remote_ip}


class Switches(Protocol):
    """Open vSwitch on one host. Bridges carry ``external_ids:kvm-compose-project``."""

    async def check(self) -> None:
        """Raise DriverError when ovs-vswitchd does not answer or denies access."""

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Return the names of the plan's bridges that exist and are not the project's."""

    async def observe(self, project: str, also: Collection[str] = ()) -> Mapping[str, FoundBridge]:
        """Return the project's bridges, and ``also`` others by name, with all their ports.

        It is one command, whatever the number.
        """

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        """Return which of these interfaces are ports of bridges that are not the project's."""

    async def change(self, change: SwitchChange) -> None:
        """Create, set, move and remove bridges and ports, in one transaction.

        A port that moves keeps its columns, and its interface stays up. Bridges and ports that are not the
        project's are never changed: removal passes over them, anything else raises DriverError before
        anything is changed. A guest's port is the project's wherever it is, if its MAC address is the
        guest's. The interfaces that become ports must exist: create veth pairs before, and set up the
        bridges' own interfaces afterwards.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove the bridges and all their ports, in one transaction."""
