"""The networks of projects. Runs in the threads of a libvirt connection."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError, SubnetTakenError
from kvmcompose.providers.libvirt import definition_record
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import network_entries as entries
from kvmcompose.providers.libvirt.connection import failure, unless_so_already
from kvmcompose.providers.libvirt.interface import FoundNetwork

_COMMANDS = {
    entries.EditCommand.DELETE: libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE,
    entries.EditCommand.MODIFY: libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY,
    entries.EditCommand.ADD: libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
}
_SECTIONS = {
    entries.Section.DHCP: libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
    entries.Section.DNS: libvirt.VIR_NETWORK_SECTION_DNS_HOST,
}
_SUBNET_TAKEN = re.compile(r"[Nn]etwork is already in use by interface (\S+)")


def of_project(connection: Any, *, project: str) -> set[str]:
    """Return the names of the project's networks."""
    names = set()
    for network in connection.listAllNetworks():
        with unless_so_already(libvirt.VIR_ERR_NO_NETWORK):
            if xmls.network_identity(network.XMLDesc()).project == project:
                names.add(network.name())
    return names


def found(connection: Any, *, project: str) -> dict[str, FoundNetwork]:
    there = {}
    for network in connection.listAllNetworks():
        with unless_so_already(libvirt.VIR_ERR_NO_NETWORK):
            xml = network.XMLDesc()
            if xmls.network_identity(xml).project == project:
                there[network.name()] = _found(network, xml)
    return there


def _found(network: Any, xml: str) -> FoundNetwork:
    inactive = network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
    recorded = xmls.network_identity(inactive)
    version = network.connect().getLibVersion()
    return FoundNetwork(
        name=network.name(),
        active=bool(network.isActive()),
        digest=recorded.digest,
        xml=xml,
        edited=definition_record.is_edited(inactive, recorded.definition, version),
    )


def _define(connection: Any, xml: str) -> Any:
    """Define a network and return it. Records what libvirt makes of the definition."""
    network = connection.networkDefineXML(xml)
    inactive = network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)
    digest = definition_record.digest(inactive, connection.getLibVersion())
    return connection.networkDefineXML(xmls.with_definition(inactive, digest))


def _recorded(network: Any) -> xmls.Ownership:
    """Return what the metadata says: that of the definition, as the active network's cannot be changed."""
    return xmls.network_identity(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))


def start(connection: Any, *, xml: str, wanted: xmls.Ownership, digest: str) -> None:
    """Define and start it. Raises DriverError when it is active with other XML, or not the project's."""
    network = _lookup(connection, wanted.name)
    if network is not None:
        known = _recorded(network)
        xmls.refuse_foreign("network", wanted, known.project)
        active = bool(network.isActive())
        if active and known.digest != digest:
            raise DriverError(
                f"the network {wanted.name} is active with another definition than its XML now has",
                hint="kvm-compose down, then up",
            )
        if active and network.isPersistent():
            return
        xml = xmls.with_uuid(xml, network.UUIDString())
    network = _define(connection, xml)
    if network.isActive():
        return
    try:
        network.create()
    except libvirt.libvirtError as error:
        if network.isActive():
            return
        raise _failure(xml, wanted, error) from None


def update(connection: Any, *, xml: str, marked: str, wanted: xmls.Ownership, names: Collection[str]) -> bool:
    """Give a live network the entries of its XML, then define it as the XML says.

    ``marked`` is the XML with its digest. Interrupted, the digest still is that of before. DNS entries of one
    of ``names`` alone stay.
    """
    network = _lookup(connection, wanted.name)
    if network is None:
        raise DriverError(f"there is no network {wanted.name}", hint="kvm-compose up creates the networks")
    xmls.refuse_foreign("network", wanted, _recorded(network).project)
    if network.isActive():
        there = _found(network, network.XMLDesc())
        differs = entries.difference(xml, there, tuple(names))
        if differs is not None and differs.other:
            return False
        _carry_out(network, entries.edits(xml, there.xml, names) or ())
    _define(connection, xmls.with_uuid(marked, network.UUIDString()))
    return True


def put_names(connection: Any, *, name: str, names: Mapping[str, str | None]) -> None:
    """Give names an address in the DNS server of a network that is active, or take them away."""
    network = _lookup(connection, name)
    if network is None or not network.isActive():
        return
    there = network.XMLDesc()
    edits = entries.name_edits(there, names)
    if edits is None:
        known = entries.addresses(there)
        taken = [f"{each} {ip}" for each, ip in known.items() if each in names or ip in names.values()]
        raise DriverError(
            f"cannot change names in the network {name}: in the way are {', '.join(taken)}",
            hint=f"virsh net-dumpxml {name} shows them",
        )
    _carry_out(network, edits)


def _carry_out(network: Any, edits: Sequence[entries.Edit]) -> None:
    for edit in edits:
        network.update(
            _COMMANDS[edit.command],
            _SECTIONS[edit.section],
            edit.ip,
            edit.xml,
            libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE,
        )


def remains_of_inactive(connection: Any, *, name: str, xml: str | None) -> xmls.NetworkRemains | None:
    """Return what may be left on the host of a project's network that is not active."""
    network = _lookup(connection, name)
    if network is not None:
        if network.isActive():
            return None
        xml = network.XMLDesc()
    if xml is None:
        return None
    return xmls.network_remains(xml) if xmls.network_identity(xml).project else None


def leases(connection: Any, *, name: str) -> dict[str, str]:
    """Return addresses by MAC address; empty when there is no such network."""
    network = _lookup(connection, name)
    if network is None:
        return {}
    # the newest last, so that it prevails
    found = sorted(network.DHCPLeases(), key=lambda lease: lease["expirytime"])
    return {lease["mac"].lower(): lease["ipaddr"] for lease in found if lease.get("mac")}


def stop(connection: Any, *, name: str) -> None:
    network = _lookup(connection, name)
    if network is not None and network.isActive():
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_NETWORK):
            network.destroy()


def undefine(connection: Any, *, name: str) -> None:
    network = _lookup(connection, name)
    if network is not None:
        with unless_so_already(libvirt.VIR_ERR_NO_NETWORK):
            network.undefine()


def _lookup(connection: Any, name: str) -> Any:
    try:
        return connection.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise


def _failure(xml: str, wanted: xmls.Ownership, error: libvirt.libvirtError) -> DriverError:
    doing = f"start the network {wanted.name}"
    taken = _SUBNET_TAKEN.search(error.get_error_message() or "")
    if taken is None:
        return failure(doing, error)
    return SubnetTakenError(
        f"cannot {doing}: its subnet ({xmls.network_address(xml)}) is in use by the interface {taken[1]}",
        hint=f"inspect it: ip address show dev {taken[1]}; remove its address",
    )
