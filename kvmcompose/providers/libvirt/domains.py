"""The domains of projects on one host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import libvirt
import msgspec

from kvmcompose.hosts import arp
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definition_record, domain_states, stale_start
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.alive import refuse_off
from kvmcompose.providers.libvirt.connection import LOOK_AGAIN, Connection, lookup, unless_so_already
from kvmcompose.providers.libvirt.domain_states import is_about_to_start, mark_of, owner_of
from kvmcompose.providers.libvirt.interface.domains import (
    DomainEvent,
    DomainState,
    ObservedDomain,
    TpmHolder,
    following,
)
from kvmcompose.providers.libvirt.processes import qemu_processes
from kvmcompose.providers.libvirt.state_files import remove_state_files

log = logging.getLogger(__name__)

#: How long a start that another request has begun may take, in seconds.
_START_SECONDS = 15.0
_START_LOOK_SECONDS = 0.5
#: How long to watch whether a domain that was resumed is paused again, in seconds.
_RESUME_SECONDS = 0.5
#: How often guests report the memory that they use, in seconds.
_STATS_SECONDS = 10
_FORGET_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


class LibvirtDomains:
    """The domains of one host. ``runner`` runs what libvirt has no call for."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner

    async def states(self, project: str) -> Mapping[str, DomainState]:
        """Return the project's domains by name, running or not.

        libvirt does not record when a domain started: the uptime is the age of its QEMU process, whose number
        tells its starts apart. Both are unknown where processes of other users are hidden (/proc mounted with
        hidepid).
        """
        found = await self._connection.call("list domains", domain_states.of_project, project=project)
        if not any(state.cpu_seconds is not None for state in found):
            return {state.name: state for state in found}
        processes = await qemu_processes(self._runner)
        return {state.name: _aged(state, processes.get(state.name)) for state in found}

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        found = await self._connection.call("inspect domains", domain_states.observed, project=project)
        return {each.name: each for each in found}

    async def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        call, known = self._connection.call, dict[str, DomainEvent]()
        with self._connection.listen() as queue:
            queue.put_nowait(None)
            while True:
                name = await queue.get()
                try:
                    names = [name] if name else known.keys() | await self.states(project)
                    for each in sorted(names):
                        found = await call(
                            "inspect domains", domain_states.state_of, name=each, project=project
                        )
                        event = following(known, each, found)
                        if event is not None:
                            yield event
                except DriverError as error:
                    log.info("%s; looking again in %s s", error.message, LOOK_AGAIN)
                    await asyncio.sleep(LOOK_AGAIN)
                    queue.put_nowait(None)

    async def start(self, xml: str, made: str = "") -> None:
        """Define the domain and start it; one that runs is left as it is."""
        xml, wanted = _defined(xml, made)
        deadline = time.monotonic() + _START_SECONDS
        doing = f"start the domain {wanted.name}"
        while not await self._connection.call(doing, _start, xml=xml, wanted=wanted):
            if time.monotonic() > deadline:
                await self.destroy(wanted.name)
            elif not await stale_start.clear(self._runner):
                await asyncio.sleep(_START_LOOK_SECONDS)
        await arp.leave_arp_to_bridges(self._runner, xmls.switch_taps(xml))

    async def define(self, xml: str, made: str = "") -> None:
        xml, wanted = _defined(xml, made)
        doing = f"define the domain {wanted.name}"
        await self._connection.call(doing, _define, xml=xml, wanted=wanted)

    async def stamp(self, name: str, made: str) -> None:
        await self._connection.on_domain(f"stamp the domain {name}", name, _stamp, made=made)

    async def resume(self, name: str) -> None:
        """A guest whose disk has no room tries again to write, and is paused again within milliseconds."""
        doing = f"resume the domain {name}"
        with self._connection.watch(name) as changed:
            if not await self._connection.on_domain(doing, name, _resume):
                return
            deadline = time.monotonic() + _RESUME_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), left)
                changed.clear()
                reason = await self._connection.on_domain(doing, name, domain_states.paused)
                if reason is not None:
                    raise DriverError(
                        f"cannot {doing}: it was paused again at once: {reason}",
                        hint=f"make room on the disk of {self._runner.name}; nothing is lost meanwhile",
                    )

    async def suspend(self, name: str) -> None:
        await self._connection.on_domain(f"suspend the domain {name}", name, _suspend)

    async def shut_down(self, name: str, seconds: float) -> bool:
        """Press the power button every few seconds: a guest that is booting may ignore the first time."""
        deadline = time.monotonic() + seconds
        doing = f"shut down the domain {name}"
        press = True
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                if not await self._connection.call(doing, _is_on, name=name, press=press):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                try:
                    await asyncio.wait_for(changed.wait(), min(left, LOOK_AGAIN))
                    press = False
                except TimeoutError:
                    press = True

    async def wait_off(self, name: str) -> None:
        doing = f"inspect the domain {name}"
        with self._connection.watch(name) as changed:
            while await self._connection.call(doing, _is_on, name=name, press=False):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_AGAIN)
                changed.clear()

    async def destroy(self, name: str) -> None:
        """Switch the domain off at once; it stays defined."""
        doing = f"switch off the domain {name}"
        if await self._connection.call(doing, is_about_to_start, name=name):
            await stale_start.clear(self._runner)
        await self._connection.call(doing, _destroy, name=name)

    async def undefine(self, name: str) -> None:
        """Undefine a domain. Raises DriverError for one that runs."""
        await self._connection.call(f"undefine the domain {name}", _undefine, name=name)
        # a libvirtd that is killed while it switches off a domain leaves these files
        await remove_state_files(self._runner, f"qemu/{name}.xml", f"qemu/{name}.pid")

    async def forget_tpm(self, holder: TpmHolder) -> None:
        xml, doing = xmls.tpm_xml(holder), f"remove the TPM of {holder.name}"
        await self._connection.call(doing, _forget_tpm, xml=xml, wanted=xmls.domain_identity(xml))


def _defined(xml: str, made: str) -> tuple[str, xmls.Ownership]:
    """Return a definition that says what it was made from, and whose it is. Raises DriverError."""
    xml = xmls.with_made(xml, made)
    return xml, xmls.domain_identity(xml)


def _aged(state: DomainState, process: tuple[str, float] | None) -> DomainState:
    if state.cpu_seconds is None or process is None:
        return state
    return msgspec.structs.replace(state, boot=process[0], uptime=process[1])


# the functions below run in the threads of the connection


def _start(connection: Any, *, xml: str, wanted: xmls.Ownership) -> bool:
    """Define and start a domain. Returns False while it is starting already, at another's request."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
    if domain is None or not domain.isActive() or not domain.isPersistent():
        domain = _define(connection, xml=xml, wanted=wanted)
    # asked first: a domain that is starting counts as active, and may be off in a moment
    if is_about_to_start(connection, name=wanted.name):
        return False
    if not domain.isActive():
        try:
            domain.create()
        except libvirt.libvirtError:
            # another request may have been faster
            if not domain.isActive():
                raise
    with contextlib.suppress(libvirt.libvirtError):  # a definition may have no balloon, or the guest is off
        domain.setMemoryStatsPeriod(_STATS_SECONDS, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return True


def _define(connection: Any, *, xml: str, wanted: xmls.Ownership) -> Any:
    """Define a domain, running or not, and return it. Records what libvirt makes of the definition."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
        if _has_to_be_another(domain, xml):
            _undefine(connection, name=wanted.name)
        else:
            xml = xmls.with_uuid(xml, domain.UUIDString())
    domain = connection.defineXML(xml)
    definition_record.record(domain)
    return domain


def _has_to_be_another(domain: Any, xml: str) -> bool:
    """Return whether the UUID of a domain is another than its definition asks for, and can be changed.

    libvirt finds the state of a TPM by it. A domain that runs, or has snapshots, keeps the one that it has.
    """
    wanted = xmls.uuid_of(xml)
    return wanted not in (None, domain.UUIDString()) and not domain.isActive() and domain.snapshotNum() == 0


def _stamp(domain: Any, *, made: str) -> None:
    """Set ``made`` in the metadata, of the running domain and of its definition."""
    for there, affected in (
        (domain.isActive(), libvirt.VIR_DOMAIN_AFFECT_LIVE),
        (domain.isPersistent(), libvirt.VIR_DOMAIN_AFFECT_CONFIG),
    ):
        if there:
            mark = xmls.marked(mark_of(domain, affected), made=made)
            kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            domain.setMetadata(kind, mark, xmls.GUEST_PREFIX, xmls.GUEST_NAMESPACE, affected)


def _resume(domain: Any) -> bool:
    """Let a domain run on that is paused, or sleeps; return whether it was paused."""
    state, _ = domain.state()
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID):
            domain.pMWakeup(0)
        return False
    if state != libvirt.VIR_DOMAIN_PAUSED:
        refuse_off(domain, "resume")
        return False
    try:
        domain.resume()
    except libvirt.libvirtError:
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            raise
    return True


def _suspend(domain: Any) -> None:
    """Pause a domain that runs."""
    refuse_off(domain, "suspend")
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        domain.suspend()


def _is_on(connection: Any, *, name: str, press: bool) -> bool:
    """Return whether the domain runs. ``press`` its power button if it does."""
    domain = lookup(connection, name)
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain is None or not domain.isActive():
            return False
        if press:
            with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID):
                domain.shutdown()
        return True
    return False


def _destroy(connection: Any, *, name: str) -> None:
    domain = lookup(connection, name)
    if domain is not None and domain.isActive():
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            domain.destroy()


def _undefine(connection: Any, *, name: str) -> None:
    """Remove the definition of a domain that is off, if there is one."""
    domain = lookup(connection, name)
    if domain is None:
        return
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain.isActive():
            raise DriverError(f"cannot undefine the domain {name}: it is running")
        keep = xmls.has_own_nvram(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        nvram = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM if keep else libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        domain.undefineFlags(_FORGET_ALL | nvram)


def _forget_tpm(connection: Any, *, xml: str, wanted: xmls.Ownership) -> None:
    """Remove the state of the TPM of a domain that is not defined: libvirt does so when it undefines one."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
        if domain.isActive():
            raise DriverError(f"cannot remove the TPM of the domain {wanted.name}: it is running")
    with unless_so_already(libvirt.VIR_ERR_CONFIG_UNSUPPORTED):  # without swtpm there is no state
        domain = domain or connection.defineXML(xml)
        domain.undefineFlags(_FORGET_ALL | libvirt.VIR_DOMAIN_UNDEFINE_TPM)
