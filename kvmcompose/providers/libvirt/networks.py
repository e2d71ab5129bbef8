"""The networks of projects on one host."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import libvirt

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, SubnetTakenError
from kvmcompose.providers.libvirt import definition_record, stale_network
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import network_definitions as network_xmls
from kvmcompose.providers.libvirt import network_entries as entries
from kvmcompose.providers.libvirt.connection import Connection, failure, unless_so_already
from kvmcompose.providers.libvirt.interface.networks import FoundNetwork
from kvmcompose.providers.libvirt.neighbours import answers
from kvmcompose.providers.libvirt.state_files import remove_state_files

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


class LibvirtNetworks:
    """The networks of one host. ``runner`` runs what libvirt has no call for."""

    def __init__(self, connection: Connection, runner: CommandRunner) -> None:
        self._connection = connection
        self._runner = runner

    async def observe(self, project: str) -> Mapping[str, FoundNetwork]:
        return await self._connection.call("inspect networks", _observed, project=project)

    async def start(self, xml: str) -> None:
        marked, digest = network_xmls.with_digest(xml)
        wanted = xmls.network_identity(marked)
        doing = f"start the network {wanted.name}"
        start = functools.partial(_start, xml=marked, wanted=wanted, digest=digest)
        try:
            await self._connection.call(doing, start)
        except DriverError:
            if not await self._clear_stale(wanted.name, marked):
                raise
            await self._connection.call(doing, start)

    async def update(self, xml: str, names: Collection[str] = ()) -> bool:
        """Each entry is a call: 1 ms for DNS, some 0.3 s for DHCP, as libvirt reloads its firewall rules."""
        marked, _ = network_xmls.with_digest(xml)
        wanted = xmls.network_identity(marked)
        doing = f"update the network {wanted.name}"
        update = functools.partial(_update, xml=xml, marked=marked, wanted=wanted, names=names)
        return await self._connection.call(doing, update)

    async def put_names(self, network: str, names: Mapping[str, str | None]) -> None:
        doing = f"change names in the network {network}"
        await self._connection.call(doing, _put_names, name=network, names=names)

    async def remove(self, name: str) -> None:
        doing = f"remove the network {name}"
        await self._connection.call(doing, _stop, name=name)
        await self._clear_stale(name)
        await self._connection.call(doing, _undefine, name=name)
        # its DHCP server wrote this file as root and ended as nobody; libvirt (9.0) leaves it
        await remove_state_files(self._runner, f"network/{name}.pid")

    async def _clear_stale(self, name: str, xml: str | None = None) -> bool:
        """Remove what is left of a network that is not active; return whether there was anything.

        ``xml`` defines a network that libvirt does not know.
        """
        doing = f"inspect the network {name}"
        found = await self._connection.call(doing, _remains_of_inactive, name=name, xml=xml)
        return found is not None and await stale_network.clear(self._runner, found)

    async def leases(self, network: str) -> Mapping[str, str]:
        """Return the addresses that the network's DHCP server assigned, by MAC address in lower case.

        Empty when there is no such network.
        """
        doing = f"list the leases of the network {network}"
        return await self._connection.call(doing, _leases, name=network)

    async def answers(self, mac: str, address: str) -> bool:
        return await answers(self._runner, mac, address)


# the functions below run in the threads of the connection


def of_project(connection: Any, *, project: str) -> set[str]:
    """Return the names of the project's networks."""
    names = set()
    for network in connection.listAllNetworks():
        with unless_so_already(libvirt.VIR_ERR_NO_NETWORK):
            if xmls.network_identity(network.XMLDesc()).project == project:
                names.add(network.name())
    return names


def _observed(connection: Any, *, project: str) -> dict[str, FoundNetwork]:
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
    return connection.networkDefineXML(network_xmls.with_definition(inactive, digest))


def _recorded(network: Any) -> xmls.Ownership:
    """Return what the metadata says: that of the definition, as the active network's cannot be changed."""
    return xmls.network_identity(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))


def _start(connection: Any, *, xml: str, wanted: xmls.Ownership, digest: str) -> None:
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


def _update(
    connection: Any, *, xml: str, marked: str, wanted: xmls.Ownership, names: Collection[str]
) -> bool:
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


def _put_names(connection: Any, *, name: str, names: Mapping[str, str | None]) -> None:
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


def _remains_of_inactive(
    connection: Any, *, name: str, xml: str | None
) -> network_xmls.NetworkRemains | None:
    """Return what may be left on the host of a project's network that is not active."""
    network = _lookup(connection, name)
    if network is not None:
        if network.isActive():
            return None
        xml = network.XMLDesc()
    if xml is None:
        return None
    return network_xmls.network_remains(xml) if xmls.network_identity(xml).project else None


def _leases(connection: Any, *, name: str) -> dict[str, str]:
    """Return addresses by MAC address; empty when there is no such network."""
    network = _lookup(connection, name)
    if network is None:
        return {}
    # the newest last, so that it prevails
    found = sorted(network.DHCPLeases(), key=lambda lease: lease["expirytime"])
    return {lease["mac"].lower(): lease["ipaddr"] for lease in found if lease.get("mac")}


def _stop(connection: Any, *, name: str) -> None:
    network = _lookup(connection, name)
    if network is not None and network.isActive():
        with unless_so_already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_NETWORK):
            network.destroy()


def _undefine(connection: Any, *, name: str) -> None:
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
    subnet = network_xmls.network_address(xml)
    return SubnetTakenError(
        f"cannot {doing}: its subnet ({subnet}) is in use by the interface {taken[1]}",
        hint=f"inspect it: ip address show dev {taken[1]}; remove its address",
    )
