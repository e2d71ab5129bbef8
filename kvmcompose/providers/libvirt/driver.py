"""libvirt through libvirt-python: domains, networks and snapshots of projects on one host."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.core.instance import HostMeasures
from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts import arp
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import (
    agent,
    agent_calls,
    alive,
    alive_disks,
    consoles,
    neighbours,
    snapshot_tables,
    snapshots,
    stale_network,
    stale_start,
)
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import domains as domain_calls
from kvmcompose.providers.libvirt import networks as network_calls
from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, AgentCommand
from kvmcompose.providers.libvirt.connection import Connection
from kvmcompose.providers.libvirt.interface import (
    Capabilities,
    DomainEvent,
    DomainNeed,
    DomainState,
    FoundNetwork,
    HypervisorFacts,
    ObservedDomain,
    Screen,
    SnapshotState,
    TpmHolder,
    following,
)
from kvmcompose.providers.libvirt.measuring import DomainMeter

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: How long to wait for an event of a guest that shuts down before it is asked again, in seconds.
_LOOK_AGAIN = 5.0
#: How long a start that another request has begun may take, in seconds.
_START_SECONDS = 15.0
_START_LOOK_SECONDS = 0.5
#: How long to watch whether a domain that was resumed is paused again, in seconds.
_RESUME_SECONDS = 0.5
#: How long to wait for an event of a guest agent before it is asked again, in seconds.
_AGENT_LOOK_SECONDS = 2.0
#: How long qemu-img may take to revert a disk to a snapshot, in seconds.
_SNAPSHOT_SECONDS = 600.0

#: Succeeds where virtiofsd is installed (QEMU, "Vhost-user back-ends": libvirt looks for it in the same way).
_FIND_VIRTIOFSD = (
    "cat /etc/qemu/vhost-user/*.json /usr/share/qemu/vhost-user/*.json 2>/dev/null"
    """ | grep -q '"type": *"fs"'"""
)

#: A QEMU process that libvirt started, in the output of ps: its age in seconds and its guest's name.
_QEMU = re.compile(r"^\s*(\d+)\s+(\d+)\s+\S*qemu\S* -name guest=([^,\s]+)", re.MULTILINE)


class Libvirt:
    """The libvirt of one host. ``runner`` runs what libvirt has no call for.

    ``uri`` is its address as seen from here, ``where`` how messages name it.
    """

    def __init__(self, uri: LibvirtUri, runner: CommandRunner, where: str | None = None) -> None:
        self.uri = str(uri)
        self._runner = runner
        self._connection = Connection(uri, where or f"at {uri}", runner.reach)
        #: For guest agents, which may answer late: libvirtd takes a few requests of a connection at a time.
        self._agents = Connection(uri, where or f"at {uri}", runner.reach)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._meter = DomainMeter(self._connection, self._processes)

    async def facts(self) -> HypervisorFacts:
        """Return processors, memory and versions of the host."""
        return await self._connection.call("read the facts of the host", domain_calls.facts)

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        names = {"domain_names": domains, "network_names": networks}
        doing = "list domains and networks"
        return await self._connection.call(doing, domain_calls.foreign, project=project, **names)

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """Return the project's domains by name, running or not.

        libvirt does not record when a domain started: the uptime is the age of its QEMU process, whose number
        tells its starts apart. Both are unknown where processes of other users are hidden (/proc mounted with
        hidepid).
        """
        found = await self._connection.call("list domains", domain_calls.of_project, project=project)
        if not any(state.cpu_seconds is not None for state in found):
            return {state.name: state for state in found}
        processes = await self._processes()
        return {state.name: _aged(state, processes.get(state.name)) for state in found}

    async def _processes(self) -> dict[str, tuple[str, float]]:
        """Return the host's QEMU processes and their ages in seconds, by guest."""
        columns = ["-o", "pid=", "-o", "etimes=", "-o", "args="]
        shown = await self._runner.run(["ps", "-ww", "-e", *columns], check=False)
        return qemu_processes(shown.text)

    async def measure(self) -> HostMeasures:
        return await self._meter.measure()

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        found = await self._connection.call("inspect domains", domain_calls.observed, project=project)
        return {each.name: each for each in found}

    async def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        call, known = self._connection.call, dict[str, DomainEvent]()
        with self._connection.listen() as queue:
            queue.put_nowait(None)
            while True:
                name = await queue.get()
                try:
                    names = [name] if name else known.keys() | await self.domains(project)
                    for each in sorted(names):
                        found = await call(
                            "inspect domains", domain_calls.state_of, name=each, project=project
                        )
                        event = following(known, each, found)
                        if event is not None:
                            yield event
                except DriverError as error:
                    log.info("%s; looking again in %s s", error.message, _LOOK_AGAIN)
                    await asyncio.sleep(_LOOK_AGAIN)
                    queue.put_nowait(None)

    async def start_domain(self, xml: str, made: str = "") -> None:
        """Define the domain and start it; one that runs is left as it is."""
        xml, wanted = _defined(xml, made)
        deadline = time.monotonic() + _START_SECONDS
        doing = f"start the domain {wanted.name}"
        while not await self._connection.call(doing, domain_calls.start, xml=xml, wanted=wanted):
            if time.monotonic() > deadline:
                await self.destroy_domain(wanted.name)
            elif not await stale_start.clear(self._runner):
                await asyncio.sleep(_START_LOOK_SECONDS)
        await arp.leave_arp_to_bridges(self._runner, xmls.switch_taps(xml))

    async def define_domain(self, xml: str, made: str = "") -> None:
        xml, wanted = _defined(xml, made)
        doing = f"define the domain {wanted.name}"
        await self._connection.call(doing, domain_calls.define, xml=xml, wanted=wanted)

    async def stamp_domain(self, name: str, made: str) -> None:
        await self._on_domain(f"stamp the domain {name}", name, domain_calls.stamp, made=made)

    async def resume_domain(self, name: str) -> None:
        """A guest whose disk has no room tries again to write, and is paused again within milliseconds."""
        doing = f"resume the domain {name}"
        with self._connection.watch(name) as changed:
            if not await self._on_domain(doing, name, domain_calls.resume):
                return
            deadline = time.monotonic() + _RESUME_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)
                changed.clear()
                reason = await self._on_domain(doing, name, domain_calls.paused)
                if reason is not None:
                    raise DriverError(f"cannot {doing}: it was paused again at once: {reason}")

    async def suspend_domain(self, name: str) -> None:
        await self._on_domain(f"suspend the domain {name}", name, domain_calls.suspend)

    async def arp_answering(self, taps: Collection[str]) -> Sequence[str]:
        return await arp.answering(self._runner, taps)

    async def leave_arp(self, taps: Sequence[str]) -> None:
        await arp.leave_arp_to_bridges(self._runner, taps)

    async def set_memory(self, name: str, mib: int) -> None:
        await self._on_domain(f"change the memory of the domain {name}", name, alive.set_memory, mib=mib)

    async def set_vcpus(self, name: str, count: int) -> None:
        doing = f"change the processors of the domain {name}"
        await self._on_domain(doing, name, alive.set_vcpus, count=count)

    async def attach_nic(self, name: str, xml: str) -> None:
        await self._on_domain(f"attach a NIC to the domain {name}", name, alive.attach_nic, xml=xml)
        await arp.leave_arp_to_bridges(self._runner, xmls.switch_taps(xml))

    async def set_nic(self, name: str, xml: str) -> None:
        await self._on_domain(f"change a NIC of the domain {name}", name, alive.set_nic, xml=xml)

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        doing = f"detach the NIC {mac} of the domain {name}"
        return await self._detached(doing, name, functools.partial(alive.ask_to_detach_nic, mac=mac), seconds)

    async def _detached(self, doing: str, name: str, ask: Callable[[Any], bool], seconds: float) -> bool:
        """Ask until the guest has let go of a device; return whether it has within ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                if await self._on_domain(doing, name, ask):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), min(left, _LOOK_AGAIN))

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        doing = f"attach the disk {disk} to the domain {name}"
        await self._on_domain(doing, name, alive_disks.attach_disk, disk=disk, xml=xml)

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        doing = f"detach the disk {disk} of the domain {name}"
        ask = functools.partial(alive_disks.ask_to_detach_disk, disk=disk)
        return await self._detached(doing, name, ask, seconds)

    async def change_medium(self, name: str, disk: str, xml: str) -> None:
        doing = f"change the medium of the CD-ROM {disk} of the domain {name}"
        await self._on_domain(doing, name, alive_disks.change_medium, disk=disk, xml=xml)

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        doing = f"enlarge the disk {path} of the domain {name}"
        await self._on_domain(doing, name, alive_disks.grow_disk, path=path, size=size)

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Press the power button every few seconds: a guest that is booting may ignore the first time."""
        deadline = time.monotonic() + seconds
        doing = f"shut down the domain {name}"
        press = True
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                if not await self._connection.call(doing, domain_calls.is_on, name=name, press=press):
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
        doing = f"inspect the domain {name}"
        with self._connection.watch(name) as changed:
            while await self._connection.call(doing, domain_calls.is_on, name=name, press=False):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _LOOK_AGAIN)
                changed.clear()

    async def destroy_domain(self, name: str) -> None:
        """Switch the domain off at once; it stays defined."""
        doing = f"switch off the domain {name}"
        if await self._connection.call(doing, domain_calls.is_about_to_start, name=name):
            await stale_start.clear(self._runner)
        await self._connection.call(doing, domain_calls.destroy, name=name)

    async def undefine_domain(self, name: str) -> None:
        """Undefine a domain. Raises DriverError for one that runs."""
        await self._connection.call(f"undefine the domain {name}", domain_calls.undefine, name=name)
        # a libvirtd that is killed while it switches off a domain leaves these files
        await self._remove_leftovers(f"qemu/{name}.xml", f"qemu/{name}.pid")

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        doing = f"ask what it has for {need.arch} guests"
        found = await self._connection.call(doing, domain_calls.capabilities, need=need)
        if (
            need.virtiofs and found.virtiofs
        ):  # libvirt speaks of QEMU alone, and the daemon is another program
            there = await self._runner.run(["sh", "-c", _FIND_VIRTIOFSD], check=False)
            found = msgspec.structs.replace(found, virtiofs=there.status == 0)
        return found

    async def forget_tpm(self, holder: TpmHolder) -> None:
        xml, doing = xmls.tpm_xml(holder), f"remove the TPM of {holder.name}"
        await self._connection.call(doing, domain_calls.forget_tpm, xml=xml, wanted=xmls.domain_identity(xml))

    async def open_console(self, name: str, *, force: bool) -> socket.socket:
        doing = f"open the console of {name}"

        def open_it(connection: Any) -> socket.socket:
            domain = domain_calls.lookup(connection, name)
            if domain is None:
                raise RefusedError(f"there is no domain {name} on {self._runner.name}")
            return consoles.opened(connection, domain, force=force)

        opening = asyncio.ensure_future(self._connection.call_once(doing, open_it))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # it is waited for all the same, and then nobody wants it
            with contextlib.suppress(DriverError):
                (await opening).close()
            raise

    async def screen(self, name: str) -> Screen | None:
        def look(connection: Any) -> Screen | None:
            domain = domain_calls.lookup(connection, name)
            return None if domain is None else consoles.screen(domain)

        return await self._connection.call(f"inspect the domain {name}", look)

    async def open_screen(self, screen: Screen) -> socket.socket:
        return await self._runner.connect(screen.address, screen.port)

    async def ask_agent(self, name: str, command: AgentCommand, seconds: int = ANSWER_SECONDS) -> Any:
        """Ask by a connection of its own: a guest that answers late holds up no other call."""
        doing = f"ask the guest agent of {name}"
        guard = self._asking.setdefault(name, asyncio.Lock())
        async with guard:
            work = functools.partial(agent_calls.ask, command=command, seconds=seconds)
            text = await self._agents.call_once(doing, self._with_domain, doing, name, work)
        return agent.answer_of(name, command.execute, text)

    async def wait_agent(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                try:
                    await self.ask_agent(name, agent.PING)
                except DriverError as error:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise DriverError(
                            f"{name} was not ready within {seconds:.0f} s: it was waited for its guest agent;"
                            f" {error.message}",
                            hint=error.hint,
                        ) from None
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), min(left, _AGENT_LOOK_SECONDS))
                else:
                    return

    async def start_network(self, xml: str) -> None:
        marked, digest = xmls.with_digest(xml)
        wanted = xmls.network_identity(marked)
        doing = f"start the network {wanted.name}"
        start = functools.partial(network_calls.start, xml=marked, wanted=wanted, digest=digest)
        try:
            await self._connection.call(doing, start)
        except DriverError:
            if not await self._clear_stale_network(wanted.name, marked):
                raise
            await self._connection.call(doing, start)

    async def found_networks(self, project: str) -> Mapping[str, FoundNetwork]:
        return await self._connection.call("inspect networks", network_calls.found, project=project)

    async def update_network(self, xml: str, names: Collection[str] = ()) -> bool:
        """Each entry is a call: 1 ms for DNS, some 0.3 s for DHCP, as libvirt reloads its firewall rules."""
        marked, _ = xmls.with_digest(xml)
        wanted = xmls.network_identity(marked)
        doing = f"update the network {wanted.name}"
        update = functools.partial(network_calls.update, xml=xml, marked=marked, wanted=wanted, names=names)
        return await self._connection.call(doing, update)

    async def put_names(self, network: str, names: Mapping[str, str | None]) -> None:
        doing = f"change names in the network {network}"
        await self._connection.call(doing, network_calls.put_names, name=network, names=names)

    async def leases(self, network: str) -> Mapping[str, str]:
        """Return the addresses that the network's DHCP server assigned, by MAC address in lower case.

        Empty when there is no such network.
        """
        doing = f"list the leases of the network {network}"
        return await self._connection.call(doing, network_calls.leases, name=network)

    async def answers(self, mac: str, address: str) -> bool:
        return await neighbours.answers(self._runner, mac, address)

    async def remove_network(self, name: str) -> None:
        doing = f"remove the network {name}"
        await self._connection.call(doing, network_calls.stop, name=name)
        await self._clear_stale_network(name)
        await self._connection.call(doing, network_calls.undefine, name=name)
        # its DHCP server wrote this file as root and ended as nobody; libvirt (9.0) leaves it
        await self._remove_leftovers(f"network/{name}.pid")

    async def _remove_leftovers(self, *names: str) -> None:
        """Remove state files that libvirt left of something that does not run any more."""
        if all(name.count("/") == 1 for name in names):
            argv = ["rm", "-f", "--", *(f"/run/libvirt/{name}" for name in names)]
            await self._runner.run(argv, privileged=True, check=False)

    async def _clear_stale_network(self, name: str, xml: str | None = None) -> bool:
        """Remove what is left of a network that is not active; return whether there was anything.

        ``xml`` defines a network that libvirt does not know.
        """
        doing = f"inspect the network {name}"
        found = await self._connection.call(doing, network_calls.remains_of_inactive, name=name, xml=xml)
        return found is not None and await stale_network.clear(self._runner, found)

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        return await self._on_domain(f"list the snapshots of {domain}", domain, snapshots.listed)

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Create a snapshot of disk and, if the domain runs, memory; the guest is paused meanwhile."""
        doing = f"create the snapshot {name} of {domain}"
        disks = await self._on_domain(doing, domain, snapshots.room, name=name)
        snapshot_tables.refuse_to_create(domain, name, await snapshot_tables.read(self._runner, disks))
        await self._connection.call_once(doing, self._with_domain, doing, domain, snapshots.create, name=name)

    async def restore_snapshot(self, domain: str, name: str) -> None:
        doing = f"restore the snapshot {name} of {domain}"
        state, disks = await self._on_domain(doing, domain, snapshots.places, name=name)
        tables = await snapshot_tables.read(self._runner, disks)
        corrections = snapshot_tables.corrections(domain, name, state, tables)
        await self._on_domain(doing, domain, snapshots.restore, name=name)
        for argv in corrections:
            await self._runner.run(argv, privileged=True, seconds=_SNAPSHOT_SECONDS)
        await arp.leave_arp_to_bridges(self._runner, await self._on_domain(doing, domain, alive.taps))

    async def delete_snapshot(self, domain: str, name: str) -> None:
        doing = f"delete the snapshot {name} of {domain}"
        await self._connection.call_once(doing, self._with_domain, doing, domain, snapshots.delete, name=name)

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Redefine a snapshot whose data is in the disk; does nothing when libvirt knows it."""
        doing = f"redefine the snapshot {xmls.snapshot_facts(xml).name} of {domain}"
        await self._on_domain(doing, domain, snapshots.know, xml=xml)

    async def close(self) -> None:
        await self._connection.close()
        await self._agents.close()

    async def _on_domain(
        self, doing: str, domain: str, work: Callable[..., _Result], /, **kwargs: Any
    ) -> _Result:
        return await self._connection.call(doing, self._with_domain, doing, domain, work, **kwargs)

    def _with_domain(
        self, connection: Any, doing: str, name: str, work: Callable[..., _Result], /, **kwargs: Any
    ) -> _Result:
        """Call ``work`` with the domain of that name. Raises DriverError when there is none."""
        domain = domain_calls.lookup(connection, name)
        if domain is None:
            raise DriverError(
                f"cannot {doing}: there is no domain {name} on {self._runner.name}",
                hint="kvm-compose up creates the domains",
            )
        return work(domain, **kwargs)


def _defined(xml: str, made: str) -> tuple[str, xmls.Ownership]:
    """Return a definition that says what it was made from, and whose it is. Raises DriverError."""
    xml = xmls.with_made(xml, made)
    return xml, xmls.domain_identity(xml)


def qemu_processes(shown: str) -> dict[str, tuple[str, float]]:
    """Parse ``ps -e -o pid= -o etimes= -o args=``: QEMU processes and their ages in seconds, by guest."""
    return {match[3]: (match[1], float(match[2])) for match in _QEMU.finditer(shown)}


def _aged(state: DomainState, process: tuple[str, float] | None) -> DomainState:
    if state.cpu_seconds is None or process is None:
        return state
    return msgspec.structs.replace(state, boot=process[0], uptime=process[1])
