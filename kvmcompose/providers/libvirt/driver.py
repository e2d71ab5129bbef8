"""libvirt through libvirt-python: domains, networks and snapshots of projects on one host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import (
    host_facts,
    networks,
    snapshot_tables,
    snapshots,
    stale_network,
    stale_start,
)
from kvmcompose.providers.libvirt.connection import Connection, unless_so_already
from kvmcompose.providers.libvirt.interface import DomainState, HypervisorFacts, SnapshotState

_KIB_PER_MIB = 1024
_NANOSECONDS = 1e9
#: How long to wait for news of a guest that shuts down before looking, and asking, again. In seconds.
_LOOK_AGAIN = 5.0
#: How long libvirt may take to start a QEMU that somebody else has asked for. In seconds.
_START_SECONDS = 15.0
_START_LOOK_SECONDS = 0.5
#: How long QEMU may take to make the clusters of a snapshot those of the disk. In seconds.
_SNAPSHOT_SECONDS = 600.0

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
_FORGET_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
#: A QEMU that libvirt started, as ps shows it: its age in seconds and its guest's name.
_QEMU = re.compile(r"^\s*(\d+)\s+\S*qemu\S* -name guest=([^,\s]+)", re.MULTILINE)


class Libvirt:
    """The libvirt of one host. ``machine`` is that host, for what libvirt does not tell.

    ``uri`` is how it is reached from here, ``where`` how messages say that.
    """

    def __init__(self, uri: LibvirtUri, machine: CommandRunner, where: str | None = None) -> None:
        self.uri = str(uri)
        self._machine = machine
        self._connection = Connection(uri, where or f"at {uri}", machine.reach)

    async def facts(self) -> HypervisorFacts:
        """Processors, memory and versions of the host."""
        return await self._connection.call("ask libvirt about the host", host_facts.facts)

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Which of these are there and belong to somebody else."""
        work = functools.partial(_foreign, project=project, domain_names=domains, network_names=networks)
        return await self._connection.call("look for domains and networks", work)

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """The project's domains by name, running or not.

        libvirt does not know since when a domain runs: the uptime is the age of its QEMU process, and
        None where processes of others cannot be seen (proc mounted with hidepid).
        """
        found = await self._connection.call("list domains", functools.partial(_domains, project=project))
        if not any(state.cpu_seconds is not None for state in found):
            return {state.name: state for state in found}
        shown = await self._machine.run(["ps", "-ww", "-e", "-o", "etimes=", "-o", "args="], check=False)
        ages = qemu_ages(shown.text)
        return {state.name: _with_uptime(state, ages) for state in found}

    async def start_domain(self, xml: str) -> None:
        """Define the domain (anew, if it is off) and start it; one that runs is left as it is."""
        wanted = xmls.domain_identity(xml)
        if not wanted.project:
            raise DriverError(
                f"the XML of the domain {wanted.name} does not say which project it belongs to",
                hint="its <metadata> went missing; put it back, or kvm-compose generate --overwrite",
            )
        work = functools.partial(_start_domain, xml=xml, wanted=wanted)
        deadline = time.monotonic() + _START_SECONDS
        while not await self._connection.call(f"start the domain {wanted.name}", work):
            if time.monotonic() > deadline:
                await self.destroy_domain(wanted.name)
            elif not await stale_start.clear(self._machine):
                await asyncio.sleep(_START_LOOK_SECONDS)

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Press the power button, every few seconds again (a guest that boots may not hear the first)."""
        deadline = time.monotonic() + seconds
        doing = f"shut down the domain {name}"
        press = True
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                work = functools.partial(_is_on, name=name, press=press)
                if not await self._connection.call(doing, work):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                try:
                    await asyncio.wait_for(changed.wait(), min(left, _LOOK_AGAIN))
                    press = False
                except TimeoutError:
                    press = True

    async def wait_off(self, name: str) -> None:
        """Return when the domain does not run (any more), or is gone."""
        doing = f"look at the domain {name}"
        work = functools.partial(_is_on, name=name, press=False)
        with self._connection.watch(name) as changed:
            while await self._connection.call(doing, work):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _LOOK_AGAIN)
                changed.clear()

    async def destroy_domain(self, name: str) -> None:
        """Switch the domain off at once; it stays defined."""
        doing = f"switch off the domain {name}"
        if await self._connection.call(doing, functools.partial(_is_about_to_start, name=name)):
            await stale_start.clear(self._machine)
        await self._connection.call(doing, functools.partial(_destroy_domain, name=name))

    async def undefine_domain(self, name: str) -> None:
        """Forget a domain that is off. Raises DriverError for one that runs."""
        work = functools.partial(_undefine_domain, name=name)
        await self._connection.call(f"undefine the domain {name}", work)
        # a libvirtd that is killed while it switches a domain off leaves these
        await self._remove_leftovers(f"qemu/{name}.xml", f"qemu/{name}.pid")

    async def networks(self, project: str) -> Mapping[str, bool]:
        """The project's networks by name, and whether each is active."""
        work = functools.partial(networks.of_project, project=project)
        return await self._connection.call("list networks", work)

    async def start_network(self, xml: str) -> None:
        """Define the network and start it. One that is active with other XML is left: DriverError."""
        marked, digest = xmls.with_digest(xml)
        wanted = xmls.network_identity(marked)
        work = functools.partial(networks.start, xml=marked, wanted=wanted, digest=digest)
        doing = f"start the network {wanted.name}"
        try:
            await self._connection.call(doing, work)
        except DriverError:
            if not await self._clear_half_a_network(wanted.name, marked):
                raise
            await self._connection.call(doing, work)

    async def leases(self, network: str) -> Mapping[str, str]:
        """The addresses that the network's DHCP server has handed out, by MAC address in lower case.

        Empty when there is no such network.
        """
        work = functools.partial(networks.leases, name=network)
        return await self._connection.call(f"ask the network {network} for its leases", work)

    async def remove_network(self, name: str) -> None:
        """Stop the network and forget it."""
        doing = f"remove the network {name}"
        await self._connection.call(doing, functools.partial(networks.stop, name=name))
        await self._clear_half_a_network(name)
        await self._connection.call(doing, functools.partial(networks.undefine, name=name))
        # its DHCP server wrote this as root and ended as nobody, and libvirt (9.0) leaves it there
        await self._remove_leftovers(f"network/{name}.pid")

    async def _remove_leftovers(self, *names: str) -> None:
        """Remove files of libvirt's that it has forgotten, of something that does not run any more."""
        if all(name.count("/") == 1 for name in names):
            argv = ["rm", "-f", "--", *(f"/run/libvirt/{name}" for name in names)]
            await self._machine.run(argv, privileged=True, check=False)

    async def _clear_half_a_network(self, name: str, xml: str | None = None) -> bool:
        """Remove what is left of a network that is not active; True when there was something.

        ``xml`` is for a network that libvirt does not know.
        """
        work = functools.partial(networks.remains_of_inactive, name=name, xml=xml)
        found = await self._connection.call(f"look at the network {name}", work)
        if found is None:
            return False
        return await stale_network.clear(self._machine, found)

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """The domain's snapshots, the oldest first."""
        doing = f"list the snapshots of {domain}"
        found: list[SnapshotState] = await self._on_domain(doing, domain, snapshots.listed)
        return found

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Keep the domain's disk, and its memory when it runs; the guest stands still meanwhile."""
        doing = f"make the snapshot {name} of {domain}"
        disks = await self._on_domain(doing, domain, functools.partial(snapshots.room, name=name))
        snapshot_tables.refuse_to_create(domain, name, await snapshot_tables.read(self._machine, disks))
        work = functools.partial(snapshots.create, name=name)
        await self._on_domain(doing, domain, work, repeatable=False)

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Put the domain back to where it was: running or off, as it was then."""
        doing = f"restore the snapshot {name} of {domain}"
        looking = functools.partial(snapshots.places, name=name)
        state, disks = await self._on_domain(doing, domain, looking)
        tables = await snapshot_tables.read(self._machine, disks)
        corrections = snapshot_tables.corrections(domain, name, state, tables)
        await self._on_domain(doing, domain, functools.partial(snapshots.restore, name=name))
        for argv in corrections:
            await self._machine.run(argv, privileged=True, seconds=_SNAPSHOT_SECONDS)

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Give the snapshot up."""
        work = functools.partial(snapshots.delete, name=name)
        await self._on_domain(f"delete the snapshot {name} of {domain}", domain, work, repeatable=False)

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Tell libvirt again of a snapshot whose data is in the disk; nothing when it knows of it."""
        name = xmls.snapshot_facts(xml).name
        work = functools.partial(snapshots.know, xml=xml)
        await self._on_domain(f"tell libvirt of the snapshot {name} of {domain}", domain, work)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._connection.close()

    async def _on_domain(self, doing: str, name: str, work: Any, *, repeatable: bool = True) -> Any:
        def look_up_and_work(connection: Any) -> Any:
            domain = _lookup(connection, name)
            if domain is None:
                raise DriverError(
                    f"cannot {doing}: there is no domain {name} on {self._machine.name}",
                    hint="kvm-compose up makes the domains",
                )
            return work(domain)

        return await self._connection.call(doing, look_up_and_work, repeatable=repeatable)


def qemu_ages(shown: str) -> dict[str, float]:
    """The ages in seconds of QEMU processes, by guest, from ``ps -e -o etimes= -o args=``."""
    return {match[2]: float(match[1]) for match in _QEMU.finditer(shown)}


def _with_uptime(state: DomainState, ages: Mapping[str, float]) -> DomainState:
    if state.cpu_seconds is None:
        return state
    return DomainState(
        name=state.name,
        guest=state.guest,
        state=state.state,
        uptime=ages.get(state.name),
        cpu_seconds=state.cpu_seconds,
        memory_mb=state.memory_mb,
    )


# -- what runs in the connection's threads -------------------------------------------------------------


def _foreign(
    connection: Any, *, project: str, domain_names: Sequence[str], network_names: Sequence[str]
) -> list[str]:
    own = {domain.name for domain in _domains(connection, project=project)}
    there = {domain.name() for domain in connection.listAllDomains()}
    found = [f"domain {name}" for name in domain_names if name in there - own]
    there = {network.name() for network in connection.listAllNetworks()}
    there -= networks.of_project(connection, project=project).keys()
    return found + [f"network {name}" for name in network_names if name in there]


def _domains(connection: Any, *, project: str) -> list[DomainState]:
    wanted = (
        libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
    )
    # a domain in a long job (a snapshot is taken) is not waited for
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = []
    for domain, stats in connection.getAllDomainStats(wanted, flags):
        owner, guest = _mark(domain)
        if owner != project:
            continue
        state = _STATES.get(stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE), "no state")
        on = state not in ("shut off", "crashed")
        rss = stats.get("balloon.rss")
        found.append(
            DomainState(
                name=domain.name(),
                guest=guest,
                state=state,
                cpu_seconds=stats.get("cpu.time", 0) / _NANOSECONDS if on else None,
                memory_mb=rss // _KIB_PER_MIB if on and rss is not None else None,
            )
        )
    return sorted(found, key=lambda each: each.name)


def _mark(domain: Any) -> tuple[str | None, str]:
    """Project and guest of a domain; None for somebody else's, or one that has just gone."""
    try:
        element = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xmls.GUEST_NAMESPACE)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None, ""
        raise
    return xmls.mark_identity(element)


def _lookup(connection: Any, name: str) -> Any:
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _start_domain(connection: Any, *, xml: str, wanted: xmls.Ownership) -> bool:
    """Whether it runs: False when it is about to, by another's doing or that of a libvirtd of before."""
    domain = _lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, _mark(domain)[0])
        xml = xmls.with_uuid(xml, domain.UUIDString())
    if domain is None or not domain.isActive() or not domain.isPersistent():
        domain = connection.defineXML(xml)
    # asked first: what is about to start and active now may be off in a moment
    if _is_about_to_start(connection, name=wanted.name):
        return False
    if not domain.isActive():
        try:
            domain.create()
        except libvirt.libvirtError:
            # somebody else may have been faster
            if not domain.isActive():
                raise
    return True


def _is_about_to_start(connection: Any, *, name: str) -> bool:
    domain = _lookup(connection, name)
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain is not None:
            state, reason = domain.state()
            return (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    return False


def _is_on(connection: Any, *, name: str, press: bool) -> bool:
    domain = _lookup(connection, name)
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain is None or not domain.isActive():
            return False
        if press:
            with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID):
                domain.shutdown()
        return True
    return False


def _destroy_domain(connection: Any, *, name: str) -> None:
    domain = _lookup(connection, name)
    if domain is not None and domain.isActive():
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            domain.destroy()


def _undefine_domain(connection: Any, *, name: str) -> None:
    domain = _lookup(connection, name)
    if domain is None:
        return
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain.isActive():
            raise DriverError(f"the domain {name} runs: it cannot be undefined")
        domain.undefineFlags(_FORGET_ALL)
