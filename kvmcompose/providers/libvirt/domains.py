"""The host, and the domains of projects on it. Runs in the threads of a libvirt connection."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt
import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definition_record, networks
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import unless_so_already
from kvmcompose.providers.libvirt.interface import (
    Capabilities,
    DomainEvent,
    DomainNeed,
    DomainState,
    HypervisorFacts,
    ObservedDomain,
)

_KIB_PER_MIB = 1024
#: How often guests report the memory that they use, in seconds.
_STATS_SECONDS = 10
NANOSECONDS = 1e9
#: The words for libvirt's states; a domain in one of ``OFF`` has no memory.
STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
OFF = ("shut off", "crashed")
_REASONS = {
    libvirt.VIR_DOMAIN_PAUSED: {
        libvirt.VIR_DOMAIN_PAUSED_USER: "by user",
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "migration",
        libvirt.VIR_DOMAIN_PAUSED_SAVE: "being saved",
        libvirt.VIR_DOMAIN_PAUSED_DUMP: "being dumped",
        libvirt.VIR_DOMAIN_PAUSED_IOERROR: "I/O error",
        libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "watchdog",
        libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT: "restored from a snapshot",
        libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: "shutting down",
        libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "snapshot",
        libvirt.VIR_DOMAIN_PAUSED_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: "starting up",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: "migration",
        libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "migration failed",
    },
    libvirt.VIR_DOMAIN_SHUTOFF: {
        libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
        libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
        libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: "migrated",
        libvirt.VIR_DOMAIN_SHUTOFF_SAVED: "saved",
        libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "failed",
        libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT: "restored from a snapshot",
        libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: "daemon",
    },
    libvirt.VIR_DOMAIN_CRASHED: {libvirt.VIR_DOMAIN_CRASHED_PANICKED: "panicked"},
}
#: As many NUMA nodes as hosts can have.
_MOST_CELLS = 1024
_FORGET_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


#: The version of libvirt that exports folders read-only by virtiofs.
_READONLY_VIRTIOFS = 11_000_000


def capabilities(connection: Any, *, need: DomainNeed) -> Capabilities:
    """Return what the host has of what a domain needs."""
    try:
        text = connection.getDomainCapabilities(None, need.arch, need.machine, need.virt_type)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_INVALID_ARG):
            return Capabilities(reason=error.get_error_message())
        raise
    found = xmls.capabilities(text)
    size = need.hardware.hugepages_kib
    return msgspec.structs.replace(
        found,
        free_pages=_free_pages(connection, size) if size else None,
        readonly_virtiofs=found.virtiofs and connection.getLibVersion() >= _READONLY_VIRTIOFS,
    )


def _free_pages(connection: Any, kib: int) -> int | None:
    """Return how many huge pages of a size are free on all NUMA nodes of the host; None for another size."""
    try:
        cells: dict[int, dict[int, int]] = connection.getFreePages([kib], 0, _MOST_CELLS)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
            return None
        raise
    return sum(sizes.get(kib, 0) for sizes in cells.values())


def foreign(
    connection: Any, *, project: str, domain_names: Sequence[str], network_names: Sequence[str]
) -> list[str]:
    """Return which of these names are taken by objects that are not the project's."""
    own = {domain.name for domain in of_project(connection, project=project)}
    there = {domain.name() for domain in connection.listAllDomains()}
    found = [f"domain {name}" for name in domain_names if name in there - own]
    there = {network.name() for network in connection.listAllNetworks()}
    there -= networks.of_project(connection, project=project)
    return found + [f"network {name}" for name in network_names if name in there]


def of_project(connection: Any, *, project: str) -> list[DomainState]:
    wanted = (
        libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
    )
    # does not wait for a domain in a long job, such as a snapshot
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = []
    for domain, stats in connection.getAllDomainStats(wanted, flags):
        owner = owner_of(domain)
        if owner.project != project:
            continue
        number = stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE)
        state = STATES.get(number, "no state")
        on = state not in OFF
        rss = stats.get("balloon.rss")
        found.append(
            DomainState(
                name=owner.name,
                guest=owner.guest,
                state=state,
                reason=_reason(domain, number, stats.get("state.reason", 0)),
                made=owner.made,
                cpu_seconds=stats.get("cpu.time", 0) / NANOSECONDS if on else None,
                memory_mb=rss // _KIB_PER_MIB if on and rss is not None else None,
                used_mb=_used(stats) if on else None,
            )
        )
    return sorted(found, key=lambda each: each.name)


def _used(stats: Mapping[str, int]) -> int | None:
    """Return the memory that a guest uses, in MiB; None where its balloon driver has not reported yet."""
    used = used_kib(stats)
    return used // _KIB_PER_MIB if used is not None else None


def used_kib(stats: Mapping[str, int]) -> int | None:
    """Return the same in KiB."""
    total = stats.get("balloon.available")
    # an older driver does not report what it could free
    free = stats.get("balloon.usable", stats.get("balloon.unused"))
    return max(0, total - free) if total and free is not None else None


def state_of(connection: Any, *, name: str, project: str) -> DomainEvent | None:
    """Return the state of one domain; None when it is not there, or not the project's."""
    domain = lookup(connection, name)
    if domain is not None:
        with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
            owner = owner_of(domain)
            if owner.project == project:
                state, reason = domain.state()
                return DomainEvent(
                    name=name,
                    guest=owner.guest,
                    state=STATES.get(state, "no state"),
                    reason=_reason(domain, state, reason),
                )
    return None


def observed(connection: Any, *, project: str) -> list[ObservedDomain]:
    """Return the project's domains with what to compare: two calls for each that runs, one for others."""
    version = connection.getLibVersion()
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = []
    for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, flags):
        number = stats.get("state.state", libvirt.VIR_DOMAIN_NOSTATE)
        reason = stats.get("state.reason", 0)
        state = STATES.get(number, "no state")
        with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
            inactive = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            defined = xmls.domain_identity(inactive)
            if defined.project != project:
                continue
            root = xmls.parse(inactive if state in OFF else domain.XMLDesc(), "domain")
            owner = xmls.owner_of_domain(root)
            found.append(
                ObservedDomain(
                    name=owner.name,
                    uuid=root.findtext("uuid") or "",
                    guest=owner.guest,
                    state=state,
                    reason=_reason(domain, number, reason),
                    made=owner.made,
                    defined=defined.made,
                    edited=definition_record.is_edited(inactive, defined.definition, version),
                    nics=tuple(xmls.nics(root)),
                    disks=tuple(xmls.disk_targets(root)),
                    further=tuple(xmls.further_disks(root)),
                    memory_mb=int(root.findtext("currentMemory") or 0) // _KIB_PER_MIB,
                    cpus=xmls.cpus(root),
                    agent=xmls.has_agent(root),
                )
            )
    return sorted(found, key=lambda each: each.name)


def _reason(domain: Any, state: int, reason: int) -> str | None:
    said = _REASONS.get(state, {}).get(reason)
    if (state, reason) != (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR):
        return said
    try:
        failed = domain.diskErrors()
    except libvirt.libvirtError:  # it runs again, or is off
        return said
    full = sorted(disk for disk, code in failed.items() if code == libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE)
    return f"{said}: no space for {', '.join(full)}" if full else said


def owner_of(domain: Any) -> xmls.Ownership:
    """Return whose a domain is: the project is None for one that is not ours, or was just removed."""
    try:
        return xmls.mark_identity(domain.name(), _mark(domain, libvirt.VIR_DOMAIN_AFFECT_CURRENT))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return xmls.Ownership(name=domain.name(), project=None)
        raise


def _mark(domain: Any, affected: int) -> str:
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    return str(domain.metadata(kind, xmls.GUEST_NAMESPACE, affected))


def lookup(connection: Any, name: str) -> Any:
    """Return the domain of that name, or None."""
    try:
        return connection.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def start(connection: Any, *, xml: str, wanted: xmls.Ownership) -> bool:
    """Define and start a domain. Returns False while it is starting already, at another's request."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
    if domain is None or not domain.isActive() or not domain.isPersistent():
        domain = define(connection, xml=xml, wanted=wanted)
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


def define(connection: Any, *, xml: str, wanted: xmls.Ownership) -> Any:
    """Define a domain, running or not, and return it. Records what libvirt makes of the definition."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
        if _has_to_be_another(domain, xml):
            undefine(connection, name=wanted.name)
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


def stamp(domain: Any, *, made: str) -> None:
    """Set ``made`` in the metadata, of the running domain and of its definition."""
    for there, affected in (
        (domain.isActive(), libvirt.VIR_DOMAIN_AFFECT_LIVE),
        (domain.isPersistent(), libvirt.VIR_DOMAIN_AFFECT_CONFIG),
    ):
        if there:
            mark = xmls.marked(_mark(domain, affected), made=made)
            kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            domain.setMetadata(kind, mark, xmls.GUEST_PREFIX, xmls.GUEST_NAMESPACE, affected)


def resume(domain: Any) -> bool:
    """Let a domain run on that is paused, or sleeps; return whether it was paused."""
    state, _ = domain.state()
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID):
            domain.pMWakeup(0)
        return False
    if state != libvirt.VIR_DOMAIN_PAUSED:
        _refuse_off(domain, "resume")
        return False
    try:
        domain.resume()
    except libvirt.libvirtError:
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            raise
    return True


def suspend(domain: Any) -> None:
    """Pause a domain that runs."""
    _refuse_off(domain, "suspend")
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        domain.suspend()


def _refuse_off(domain: Any, verb: str) -> None:
    if not domain.isActive():
        raise DriverError(f"cannot {verb} the domain {domain.name()}: it is off")


def paused(domain: Any) -> str | None:
    """Return why a domain is paused; None for one that is not."""
    state, reason = domain.state()
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return None
    return _reason(domain, state, reason) or "for an unknown reason"


def is_about_to_start(connection: Any, *, name: str) -> bool:
    domain = lookup(connection, name)
    with unless_so_already(libvirt.VIR_ERR_NO_DOMAIN):
        if domain is not None:
            state, reason = domain.state()
            return (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    return False


def is_on(connection: Any, *, name: str, press: bool) -> bool:
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


def destroy(connection: Any, *, name: str) -> None:
    domain = lookup(connection, name)
    if domain is not None and domain.isActive():
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            domain.destroy()


def undefine(connection: Any, *, name: str) -> None:
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


def forget_tpm(connection: Any, *, xml: str, wanted: xmls.Ownership) -> None:
    """Remove the state of the TPM of a domain that is not defined: libvirt does so when it undefines one."""
    domain = lookup(connection, wanted.name)
    if domain is not None:
        xmls.refuse_foreign("domain", wanted, owner_of(domain).project)
        if domain.isActive():
            raise DriverError(f"cannot remove the TPM of the domain {wanted.name}: it is running")
    with unless_so_already(libvirt.VIR_ERR_CONFIG_UNSUPPORTED):  # without swtpm there is no state
        domain = domain or connection.defineXML(xml)
        domain.undefineFlags(_FORGET_ALL | libvirt.VIR_DOMAIN_UNDEFINE_TPM)


def facts(connection: Any) -> HypervisorFacts:
    _, memory_mb, cpus, *_ = connection.getInfo()
    versions = {"libvirt": connection.getLibVersion(), connection.getType(): connection.getVersion()}
    version = ", ".join(f"{name} {_dotted(number)}" for name, number in versions.items())
    return HypervisorFacts(cpus=cpus, memory_mb=memory_mb, version=version)


def _dotted(number: int) -> str:
    """Format a version as libvirt encodes it: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
