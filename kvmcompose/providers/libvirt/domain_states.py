"""Domains of projects as libvirt has them. Runs in the threads of a libvirt connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt

from kvmcompose.providers.libvirt import definition_record
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import lookup, unless_so_already
from kvmcompose.providers.libvirt.interface.domains import DomainEvent, DomainState, ObservedDomain

_KIB_PER_MIB = 1024
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


def owner_of(domain: Any) -> xmls.Ownership:
    """Return whose a domain is: the project is None for one that is not ours, or was just removed."""
    try:
        return xmls.mark_identity(domain.name(), mark_of(domain, libvirt.VIR_DOMAIN_AFFECT_CURRENT))
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return xmls.Ownership(name=domain.name(), project=None)
        raise


def mark_of(domain: Any, affected: int) -> str:
    """Return the metadata that say whose a domain is. Raises libvirtError."""
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    return str(domain.metadata(kind, xmls.GUEST_NAMESPACE, affected))
