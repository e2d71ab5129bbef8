"""Networks of projects on one host."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec


class FoundNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of a project. ``xml`` is the live definition if it is active, "" where it is not known.

    ``digest`` is that of the XML that the network has been brought to (``network_digest``).
    ``edited``: the definition was changed since by other means, such as virsh net-edit.
    """

    name: str
    active: bool
    digest: str | None
    xml: str
    edited: bool = False


class Networks(Protocol):
    """The networks of one host; their metadata name their project."""

    async def observe(self, project: str) -> Mapping[str, FoundNetwork]:
        """Return the project's networks by name. ``network_entries.difference`` compares them with XML."""

    async def start(self, xml: str) -> None:
        """Define the network and start it. Raises DriverError for one that is active with other XML."""

    async def update(self, xml: str, names: Collection[str] = ()) -> bool:
        """Give a network the DHCP and DNS entries of its XML, while it is active.

        DNS entries of one of ``names`` alone stay: ``put_names`` made them. Return False, having done
        nothing, when anything else differs: then it has to be made again.
        """

    async def put_names(self, network: str, names: Mapping[str, str | None]) -> None:
        """Give names an address in the DNS server of a network while it is active; None: the name goes.

        The definition stays as it is. Raises DriverError for a name that another entry has.
        """

    async def remove(self, name: str) -> None:
        """Stop and undefine the network."""

    async def leases(self, network: str) -> Mapping[str, str]:
        """Return the addresses that the network's DHCP server assigned, by MAC address in lower case."""

    async def answers(self, mac: str, address: str) -> bool:
        """Return whether the host finds a machine with this MAC address at this IPv4 address, by ARP."""
