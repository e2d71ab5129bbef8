"""Check the interfaces of guests on logical switches."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from kvmcompose.core.errors import Complaint, Severity
from kvmcompose.core.model import Attachment, Machine, ScaledAttachment
from kvmcompose.networks._ovn_model import (
    DYNAMIC,
    Address,
    OvnNetwork,
    Path,
    Range,
    ScaledSwitchNic,
    SwitchNic,
)
from kvmcompose.networks._ovn_names import check_switch
from kvmcompose.networks._ovn_owners import Owners, parse_address
from kvmcompose.networks._ovn_parse import mac_number


def interfaces(machine: Machine) -> Iterator[tuple[Path, str, Attachment]]:
    """Yield every interface of a machine's guests, with its path and the guest's name."""
    at: Path = ("machines", machine.index)
    for attachment in machine.attachments:
        yield (*at, *attachment.own.at), machine.name, attachment
    for scaled in machine.scaled:
        for number, attachment in zip(scaled.clones, scaled.each, strict=True):
            yield (*at, machine.kind, *attachment.own.at), f"{machine.name}-{number}", attachment


def known_addresses(network: OvnNetwork, machines: Sequence[Machine]) -> set[tuple[str, Address]]:
    """Return all addresses that the YAML gives to something, each with its switch."""
    found: set[tuple[str, str]] = set()
    for router in network.routers.values():
        found |= {(port.switch, text) for port in router.ports for text in port.gateway_ip}
    for name, switch in network.switches.items():
        for port in switch.ports:
            if port.internal is not None:
                found |= {(name, text) for text in port.internal.ip}
    for machine in machines:
        for _, _, attachment in interfaces(machine):
            found |= {(attachment.segment, text) for text in attachment.own.ips if text != DYNAMIC}
    return {
        (switch, address)
        for switch, text in found
        if (address := parse_address(text.partition("/")[0])) is not None
    }


def check_guests(
    network: OvnNetwork, machines: Sequence[Machine], owners: Owners, known: set[tuple[str, Address]]
) -> Iterator[Complaint]:
    """Yield the problems of the interfaces of all machines."""
    served = {dhcp.switch for router in network.routers.values() for dhcp in router.dhcp}
    for machine in machines:
        if not (machine.attachments or machine.scaled):
            yield Complaint(
                code="no-interface",
                path=("machines", machine.index),
                message=f"{machine.name!r} has no interface: nothing could reach it",
                hint="add `network: [{switch: …}]`",
            )
        for scaled in machine.scaled:
            yield from _ranges(machine, scaled)
        seen: set[Path] = set()
        for path, guest, attachment in interfaces(machine):
            if attachment.segment not in network.switches:
                if path not in seen:
                    at_key = bool(machine.scaled)
                    at = path if at_key else (*path, "switch")
                    yield from check_switch(attachment.segment, network.switches, at, at_key=at_key)
                seen.add(path)
                continue
            is_first = path not in seen
            seen.add(path)
            yield from _interface(owners, attachment, guest, path)
            if is_first:  # of clones: the same for all of them
                yield from _common(network, owners, attachment, path, served, known)


def _keys(path: Path) -> tuple[Path, Path]:
    """Return where an interface has its address and its MAC address."""
    if "scaling" in path:
        return (*path, "ip_type"), (*path, "mac_range")
    return (*path, "ip"), (*path, "mac")


def _interface(owners: Owners, attachment: Attachment, guest: str, path: Path) -> Iterator[Complaint]:
    nic: SwitchNic = attachment.own
    at_ip, at_mac = _keys(path)
    owner = f"the guest {guest!r}, interface {nic.at[-1]}" if isinstance(nic.at[-1], int) else repr(guest)
    if attachment.mac is not None:
        yield from owners.mac(attachment.mac, owner, at_mac)
    for text in nic.ips:
        if text != DYNAMIC:
            yield from owners.address(attachment.segment, text, owner, at_ip)
    if DYNAMIC in nic.ips and len(nic.ips) > 1:
        yield Complaint(
            code="bad-address",
            path=at_ip,
            message="'dynamic' is for all addresses of an interface",
            wanted="dynamic, or addresses",
        )
    elif len({":" in text for text in nic.ips}) < len(nic.ips):
        yield Complaint(
            code="bad-address",
            path=at_ip,
            message="an interface has one address of each family",
            wanted="an IPv4 address, an IPv6 address, or both",
        )


def _common(
    network: OvnNetwork,
    owners: Owners,
    attachment: Attachment,
    path: Path,
    served: set[str],
    known: set[tuple[str, Address]],
) -> Iterator[Complaint]:
    nic: SwitchNic = attachment.own
    switch = network.switches[attachment.segment]
    if DYNAMIC in nic.ips and switch.name not in served:
        yield Complaint(
            code="no-dhcp",
            path=_keys(path)[0],
            message=f"there is no DHCP on the switch {switch.name!r}: only a guest with cloud-init "
            "gets an address, from its seed",
            wanted="an address, or DHCP",
            hint=f"add `dhcp: [{{switch: {switch.name}}}]` to a router with a port on the switch",
            severity=Severity.WARNING,
        )
    localnets = [port.localnet for port in switch.ports if port.localnet is not None]
    if nic.network_name is not None and nic.network_name not in localnets:
        yield Complaint(
            code="unknown-network",
            path=(*path, "network_name"),
            message=f"the switch {switch.name!r} has no provider network {nic.network_name!r}",
            wanted=f"one of: {', '.join(localnets)}" if localnets else "no network_name",
        )
    for text in nic.gateways:
        address = parse_address(text)
        near = address is not None and address in owners.subnets[switch.name].get(address.version, ())
        if address is None or not near:
            yield Complaint(
                code="bad-address" if address is None else "address-outside-subnet",
                path=(*path, "gateway"),
                message=f"{text!r} is not an address on the switch {switch.name!r}",
                wanted="the address of a router on the switch",
            )
        elif (switch.name, address) not in known and switch.name not in owners.outside:
            yield Complaint(
                code="unknown-next-hop",
                path=(*path, "gateway"),
                message=f"nothing on the switch {switch.name!r} has the address {address}",
                wanted="the address of a router's port on the switch, or of a guest",
            )


def _ranges(machine: Machine, scaled: ScaledAttachment) -> Iterator[Complaint]:
    own: ScaledSwitchNic = scaled.attachment.own
    at: Path = ("machines", machine.index, machine.kind, "scaling", "interfaces", scaled.key)
    count = len(scaled.clones)
    if own.macs is not None:
        size = mac_number(own.macs.last) - mac_number(own.macs.first) + 1
        yield from _size(own.macs, size, count, (*at, "mac_range"))
    for index, span in enumerate(own.ips):
        path: Path = (*at, "ip_type", "ip_range", *((index,) if len(own.ips) > 1 else ()))
        first, last = parse_address(span.first), parse_address(span.last)
        if first is None or last is None or first.version != last.version:
            yield Complaint(
                code="bad-address",
                path=path,
                message="not a range of addresses",
                found=f"{span.first!r} to {span.last!r}",
                wanted="addresses of one family",
            )
            continue
        yield from _size(span, int(last) - int(first) + 1, count, path)


def _size(span: Range, size: int, count: int, path: Path) -> Iterator[Complaint]:
    if size < 1:
        yield Complaint(
            code="bad-range",
            path=path,
            message=f"the range ends at {span.last} before it begins at {span.first}",
            wanted="'from' not above 'to'",
        )
    elif size != count:
        end = _end(span.first, count)
        yield Complaint(
            code="bad-range",
            path=path,
            message=f"the range has {size} addresses, but there are {count} clones",
            wanted="one address for each number in 'clones'",
            hint=f"a range from {span.first} for them ends at {end}" if end else None,
        )


def _end(first: str, count: int) -> str | None:
    try:
        return str(ipaddress.ip_address(first) + (count - 1))
    except ValueError:
        number = mac_number(first) + count - 1 if ":" in first else 0
        return number.to_bytes(6, "big").hex(":") if 0 < number < 2**48 else None
    except ipaddress.AddressValueError:
        return None
