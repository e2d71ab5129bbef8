"""What is driven through Open vSwitch on one host: bridges and their ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair


class SwitchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Open vSwitch on one host as it should be. ``datapath_type`` is ``system`` or ``netdev``."""

    project: str
    datapath_type: str
    bridges: tuple[SwitchBridge, ...] = ()
    veths: tuple[VethPair, ...] = ()
    tunnels: tuple[TunnelPort, ...] = ()
    nics: tuple[NicPort, ...] = ()


class Switches(Protocol):
    """Open vSwitch on one host. Bridges carry ``external_ids:kvm-compose-project``."""

    async def check(self) -> None:
        """Raises DriverError when ovs-vswitchd does not answer or may not be talked to."""

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Names of the plan's bridges that are there and belong to somebody else."""

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """The project's bridges and the ports of each."""

    async def elsewhere(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        """Which of these interfaces are ports of bridges that are not the project's."""

    async def apply(self, plan: SwitchPlan) -> None:
        """All bridges and ports in one transaction; what is there already stays.

        The interfaces that become ports must be there: make the veth pairs first, and only then set
        up the bridges' own interfaces, which come to be here.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """The bridges and all their ports go, in one transaction."""
