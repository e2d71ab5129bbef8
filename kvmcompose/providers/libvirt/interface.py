"""Domains, networks and snapshots of projects on one host.

All drivers are called from one event loop and must not block it. Failures raise DriverError, whose message
names what was attempted. Every call is idempotent: starting what runs, or removing what is gone, is no error.
Names are those on the host, from ``state.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of a project. ``state`` is libvirt's term: ``running``, ``shut off``, ``paused``, ``crashed``.

    ``reason`` says why it is paused, off or crashed, where libvirt knows: ``by user``, ``starting up``,
    ``I/O error``, ``I/O error: no space for vda``; ``shutdown``, ``destroyed``, ``crashed``, ``failed``.
    ``uptime`` in seconds, ``cpu_seconds`` used since the start, ``memory_mb`` resident, in MiB. ``made`` is
    what it was made from, as given when it was defined or stamped, and "" without: of a running domain, what
    it was started with.
    """

    name: str
    guest: str
    state: str
    reason: str | None = None
    made: str = ""
    uptime: float | None = None
    cpu_seconds: float | None = None
    memory_mb: int | None = None


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that libvirt knows. ``created`` in seconds since 1970; ``xml`` redefines it."""

    name: str
    created: float
    state: str
    current: bool
    xml: str


class FoundNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of a project. ``xml`` is the live definition if it is active, "" where it is not known.

    ``digest`` is that of the XML that the network has been brought to (``definitions.network_digest``).
    """

    name: str
    active: bool
    digest: str | None
    xml: str


class HypervisorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A host as libvirt sees it. ``memory_mb`` is the total, in MiB."""

    cpus: int
    memory_mb: int
    version: str


class Hypervisor(Protocol):
    """libvirt on one host. The metadata of domains and networks name their project."""

    uri: str

    async def facts(self) -> HypervisorFacts:
        """Return facts about the host. Raises DriverError when it does not answer."""

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Return which of these names are taken by objects that are not the project's, as ``domain NAME`` and
        ``network NAME``.
        """

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """Return the project's domains by name, running or not."""

    async def start_domain(self, xml: str, made: str = "") -> None:
        """Define the domain and start it. The name is in the XML; one that runs is left as it is.

        ``made`` is kept in its metadata: text that describes what it is made from.
        """

    async def define_domain(self, xml: str, made: str = "") -> None:
        """Define the domain, and do not start it; one that runs has this definition from its next start."""

    async def stamp_domain(self, name: str, made: str) -> None:
        """Set ``made`` in the metadata, of the running domain and of its definition."""

    async def resume_domain(self, name: str) -> None:
        """Let a paused domain run on. Raises DriverError for one that is off, or pauses again at once."""

    async def suspend_domain(self, name: str) -> None:
        """Pause a domain. Raises DriverError for one that is off."""

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Ask the guest to shut down; return whether it was off (or gone) within ``seconds``."""

    async def wait_off(self, name: str) -> None:
        """Return when the domain is off, or gone."""

    async def destroy_domain(self, name: str) -> None:
        """Switch off the domain at once; it stays defined."""

    async def undefine_domain(self, name: str) -> None:
        """Undefine a domain that is off, and the metadata of its snapshots (the data stays)."""

    async def networks(self, project: str) -> Mapping[str, bool]:
        """Return the project's networks by name, and whether each is active."""

    async def start_network(self, xml: str) -> None:
        """Define the network and start it. Raises DriverError for one that is active with other XML."""

    async def found_networks(self, project: str) -> Mapping[str, FoundNetwork]:
        """Return the project's networks by name. ``network_entries.difference`` compares them with XML."""

    async def update_network(self, xml: str) -> bool:
        """Give a network the DHCP and DNS entries of its XML, while it is active.

        Return False, having done nothing, when anything else differs: then it has to be made again.
        """

    async def leases(self, network: str) -> Mapping[str, str]:
        """Return the addresses that the network's DHCP server assigned, by MAC address in lower case."""

    async def remove_network(self, name: str) -> None:
        """Stop and undefine the network."""

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """Return the domain's snapshots, oldest first."""

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Create a snapshot of the domain's disk, and of its memory when it runs."""

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Revert the domain to a snapshot: running or off, as it was then."""

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Delete the snapshot."""

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Redefine a snapshot whose data is in the disk."""

    async def close(self) -> None:
        """Close the connection."""
