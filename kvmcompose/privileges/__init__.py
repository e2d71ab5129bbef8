"""What a testbed reaches on its hosts, from its state, the XML for libvirt and requests for containers. Pure.

An allow list: what is not known to be harmless is listed, and requires the consent of the user or an
administrator.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from kvmcompose.core.deployable import ContainerGuest, DomainGuest, LibvirtNetwork, NetworkPlan
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.libvirt_uri import parse_libvirt_uri
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.state import GuestState, State
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.privileges import _container, _domain, _network
from kvmcompose.privileges._container import REQUEST_LIMIT, Bind, parse_request, replaceable
from kvmcompose.privileges._grammar import Xml, privileges_in
from kvmcompose.render.domain import console_log
from kvmcompose.render.platform import domain_uuid

__all__ = [
    "REQUEST_LIMIT",
    "Bind",
    "Xml",
    "binds_of",
    "disks_of",
    "has_subnet",
    "of_container",
    "of_disks",
    "of_domain",
    "of_network",
    "of_state",
    "owned_by",
    "parse_request",
    "replaceable",
    "shares_of",
]


def of_state(state: State, *, for_member: bool = False) -> Iterator[Privilege]:
    """Yield what the state requests: of hosts, of the network by its dialect, of guests by their kinds.

    ``for_member`` is explained at ``Dialect.privileges``.
    """
    for host in state.testbed_hosts.values():
        if not parse_libvirt_uri(host.libvirt_uri).is_usual:
            yield Privilege(PrivilegeKind.LIBVIRT, host.libvirt_uri, f"host {host.name}")
        if host.container_engine is not None and host.container_engine.startswith("/"):
            yield Privilege(PrivilegeKind.ENGINE, host.container_engine, f"host {host.name}")
    yield from dialect(state.network["dialect"]).privileges(state, for_member=for_member)
    for guest in state.testbed_guests.values():
        yield from guest_kind(guest.kind).privileges(guest, state.shared)


def of_container(
    data: bytes, run: ContainerGuest, state: State, *, for_member: bool = False
) -> Iterator[Privilege]:
    """Yield what the request for a container asks of its host, beyond what a container has anyway.

    ``data`` is the artefact, at most ``REQUEST_LIMIT`` + 1 bytes of it. A container of a member may not write
    to files of the host: what its root leaves there could give its owner the rights of root. Where mounts
    lead by links is not followed here: see ``binds_of``.
    """
    try:
        request = parse_request(data, run.request)
    except KvmComposeError:
        yield Privilege(PrivilegeKind.SETTING, "all of it, as it is no JSON object", run.request)
        return
    folder = state.testbed_host_shared_config.project_folder
    yield from _container.privileges_in(request, run.request, folder, for_member=for_member)


def binds_of(data: bytes, run: ContainerGuest, state: State) -> tuple[Bind, ...]:
    """Return the files and folders of the project that are mounted in a container.

    ``of_container`` lists others. The engine follows links in these paths as root.
    """
    try:
        request = parse_request(data, run.request)
    except KvmComposeError:
        return ()
    return tuple(_container.binds(request, state.testbed_host_shared_config.project_folder))


def of_domain(
    xml: Xml, guest: GuestState, run: DomainGuest, state: State, network_plan: NetworkPlan
) -> Iterator[Privilege]:
    """Yield what a guest's domain XML requests."""
    owned = owned_by(guest, run, state, network_plan)
    yield from privileges_in(xml, _domain.GRAMMAR, _domain.checks(owned), run.domain_xml)
    yield from _domain.raw_disks(xml, owned, run.domain_xml)
    yield from _domain.host_devices(xml, run.domain_xml)


def owned_by(guest: GuestState, run: DomainGuest, state: State, network_plan: NetworkPlan) -> _domain.Owned:
    """Return what the domain XML of a guest may refer to: what that requests depends on this and the XML."""
    folder = state.testbed_host_shared_config.project_folder
    return _domain.Owned(
        project=state.project_name,
        guest=guest.identity,
        name=guest.domain,
        artefacts=f"{folder}/artefacts/",
        logs=frozenset({f"{folder}/{console_log(guest.identity)}"}),
        # only the port's name leads from OVN's bridge into a network
        bridges=frozenset(
            (
                *(bridge.name for bridge in network_plan.bridges),
                *(nic.source for nic in guest.interfaces if nic.interface_id is not None),
            )
        ),
        networks=frozenset({network_plan.network.name} if network_plan.network is not None else ()),
        taps=frozenset(nic.target for nic in guest.interfaces),
        ports=frozenset(nic.interface_id for nic in guest.interfaces if nic.interface_id is not None),
        nvram=f"{folder}/{run.nvram}" if run.nvram is not None else None,
        uuid=domain_uuid(state.project_name, guest.identity),
        # those with artefacts in them need the user's word: the host opens XML and disks
        shares=frozenset(f"{folder}/{each.path}" for each in shares_of(run) if not each.is_ours),
        shared_disks=frozenset(f"{folder}/{path}" for path in run.shared_disks),
    )


def shares_of(run: DomainGuest) -> tuple[Bind, ...]:
    """Return the folders of the project that a domain sees. The host follows links in these paths as root."""
    paths = ((posixpath.normpath(each.source), not each.read_only) for each in run.mounts)
    return tuple(
        Bind(path, writable=writable)
        for path, writable in paths
        if not path.startswith("/") and path.partition("/")[0] != ".."
    )


def of_network(xml: Xml, state: State, network: LibvirtNetwork) -> Iterator[Privilege]:
    """Yield what the network's XML requests."""
    checks = _network.checks(state.project_name, network)
    yield from privileges_in(xml, _network.GRAMMAR, checks, network.xml)
    for path in _network.missing_parts(xml):
        yield Privilege(PrivilegeKind.XML, f"no <network/{path}>", network.xml)


def of_disks(xml: Xml, run: DomainGuest, state: State) -> Iterator[Privilege]:
    """Yield disks that are not the guest's own, or that QEMU would read in another format than theirs.

    A guest can write the header of an image to a raw disk, and the header can name any file of the host. So
    no file may be raw for one guest, or at one time, and an image for another.
    """
    folder = state.testbed_host_shared_config.project_folder
    own = {f"{folder}/{path}": "qcow2" if path in run.image_disks else "raw" for path in run.files}
    for path, taken_for in _domain.disks(xml):
        if own.get(path) != taken_for:
            wanted = f", not {own[path]}" if path in own else ", which is no file of this guest's"
            yield Privilege(PrivilegeKind.FILE, f"{path} as {taken_for}{wanted}", run.domain_xml)


def has_subnet(xml: Xml, network: LibvirtNetwork) -> bool:
    """Return whether the network's XML has the subnet of the state, whatever else it has."""
    return _network.has_subnet(xml, network)


def disks_of(xml: Xml, state: State) -> Iterator[str]:
    """Yield the artefacts that are a domain's disks, relative to the project. ``of_disks`` lists others."""
    folder = f"{state.testbed_host_shared_config.project_folder}/"
    for path in _domain.sources(xml):
        if path.startswith(f"{folder}artefacts/") and ".." not in path.split("/"):
            yield path.removeprefix(folder)
