"""Management ports of one host, through which the server reaches isolated guests."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import ManagementPort


class FoundNamespace(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace of a project, as it is.

    ``addresses`` are the IPv4 addresses of its interface, with the lengths of their prefixes; ``mac`` and
    ``mtu`` are None where there is no interface. ``firewall`` is whether what arrives is filtered as it was
    set up: only replies pass.
    """

    name: str
    addresses: tuple[str, ...] = ()
    mac: str | None = None
    mtu: int | None = None
    up: bool = False
    firewall: bool = False


class ManagementPorts(Protocol):
    """The management ports of one host. What they do to a bridge is the affair of ``Switches``."""

    async def check(self) -> None:
        """Raise DriverError when the host lacks a program."""

    async def observe(self, project: str) -> Mapping[str, FoundNamespace]:
        """Return the project's namespaces by name, in two commands at most, whatever the number."""

    async def apply(self, ports: Sequence[ManagementPort]) -> None:
        """Create namespaces, pairs and filters, or set what differs, in one command.

        An interface is up only once the filter is in force.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove namespaces, with the pairs that lead into them."""

    async def connect(self, namespace: str, address: str, port: int) -> socket.socket:
        """Return a connection to a TCP port of a guest.

        Raises OSError when the guest does not answer, DriverError when the namespace is not there.
        """
