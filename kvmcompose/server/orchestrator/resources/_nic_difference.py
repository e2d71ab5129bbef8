"""What differs in an interface of a guest that runs, of what changes while it does. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.nic import Bandwidth, Vlan, normal_vlan
from kvmcompose.core.resource import Reason, ReasonCode
from kvmcompose.server.orchestrator.resources._domain_spec import DomainDetail

_Nic = Mapping[str, Any]


class NicDifference(msgspec.Struct, frozen=True, kw_only=True):
    """``edit``: the reason is one, and no repair. ``at_port``: its port changes, by Open vSwitch alone."""

    reason: Reason
    edit: bool
    at_port: bool = False


def nic_differences(
    number: int, mac: str, known: _Nic | None, nic: _Nic, detail: DomainDetail
) -> Iterator[NicDifference]:
    """Yield what differs in link state, throughput and VLAN. ``known`` is what the guest was made from."""
    before: _Nic = known if known is not None else nic
    link = nic.get("link", "up")
    yield from _of(number, "link", before.get("link", "up"), link, detail.links.get(mac, "up"))
    yield from _of_bandwidth(number, mac, before, nic, detail)
    tap = detail.taps.get(mac, "")
    if nic["attach"] == "ovs" and tap in detail.bridges:
        for each in _of(number, "vlan", _vlan(before), _vlan(nic), normal_vlan(detail.vlans.get(tap))):
            yield msgspec.structs.replace(each, at_port=True)


def _of_bandwidth(
    number: int, mac: str, known: _Nic, nic: _Nic, detail: DomainDetail
) -> Iterator[NicDifference]:
    """Libvirt has the limits, and Open vSwitch carries them out: either can have lost them."""
    wanted = _bandwidth(nic)
    there = detail.bandwidths.get(mac)
    before = _bandwidth(known)
    edit = before != wanted
    differs = edit or there != (wanted.enforced if wanted is not None else None)
    if differs:
        yield _changed(number, "bandwidth", before if edit else there, wanted, edit=edit)
    tap = detail.taps.get(mac, "")
    if differs or wanted is None or tap not in detail.bridges:
        return
    lost = [
        key
        for key, rate, ports in (
            ("inbound", wanted.inbound, detail.shaped),
            ("outbound", wanted.outbound, detail.policed),
        )
        if rate is not None and tap not in ports
    ]
    if lost:
        what = f"bandwidth of interface {number} ({' and '.join(lost)}) in Open vSwitch"
        yield NicDifference(reason=Reason(ReasonCode.MISSING, what), edit=False)


def _of(number: int, key: str, known: object, wanted: object, there: object) -> Iterator[NicDifference]:
    """Yield the difference of one key: an edit if what the guest was made from differs, too."""
    edit = known != wanted
    if edit or there != wanted:
        yield _changed(number, key, known if edit else there, wanted, edit=edit)


def _changed(number: int, key: str, before: object, after: object, *, edit: bool) -> NicDifference:
    words = (None if each is None else str(each) for each in (before, after))
    reason = Reason(ReasonCode.CHANGED, f"{key} of interface {number}", *words)
    return NicDifference(reason=reason, edit=edit)


def _bandwidth(nic: _Nic) -> Bandwidth | None:
    given = nic.get("bandwidth")
    return None if given is None else msgspec.convert(given, Bandwidth)


def _vlan(nic: _Nic) -> Vlan:
    given = nic.get("vlan")
    return None if given is None else normal_vlan(msgspec.convert(given, Vlan))
