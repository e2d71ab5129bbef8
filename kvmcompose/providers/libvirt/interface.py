"""What is driven through libvirt on one host: domains, networks and snapshots of projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours. ``state`` is libvirt's word (``running``, ``shut off``, ``paused``, ``crashed``).

    ``uptime`` in seconds, ``cpu_seconds`` used since the start, ``memory_mb`` resident, in MiB.
    """

    name: str
    guest: str
    state: str
    uptime: float | None = None
    cpu_seconds: float | None = None
    memory_mb: int | None = None


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that libvirt knows. ``created`` in seconds since 1970; ``xml`` to make it known again."""

    name: str
    created: float
    state: str
    current: bool
    xml: str


class HypervisorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A host as libvirt sees it. ``memory_mb`` is what is there in all, in MiB; ``kvm`` whether it works."""

    cpus: int
    memory_mb: int
    version: str


class Hypervisor(Protocol):
    """libvirt on one host. Domains and networks of a project carry its name in their metadata."""

    uri: str

    async def facts(self) -> HypervisorFacts:
        """Reach the host. Raises DriverError when it does not answer."""

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Which of these are there and belong to somebody else, as ``domain NAME`` and ``network NAME``."""

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """The project's domains by name, running or not."""

    async def start_domain(self, xml: str) -> None:
        """Define the domain (anew, if it is off) and start it. The name is in the XML."""

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Ask the guest to shut down; True when it was off (or gone) within ``seconds``."""

    async def wait_off(self, name: str) -> None:
        """Return when the domain does not run (any more), or is gone."""

    async def destroy_domain(self, name: str) -> None:
        """Switch the domain off at once; it stays defined."""

    async def undefine_domain(self, name: str) -> None:
        """Forget a domain that is off, with what libvirt knows of its snapshots (the data stays)."""

    async def networks(self, project: str) -> Mapping[str, bool]:
        """The project's networks by name, and whether each is active."""

    async def start_network(self, xml: str) -> None:
        """Define the network and start it. One that is active with other XML is left: DriverError."""

    async def leases(self, network: str) -> Mapping[str, str]:
        """The addresses that the network's DHCP server has handed out, by MAC address in lower case."""

    async def remove_network(self, name: str) -> None:
        """Stop the network and forget it."""

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """The domain's snapshots, the oldest first."""

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Keep the domain's disk, and its memory when it runs."""

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Put the domain back to where it was: running or off, as it was then."""

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Give the snapshot up."""

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Tell libvirt again of a snapshot whose data is in the disk."""

    async def close(self) -> None:
        """Let go of the connection."""
