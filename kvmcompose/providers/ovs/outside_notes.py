"""What the bridge of a provider network notes about the projects that use it, and which of them can share it.

The notes are ``external_ids`` of the bridge. One bridge serves several projects, as one uplink serves
several computers: each project has a note, and the last one to leave takes the bridge away, if
kvm-compose has made it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from kvmcompose.core.chassis import USUAL_MAPPINGS
from kvmcompose.core.ovn_hosts import Outside
from kvmcompose.hosts.errors import DriverError

#: The beginning of the keys of projects' notes: network, address, and ``guests`` if it has guests there.
USER_KEY = "kvm-compose-outside-user-"
#: The key of a bridge that existed before.
KEPT_KEY = "kvm-compose-kept"
#: The key that lists the networks whose mapping kvm-compose has set.
MAPPED_KEY = "kvm-compose-outside-mapped"
#: The keys of bridges that 0.1 has noted, of one project each: the project, the network. ``KEPT_KEY`` had
#: the address.
OLD_PROJECT_KEY, OLD_NETWORK_KEY = "kvm-compose-outside", "kvm-compose-network"
_GUESTS = "guests"


class OutsideUser(msgspec.Struct, frozen=True):
    """What a project wants of the bridge. The address is empty where 0.1 has noted none."""

    network: str
    address: str
    has_guests: bool = False

    @classmethod
    def of(cls, wanted: Outside) -> OutsideUser:
        return cls(wanted.network, wanted.address, wanted.has_guests)

    def text(self) -> str:
        """Return the note."""
        return " ".join((self.network, self.address, *([_GUESTS] if self.has_guests else ())))


class OutsideBridge(msgspec.Struct, frozen=True):
    """A bridge with its notes: ``users`` by project. ``kept`` is one that kvm-compose has not made.

    ``mapped`` are the networks whose mapping kvm-compose has set. ``old`` is the project that 0.1 has noted.
    """

    users: Mapping[str, OutsideUser] = {}
    kept: bool = False
    mapped: frozenset[str] = frozenset()
    old: str = ""


def read_notes(ids: Mapping[str, str]) -> OutsideBridge:
    """Return what the ``external_ids`` of a bridge say."""
    users = {}
    mapped = {*ids.get(MAPPED_KEY, "").split()}
    if OLD_PROJECT_KEY in ids:
        network = ids.get(OLD_NETWORK_KEY, "")
        users[ids[OLD_PROJECT_KEY]] = OutsideUser(network, ids.get(KEPT_KEY, ""))
        mapped.add(network)
    for key, text in ids.items():
        if key.startswith(USER_KEY):
            network, _, rest = text.partition(" ")
            address, _, guests = rest.partition(" ")
            users[key.removeprefix(USER_KEY)] = OutsideUser(network, address, guests == _GUESTS)
    kept = not users or KEPT_KEY in ids
    return OutsideBridge(users, kept, frozenset(mapped), ids.get(OLD_PROJECT_KEY, ""))


def check_outside(
    project: str,
    wanted: Outside,
    bridges: Mapping[str, OutsideBridge],
    mappings: Mapping[str, str],
    subnets: Iterable[tuple[str, str]],
) -> None:
    """Raise DriverError for what is in the way of a project's use of a bridge.

    ``bridges`` are those of the host, ``mappings`` the bridges of its provider networks, ``subnets`` the
    names of its interfaces with their addresses.
    """
    mapped = mappings.get(wanted.network, wanted.bridge)
    if mapped != wanted.bridge and not _leaves(project, wanted.network, bridges.get(mapped, OutsideBridge())):
        raise _refusal(
            wanted,
            f"the host has the bridge {mapped} for the network {wanted.network}",
            f"use that bridge, or another name for this network: {_WHERE}, and `network_name` in the YAML",
        )
    there = bridges.get(wanted.bridge)
    if there is not None and there.kept:
        if (wanted.network, wanted.bridge, wanted.address) in USUAL_MAPPINGS:
            # the usual mapping needs no consent, because its bridge leads outside by NAT only
            why = f"there is a bridge {wanted.bridge} that kvm-compose has not made"
            raise _refusal(wanted, why, _another_subnet(wanted))
        return
    if there is not None:
        _check_sharing(project, wanted, there)
    subnet = ipaddress.ip_interface(wanted.address).network
    for name, address in subnets:
        other = ipaddress.ip_interface(address).network
        if name != wanted.bridge and other.version == subnet.version and other.overlaps(subnet):
            why = f"the subnet {subnet} overlaps {other}, which is reached by {name}"
            raise _refusal(wanted, why, _another_subnet(wanted))


def _leaves(project: str, network: str, bridge: OutsideBridge) -> bool:
    """Return whether a mapping is only this project's: it will have another bridge."""
    users = {name for name, each in bridge.users.items() if each.network == network}
    return users == {project} and network in bridge.mapped


def _check_sharing(project: str, wanted: Outside, bridge: OutsideBridge) -> None:
    """Raise DriverError for another project on a bridge of kvm-compose that this one cannot share it with."""
    for name, other in sorted(bridge.users.items()):
        if name == project:
            continue
        if other.address and not _is_same(other.address, wanted.address):
            why = f"the bridge {wanted.bridge} has the address {other.address} for the project {name}"
            raise _refusal(wanted, why, f"use that address, or another bridge: {_WHERE}")
        if wanted.has_guests or other.has_guests:
            # a guest can answer for addresses of its neighbours; a router of OVN only for its own
            why = f"guests of the project {name} are directly on the bridge {wanted.bridge}"
            if wanted.has_guests:
                why = f"this testbed has guests directly on {wanted.bridge}, which the project {name} uses"
            hint = f"connect them through a router, or name another network, bridge and address: {_WHERE}"
            raise _refusal(wanted, why, hint)


def _is_same(noted: str, wanted: str) -> bool:
    """Compare addresses; a note that was edited by hand may have none."""
    try:
        return ipaddress.ip_interface(noted) == ipaddress.ip_interface(wanted)
    except ValueError:
        return False


_WHERE = "`bridge_mappings` of the host's `ovn` in kvm-compose-config.json"


def _another_subnet(wanted: Outside) -> str:
    return f"give the host another bridge and address for the network {wanted.network}: {_WHERE}"


def _refusal(wanted: Outside, why: str, hint: str) -> DriverError:
    return DriverError(f"no way out by {wanted.bridge}: {why}", hint=hint)
