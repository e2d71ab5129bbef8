"""What a host has, and the names that are taken there. Runs in the threads of a libvirt connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libvirt
import msgspec

from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import domain_states, networks
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed, HypervisorFacts

#: As many NUMA nodes as hosts can have.
_MOST_CELLS = 1024
#: The version of libvirt that exports folders read-only by virtiofs.
_READONLY_VIRTIOFS = 11_000_000


def facts(connection: Any) -> HypervisorFacts:
    """Return processors, memory and versions of the host."""
    _, memory_mb, cpus, *_ = connection.getInfo()
    versions = {"libvirt": connection.getLibVersion(), connection.getType(): connection.getVersion()}
    version = ", ".join(f"{name} {_dotted(number)}" for name, number in versions.items())
    return HypervisorFacts(cpus=cpus, memory_mb=memory_mb, version=version)


def _dotted(number: int) -> str:
    """Format a version as libvirt encodes it: major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


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
    own = {domain.name for domain in domain_states.of_project(connection, project=project)}
    there = {domain.name() for domain in connection.listAllDomains()}
    found = [f"domain {name}" for name in domain_names if name in there - own]
    there = {network.name() for network in connection.listAllNetworks()}
    there -= networks.of_project(connection, project=project)
    return found + [f"network {name}" for name in network_names if name in there]
