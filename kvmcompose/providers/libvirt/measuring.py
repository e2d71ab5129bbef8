"""What the domains of a host have used, for metrics: one call to libvirt, once they are known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import libvirt
import msgspec

from kvmcompose.core.instance import HostMeasures, HostSize, Measured
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import Connection
from kvmcompose.providers.libvirt.domain_states import NANOSECONDS, OFF, STATES, owner_of, used_kib
from kvmcompose.providers.libvirt.host import facts
from kvmcompose.providers.libvirt.processes import qemu_processes

_BYTES_PER_KIB = 1024
_MEASURED = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)


class DomainMeter:
    """Measures the domains of one host, and remembers from one time to the next what does not change."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner
        self._size: HostSize | None = None
        #: The owners of the domains that were measured last, by UUID, and the times of their starts by
        #: the monotonic clock; None where the process is hidden.
        self._owners: Mapping[str, xmls.Ownership] = {}
        self._starts: Mapping[str, float | None] = {}

    async def measure(self) -> HostMeasures:
        """Return what the domains of all projects have used: one call to libvirt.

        Only a domain that was not there before costs another one, and a domain's start a look at processes.
        """
        if self._size is None:
            known = await self._connection.call("read the facts of the host", facts)
            self._size = HostSize(cpus=known.cpus, memory_mb=known.memory_mb)
        found = await self._connection.call("measure domains", _measured, owners=self._owners)
        self._owners = {each.uuid: each.owner for each in found}
        starts = {each.start: self._starts.get(each.start) for each in found if each.start}
        if not starts.keys() <= self._starts.keys():
            processes, now = await qemu_processes(self._runner), time.monotonic()
            for each in found:
                if each.start and each.owner.name in processes:
                    starts[each.start] = now - processes[each.owner.name][1]
        self._starts, now = starts, time.monotonic()
        instances = []
        for each in found:
            if each.measured is not None:
                since = starts.get(each.start)
                uptime = now - since if since is not None else None
                instances.append(msgspec.structs.replace(each.measured, uptime=uptime))
        return HostMeasures(size=self._size, instances=tuple(instances))


class MeasuredDomain(msgspec.Struct, frozen=True):
    """A domain with what it has used, None if it is no project's.

    ``start`` tells its starts apart; "" while it is off.
    """

    uuid: str
    start: str
    owner: xmls.Ownership
    measured: Measured | None


def _measured(connection: Any, *, owners: Mapping[str, xmls.Ownership]) -> list[MeasuredDomain]:
    """Return all domains: one call, and one for each that is not in ``owners``.

    ``owners`` says whose domains are, by their UUIDs. A domain does not change its owner: it would be another
    one, with another UUID.
    """
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = []
    for domain, stats in connection.getAllDomainStats(_MEASURED, flags):
        uuid = str(domain.UUIDString())
        owner = owners.get(uuid)
        if owner is None or owner.name != domain.name():
            owner = owner_of(domain)
        if owner.project is None:
            found.append(MeasuredDomain(uuid, "", owner, None))
            continue
        state = STATES.get(stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE), "no state")
        now = Measured(project=owner.project, name=owner.name, state=state)
        start = ""
        if state not in OFF:
            start = f"{uuid} {domain.ID()}"  # libvirt numbers the starts of all domains
            now = msgspec.structs.replace(now, **_figures(stats))
        found.append(MeasuredDomain(uuid, start, owner, now))
    return found


def _figures(stats: Mapping[str, int]) -> dict[str, Any]:
    """Return what a domain has used, for ``Measured`` (virConnectGetAllDomainStats)."""
    rss, used = stats.get("balloon.rss"), used_kib(stats)
    return {
        "cpu_seconds": stats.get("cpu.time", 0) / NANOSECONDS,
        "memory": rss * _BYTES_PER_KIB if rss is not None else None,
        "used": used * _BYTES_PER_KIB if used is not None else None,
        "reads": _sum(stats, "block", "rd.reqs"),
        "read_bytes": _sum(stats, "block", "rd.bytes"),
        "writes": _sum(stats, "block", "wr.reqs"),
        "written_bytes": _sum(stats, "block", "wr.bytes"),
        "received_packets": _sum(stats, "net", "rx.pkts"),
        "received_bytes": _sum(stats, "net", "rx.bytes"),
        "sent_packets": _sum(stats, "net", "tx.pkts"),
        "sent_bytes": _sum(stats, "net", "tx.bytes"),
    }


def _sum(stats: Mapping[str, int], kind: str, what: str) -> int | None:
    """Return the sum over the devices of a domain; None where libvirt did not look at one, as it was busy."""
    count = stats.get(f"{kind}.count")
    if count is None:
        return None
    each = [stats.get(f"{kind}.{number}.{what}") for number in range(count)]
    known = [number for number in each if number is not None]
    return sum(known) if known or not each else None
