"""Snapshots of domains, in their disks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that libvirt knows. ``created`` in seconds since 1970; ``xml`` redefines it."""

    name: str
    created: float
    state: str
    current: bool
    xml: str


class DomainSnapshots(Protocol):
    """The snapshots of domains on one host."""

    async def of(self, domain: str) -> Sequence[SnapshotState]:
        """Return the domain's snapshots, oldest first."""

    async def create(self, domain: str, name: str) -> None:
        """Create a snapshot of the domain's disk, and of its memory when it runs."""

    async def restore(self, domain: str, name: str) -> None:
        """Revert the domain to a snapshot: running or off, as it was then."""

    async def delete(self, domain: str, name: str) -> None:
        """Delete the snapshot."""

    async def redefine(self, domain: str, xml: str) -> None:
        """Redefine a snapshot whose data is in the disk."""
