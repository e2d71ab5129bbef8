"""The addresses of a network of OVN: the owner of each, and the problems of single ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.core.ip import ip_address, ip_network
from kvmcompose.networks._addresses import check_mac
from kvmcompose.networks._ovn_model import IPV6, Address, OvnNetwork, Path, Subnet

_SMALLEST = {4: 30, IPV6: 126}
_LARGEST = {4: 8, IPV6: 16}


def parse_address(text: str) -> Address | None:
    """Return an address, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def not_an_address(text: str, path: Path, wanted: str, hint: str | None = None) -> Complaint:
    """Return the problem of a text for which ``parse_address`` returns None."""
    return Complaint(
        code="bad-address", path=path, message="not an address", found=repr(text), wanted=wanted, hint=hint
    )


def check_subnet(text: str, path: Path) -> Iterator[Complaint]:
    """Yield the problem of a subnet."""
    wanted = "a subnet of one site, such as 10.0.0.0/24 or fd00:1::/64"
    try:
        subnet = ip_network(text)
    except ValueError as error:
        hint = None
        try:
            loose = ip_network(text, strict=False)
            hint = f"the subnet that contains it is {loose}"
        except ValueError:
            pass
        yield Complaint(
            code="bad-address",
            path=path,
            message=f"not a subnet: {error}",
            found=repr(text),
            wanted=wanted,
            hint=hint,
        )
        return
    sized = _LARGEST[subnet.version] <= subnet.prefixlen <= _SMALLEST[subnet.version]
    if not (sized and is_usable(subnet[0]) and is_usable(subnet[-1])):
        limits = f"/{_LARGEST[subnet.version]} to /{_SMALLEST[subnet.version]}"
        yield Complaint(
            code="bad-address",
            path=path,
            message=f"{subnet} cannot be a subnet of guests",
            wanted=f"{wanted}, {limits}",
        )


def is_usable(address: Address) -> bool:
    """Return whether one machine can have an address."""
    if isinstance(address, ipaddress.IPv4Address) and address in ipaddress.IPv4Network("0.0.0.0/8"):
        return False
    return not (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or (address.is_reserved and address.version != IPV6)
    )


class Owners:
    """Which machine, router or port has which address on which switch, and which MAC address."""

    def __init__(self, network: OvnNetwork) -> None:
        self.subnets = {name: _valid(switch.subnets) for name, switch in network.switches.items()}
        #: The switches with a provider network, where other machines may have any address.
        self.outside = {
            name
            for name, switch in network.switches.items()
            if any(port.localnet is not None for port in switch.ports)
        }
        self._addresses: dict[tuple[str, Address], str] = {}
        self._macs: dict[str, str] = {}

    def address(self, switch: str, text: str, owner: str, path: Path) -> Iterator[Complaint]:
        """Note an address on a switch; yield its problem."""
        address = parse_address(text)
        if address is None:
            hint = "the subnet has the prefix length: leave it out" if "/" in text else None
            yield not_an_address(text, path, self._wanted(switch), hint)
            return
        problem = next(self._place(switch, address, path), None)
        other = self._addresses.setdefault((switch, address), owner)
        if problem is not None:
            yield problem
        elif other != owner:
            yield Complaint(
                code="duplicate-address",
                path=path,
                message=f"{other} already has the address {address} on the switch {switch!r}",
            )

    def of_hosts(self, switch: str, texts: Iterable[str]) -> None:
        """Note the addresses that hosts have on the bridge of a provider network."""
        for address in map(parse_address, texts):
            if address is not None:
                self._addresses.setdefault((switch, address), "the bridge of the host")

    def _place(self, switch: str, address: Address, path: Path) -> Iterator[Complaint]:
        subnet = self.subnets[switch].get(address.version)
        if subnet is None or address not in subnet:
            yield Complaint(
                code="address-outside-subnet",
                path=path,
                message=f"{address} is not in the subnet of the switch {switch!r}",
                wanted=self._wanted(switch),
            )
            return
        special = {subnet.network_address: "the address of the subnet itself"}
        if address.version != IPV6:
            special[subnet.broadcast_address] = "the subnet's broadcast address"
        if address in special:
            yield Complaint(
                code="reserved-address",
                path=path,
                message=f"{address} is {special[address]} ({subnet})",
                hint="use another address of that subnet",
            )

    def _wanted(self, switch: str) -> str:
        return "an address in " + " or ".join(str(each) for each in self.subnets[switch].values())

    def mac(self, mac: str, owner: str, path: Path) -> Iterator[Complaint]:
        """Note a MAC address; yield its problem. They are unique in the whole network."""
        other = self._macs.setdefault(mac, owner)
        yield from check_mac(mac, path, other if other != owner else None)


def _valid(texts: tuple[str, ...]) -> dict[int, Subnet]:
    found: dict[int, Subnet] = {}
    for text in texts:
        try:
            subnet = ip_network(text)
        except ValueError:
            continue
        found.setdefault(subnet.version, subnet)
    return found
