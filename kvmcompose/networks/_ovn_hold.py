"""Keep the addresses of running guests on logical switches by lines of the YAML: ``ip`` and ``mac``.

Subnets, gateways and DHCP are lines of the YAML themselves, so that an address only changes unasked where
another guest has the derived one now. A range of clones has no line for one of them, nor has DHCP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kvmcompose.core.model import Attachment, Guest, LogicalTestbed
from kvmcompose.core.state import Interface, State
from kvmcompose.networks import Drift
from kvmcompose.networks._addresses import could_be_derived_mac
from kvmcompose.networks._ovn_addresses import SwitchAddresses
from kvmcompose.networks._ovn_model import DYNAMIC, OvnNetwork, SwitchNic

_Key = tuple[str, int]


class OvnHold(msgspec.Struct, frozen=True):
    """Lines that keep addresses, by interface: the guest, and the number."""

    ips: dict[_Key, tuple[str, ...]] = {}
    macs: dict[_Key, str] = {}


class OvnKeeper:
    """An ``AddressKeeper``: ``before`` is the state to keep, ``logical`` the testbed as it is written."""

    nothing = OvnHold()

    def __init__(self, before: State, logical: LogicalTestbed) -> None:
        self._logical = logical
        self._network: OvnNetwork = logical.network
        self._guests: dict[str, Guest] = {guest.name: guest for guest in logical.guests}
        switches = before.network.get("switches", {})
        self._subnets = {name: set(each["subnet"]) for name, each in switches.items()}
        self._pools = {name: SwitchAddresses(self._network, name) for name in self._network.switches}
        self._ips: dict[tuple[str, str], str] = {}
        self._macs: dict[str, str] = {}
        for guest in logical.guests:
            for each in guest.attachments:
                for ip in each.own.ips:
                    if ip != DYNAMIC:
                        self._ips.setdefault((each.segment, ip), guest.name)
                if each.mac is not None:
                    self._macs.setdefault(each.mac, guest.name)

    def unnamed(self, drift: Drift) -> Drift | None:
        """Return the change without what the lines of the YAML ask for.

        These are ``gateway``, ``ip`` and ``mac`` of the interface, there now or removed, and the subnets and
        the DHCP of its switch.
        """
        old, new = drift.old, drift.new
        guest = self._guests[drift.guest]
        written = guest.attachments[drift.index]
        nic: SwitchNic = written.own
        old = msgspec.structs.replace(old, gateway=new.gateway, ipv6_gateway=new.ipv6_gateway)
        is_kept = (
            self._subnets.get(old.bridge) == set(self._network.switches[new.bridge].subnets)
            and (not nic.ips or DYNAMIC in nic.ips)
            and bool(old.leases) == bool(new.leases)
            and all(self._could_be_derived(guest, drift.index, old.bridge, ip) for ip in old.addresses)
        )
        if not is_kept:
            old = msgspec.structs.replace(
                old, ip=new.ip, prefix_length=new.prefix_length, ipv6=new.ipv6, leases=new.leases
            )
        derived = could_be_derived_mac(self._logical.project, guest.identity, drift.index, old.mac)
        if written.mac is not None or not derived:
            old = msgspec.structs.replace(old, mac=new.mac)
        return None if old == new else msgspec.structs.replace(drift, old=old)

    def _could_be_derived(self, guest: Guest, index: int, switch: str, ip: str) -> bool:
        return self._pools[switch].could_be_derived(self._logical.project, guest.identity, index, ip)

    def more(self, drifts: Sequence[Drift], hold: OvnHold) -> OvnHold:
        """Return the lines, with those that these changes require."""
        ips, macs = dict(hold.ips), dict(hold.macs)
        for drift in drifts:
            if self._guests[drift.guest].golden_image is not None:
                continue
            if drift.old.mac != drift.new.mac and drift.old.mac not in self._macs:
                macs[drift.key] = drift.old.mac
            if (
                not drift.old.leases
                and drift.old.addresses != drift.new.addresses
                and self._is_free(drift.old)
            ):
                ips[drift.key] = drift.old.addresses
        return OvnHold(ips, macs)

    def _is_free(self, old: Interface) -> bool:
        return all((old.bridge, ip) not in self._ips for ip in old.addresses)

    def held(self, logical: LogicalTestbed, hold: OvnHold) -> LogicalTestbed:
        """Return the testbed as if the YAML had these lines."""
        changed = {guest for guest, _ in (*hold.ips, *hold.macs)}
        guests = tuple(
            msgspec.structs.replace(
                guest,
                attachments=tuple(
                    _held(each, hold, (guest.name, index)) for index, each in enumerate(guest.attachments)
                ),
            )
            if guest.name in changed
            else guest
            for guest in logical.guests
        )
        return msgspec.structs.replace(logical, guests=guests)

    def lines(self, hold: OvnHold) -> dict[str, Any]:
        """Return the lines as they are in the YAML: ``network`` of machines."""
        names = sorted({guest for guest, _ in (*hold.ips, *hold.macs)})
        if not names:
            return {}
        return {"machines": [{"name": name, "network": self._interfaces(name, hold)} for name in names]}

    def _interfaces(self, name: str, hold: OvnHold) -> list[dict[str, Any]]:
        attachments = self._guests[name].attachments
        return [_written(_held(each, hold, (name, index))) for index, each in enumerate(attachments)]

    def obstacle(self, drift: Drift, hold: OvnHold) -> str:  # noqa: ARG002 (part of the protocol)
        """Return why no line keeps an interface as it was."""
        if drift.old.mac != drift.new.mac and drift.old.mac in self._macs:
            return f"{self._macs[drift.old.mac]} has the `mac` {drift.old.mac} now"
        for ip in drift.old.addresses:
            if (drift.old.bridge, ip) in self._ips:
                return f"{self._ips[drift.old.bridge, ip]} has the `ip` {ip} now"
        if drift.old.leases:
            return "no line gives one guest an address by DHCP; with `ip` it would have it without DHCP"
        if self._guests[drift.guest].golden_image is not None:
            return "no line gives one clone an address of its own"
        return "no line of the YAML can"


def _held(attachment: Attachment, hold: OvnHold, key: _Key) -> Attachment:
    nic: SwitchNic = attachment.own
    ips = hold.ips.get(key, nic.ips)
    own = msgspec.structs.replace(nic, ips=ips)
    mac = hold.macs.get(key, attachment.mac)
    return msgspec.structs.replace(attachment, mac=mac, ip=ips[0] if ips else None, own=own)


def _written(attachment: Attachment) -> dict[str, Any]:
    nic: SwitchNic = attachment.own
    written = {
        "switch": attachment.segment,
        "mac": attachment.mac,
        "ip": _one_or_list(nic.ips),
        "gateway": _one_or_list(nic.gateways),
        "network_name": nic.network_name,
    }
    return {key: value for key, value in written.items() if value is not None}


def _one_or_list(values: tuple[str, ...]) -> str | list[str] | None:
    if len(values) > 1:
        return list(values)
    return values[0] if values else None
