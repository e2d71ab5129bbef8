"""Bridges of projects and their ports, in Open vSwitch on one host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair


class SwitchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The desired bridges and ports on one host. ``datapath_type`` is ``system`` or ``netdev``."""

    project: str
    datapath_type: str
    bridges: tuple[SwitchBridge, ...] = ()
    veths: tuple[VethPair, ...] = ()
    tunnels: tuple[TunnelPort, ...] = ()
    nics: tuple[NicPort, ...] = ()


class Switches(Protocol):
    """Open vSwitch on one host. Bridges carry ``external_ids:kvm-compose-project``."""

    async def check(self) -> None:
        """Raise DriverError when ovs-vswitchd does not answer or denies access."""

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Return the names of the plan's bridges that exist and are not the project's."""

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """Return the project's bridges and the ports of each."""

    async def foreign_ports(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        """Return which of these interfaces are ports of bridges that are not the project's."""

    async def apply(self, plan: SwitchPlan) -> None:
        """Create all bridges and ports in one transaction; existing ones stay.

        The interfaces that become ports must exist: create the veth pairs before, and set up the bridges' own
        interfaces, which are created here, afterwards.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove the bridges and all their ports, in one transaction."""
