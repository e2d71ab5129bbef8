"""Addresses that guest agents tell, of guests whose addresses nothing else knows.

A guest is hostile: what it says is shown, and where the server would connect to it, the host is asked whether
that guest is there. An agent that does not answer holds up no status: its look goes on, and what was known
before is shown until it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, ip_address

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.agent import INTERFACES, addresses_of
from kvmcompose.providers.libvirt.interface.agents import DomainAgents
from kvmcompose.providers.libvirt.interface.networks import Networks

#: How long an answer counts as new, and how long it is known, in seconds.
_NEW_SECONDS, _KNOWN_SECONDS = 10.0, 300.0
#: How long the looks of one status are waited for, in seconds.
_WAIT_SECONDS = 1.0

#: Addresses of a guest by MAC address in lower case.
Addresses = Mapping[str, tuple[str, ...]]


class _Seen(msgspec.Struct, frozen=True):
    addresses: Addresses
    at: float


class AgentAddresses:
    """What was heard last, and the looks that are under way, by host and domain."""

    def __init__(self) -> None:
        self._seen: dict[tuple[DomainAgents, str], _Seen] = {}
        self._looks: dict[tuple[DomainAgents, str], asyncio.Task[None]] = {}

    async def of(self, asked: Iterable[tuple[DomainAgents, str]]) -> dict[str, Addresses]:
        """Return what agents have told of the addresses of domains, by their names."""
        now = time.monotonic()
        for key in [key for key, seen in self._seen.items() if now - seen.at > _KNOWN_SECONDS]:
            del self._seen[key]
        wanted = dict.fromkeys(asked)
        for key in wanted:
            seen = self._seen.get(key)
            if key not in self._looks and (seen is None or now - seen.at > _NEW_SECONDS):
                self._looks[key] = asyncio.create_task(self._look(key), name=f"addresses of {key[1]}")
        looks = [self._looks[key] for key in wanted if key in self._looks]
        if looks:
            await asyncio.wait(looks, timeout=_WAIT_SECONDS)
        return {key[1]: self._seen[key].addresses for key in wanted if key in self._seen}

    async def _look(self, key: tuple[DomainAgents, str]) -> None:
        try:
            found = await told(*key)
        except DriverError:
            found = {}
        finally:
            del self._looks[key]
        self._seen[key] = _Seen(found, time.monotonic())


async def told(agents: DomainAgents, domain: str) -> Addresses:
    """Return what the agent of a domain says of its addresses. Raises DriverError."""
    return addresses_of(domain, await agents.ask(domain, INTERFACES))


async def confirmed(networks: Networks, addresses: Addresses, macs: Iterable[str], subnet: str) -> str | None:
    """Return the first of these addresses in a subnet at which the host finds the guest; None without one."""
    network = IPv4Network(subnet)
    for mac in macs:
        for each in addresses.get(mac, ()):
            if ip_address(each) in network and await networks.answers(mac, each):
                return each
    return None
