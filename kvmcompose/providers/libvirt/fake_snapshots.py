"""Snapshots of simulated domains."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from xml.sax.saxutils import escape

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDomain
from kvmcompose.providers.libvirt.interface.snapshots import SnapshotState


class FakeSnapshots:
    """See ``DomainSnapshots``."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    async def of(self, domain: str) -> Sequence[SnapshotState]:
        await self._host.call("snapshots", domain)
        found = self._host.world.domains.get(domain, FakeDomain("", "")).snapshots
        last = next(reversed(found), None)
        return [
            SnapshotState(name=name, created=0, state="running", current=name == last, xml=xml)
            for name, xml in found.items()
        ]

    async def create(self, domain: str, name: str) -> None:
        await self._host.call("create_snapshot", domain)
        xml = f"<domainsnapshot><name>{escape(name)}</name><state>running</state></domainsnapshot>"
        self._host.world.domain(domain).snapshots[name] = xml
        self._host.keep(("domains", domain))

    async def restore(self, domain: str, name: str) -> None:
        await self._host.call("restore_snapshot", domain)
        if name not in self._host.world.domain(domain).snapshots:
            raise DriverError(f"{domain} has no snapshot {name}")
        restored = self._host.world.domain(domain)
        ports = [] if restored.started else self._host.world.plug(domain, restored.hardware.nics)
        restored.started, restored.paused = time.time(), ""
        self._host.keep(("domains", domain), *ports)

    async def delete(self, domain: str, name: str) -> None:
        await self._host.call("delete_snapshot", domain)
        if self._host.world.domain(domain).snapshots.pop(name, None) is None:
            raise DriverError(f"{domain} has no snapshot {name}")
        self._host.keep(("domains", domain))

    async def redefine(self, domain: str, xml: str) -> None:
        await self._host.call("know_snapshot", domain)
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 (written by our builds and tests)
        self._host.world.domain(domain).snapshots[name] = xml
        self._host.keep(("domains", domain))
