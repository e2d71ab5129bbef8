"""The host, and the domains of projects on it. Runs in the threads of a libvirt connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import networks
from kvmcompose.providers.libvirt.connection import unless_so_already
from kvmcompose.providers.libvirt.interface import DomainState, HypervisorFacts

_KIB_PER_MIB = 1024
_NANOSECONDS = 1e9
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


def foreign(
    connection: Any, *, project: str, domain_names: Sequence[str], network_names: Sequence[str]
) -> list[str]:
    """Return which of these names are taken by objects that are not the project's."""
    own = {domain.name for domain in of_project(connection, project=project)}
    there = {domain.name() for domain in connection.listAllDomains()}
    found = [f"domain {name}" for name in domain_names if name in there - own]
    there = {network.name() for network in connection.listAllNetworks()}
    there -= networks.of_project(connection, project=project).keys()
    return found + [f"network {name}" for name in network_names if name in there]


def of_project(connection: Any, *, project: str) -> list[DomainState]:
    wanted = (
        libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BALLOON
    )
    # does not wait for a domain in a long job, such as a snapshot
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
    """Return project and guest of a domain; None for one that is not ours, or was just removed."""
    try:
        element = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xmls.GUEST_NAMESPACE)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN):
            return None, ""
        raise
    return xmls.mark_identity(element)


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
        xmls.refuse_foreign("domain", wanted, _mark(domain)[0])
        xml = xmls.with_uuid(xml, domain.UUIDString())
    if domain is None or not domain.isActive() or not domain.isPersistent():
        domain = connection.defineXML(xml)
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
    return True


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
        domain.undefineFlags(_FORGET_ALL)


def facts(connection: Any) -> HypervisorFacts:
    _, memory_mb, cpus, *_ = connection.getInfo()
    versions = {"libvirt": connection.getLibVersion(), connection.getType(): connection.getVersion()}
    version = ", ".join(f"{name} {_dotted(number)}" for name, number in versions.items())
    return HypervisorFacts(cpus=cpus, memory_mb=memory_mb, version=version)


def _dotted(number: int) -> str:
    """Format a version as libvirt encodes it: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
