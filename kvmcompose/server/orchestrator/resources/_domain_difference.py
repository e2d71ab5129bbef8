"""What a difference between a domain and what it should be means for its guest. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.nic import CONVENTIONAL
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb
from kvmcompose.server.orchestrator.resources._disk_difference import (
    DiskChange,
    of_disks,
    restarts_of_disks,
    restarts_to_grow,
    unplugged,
)
from kvmcompose.server.orchestrator.resources._domain_spec import ASLEEP, OFF, DomainDetail, DomainSpec
from kvmcompose.server.orchestrator.resources._guest_changes import changes_of, worded
from kvmcompose.server.orchestrator.resources._nic_difference import nic_differences

#: Keys of a guest that only scripts in it see.
_SETUP = re.compile(
    r"(^|\.)(setup_scripts?|run_scripts?|environment|environment_file|environment_digest|context|context_path"
    r"|context_modes)($|\.|\[)"
)
#: Keys that the domain does not depend on. Without an ``id``, another name is another domain.
_UNUSED = re.compile(
    r"^(name|hostname|id|guest_id|labels|extra_info|testbed_host|is_golden_image|kind|depends_on|healthcheck)"
    r"($|\.|\[)|\.ready($|\.|_timeout)"
)
_SIZE = re.compile(r"\.(memory_mb|cpus)$")
#: Keys of disks, which ``_disk_difference`` compares.
_DISKS = re.compile(r"^\w+\.disks($|\[)")
_DISK_SIZE = re.compile(
    r"\.libvirt_type\.(cloud_image|existing_disk|iso_guest|network_guest)\.expand_gigabytes$"
)
#: Keys of an interface: what moves its port, what a guest learns when it starts, what follows from others.
_PORT = frozenset({"bridge", "source"})
_AT_START = frozenset({"ip", "prefix_length", "gateway", "mtu"})
#: What changes of an interface while its guest runs, and what others carry out.
_ALIVE = frozenset({"link", "bandwidth", "vlan", "port_security"})


class LiveChange(msgspec.Struct, frozen=True, kw_only=True):
    """What changes of a domain while it runs. NICs are named by their MAC addresses.

    ``edits`` and ``repairs`` are the reasons. ``place``: NICs whose port moves, comes back or has another
    VLAN. ``set``: NICs with another link state, VLAN or limit of throughput. ``memory_mb`` is in MiB.
    """

    edits: tuple[Reason, ...] = ()
    repairs: tuple[Reason, ...] = ()
    place: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    attach: tuple[str, ...] = ()
    detach: tuple[str, ...] = ()
    memory_mb: int | None = None
    cpus: int | None = None
    disks: DiskChange = DiskChange()


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What another definition means. ``restart``: its guest has to be off; ``pending``: that can wait."""

    restart: bool = False
    pending: bool = False
    reasons: tuple[Reason, ...] = ()


def compare(wanted: Resource, found: Found) -> Change | None:
    """Return the change that makes a domain what it should be."""
    spec: DomainSpec = wanted.spec.made
    state: str = wanted.spec.state
    made: DomainSpec | None = found.spec
    detail: DomainDetail = found.detail
    current = "shut off" if found.state in OFF else found.state
    asked = Reason(ReasonCode.STATE, detail.reason or "", before=found.state, after=state)
    judged = judge(made, spec, detail)
    verb, pending, reasons = Verb.RESTART, judged.pending, judged.reasons
    if state == "shut off":
        verb, pending, reasons = Verb.REPAIR, False, (asked,) if current != state else ()
    elif current == "shut off":
        verb, pending, reasons = Verb.REPAIR, False, (asked, *judged.reasons)
    elif not judged.restart or judged.pending:
        changes = alive(made, spec, detail)
        repairs = (
            (*changes.repairs, asked)
            if (current == ASLEEP or "paused" in (current, state)) and current != state
            else changes.repairs
        )
        if changes.edits or repairs:
            verb, pending = Verb.UPDATE if changes.edits else Verb.REPAIR, False
            reasons = (*changes.edits, *_from_the_next_start(judged, changes), *repairs)
    if not reasons:
        return None
    return Change(verb=verb, ref=wanted.ref, reasons=reasons, wanted=wanted, found=found, pending=pending)


def _from_the_next_start(judged: Judgement, changes: LiveChange) -> list[Reason]:
    """Return what an edit of a guest that runs changes only when it starts again: its address, its MTU."""
    return [
        msgspec.structs.replace(each, subject=f"{each.subject} (from its next start)")
        for each in judged.reasons
        if changes.edits and each.code is ReasonCode.CHANGED
    ]


def judge(made: DomainSpec | None, spec: DomainSpec, detail: DomainDetail) -> Judgement:
    """Return whether a guest has to restart for what it is made from now, and why."""
    if made is None:
        return Judgement(restart=True, pending=True, reasons=(Reason(ReasonCode.FORMAT),))
    lost = [disk for disk in made.disks if disk not in detail.disks] + unplugged(made, spec, detail)
    if lost and detail.disks:
        gone = tuple(Reason(ReasonCode.MISSING, f"its disk {disk}") for disk in lost)
        return Judgement(restart=True, reasons=gone)
    growth = restarts_to_grow(made, spec)  # no definition has a size
    if (made.xml, made.seed, made.media) == (spec.xml, spec.seed, spec.media):
        return Judgement(restart=bool(growth), reasons=tuple(worded(growth)))
    others = [
        each
        for each in changes_of({**made.guest, "interfaces": None}, {**spec.guest, "interfaces": None})
        if not _UNUSED.search(each.subject)
        and not _SETUP.search(each.subject)
        and not _DISKS.search(each.subject)
        and not (_DISK_SIZE.search(each.subject) and _is_growth(each))
    ]
    same_frame = made.frame == spec.frame != "" and made.media == spec.media
    if same_frame and not _has_fewer_cpus(made, spec):
        others = [each for each in others if not _SIZE.search(each.subject)]
    others += restarts_of_disks(made, spec, detail, same_frame=same_frame)
    others += growth
    at_start = _of_nics(made, spec, same_frame=same_frame)
    reasons = tuple(worded([*others, *at_start.reasons]))
    if others or at_start.restart:
        return Judgement(restart=True, pending=not others and at_start.pending, reasons=reasons)
    # what changed otherwise, changes alive, or only scripts see it
    return Judgement() if same_frame else _of_files(made, spec)


def _is_growth(reason: Reason) -> bool:
    """Return whether a disk gets larger, which it does while its guest runs."""
    return int(reason.before or 0) < int(reason.after or 0)


def _has_fewer_cpus(made: DomainSpec, spec: DomainSpec) -> bool:
    """Return whether processors are to go, which a guest has to be off for.

    Those that it started with never go. QEMU reports that another has gone only with KVM: emulated (7.2), it
    does not, though the guest has let go of it.
    """
    before, after = _size(made, "cpus"), _size(spec, "cpus")
    return before is not None and after is not None and after < before


def _of_files(made: DomainSpec, spec: DomainSpec) -> Judgement:
    """Return what other files mean for a guest of which nothing else has changed."""
    if made.version != spec.version and made.xml != spec.xml:
        return Judgement(restart=True, pending=True, reasons=(Reason(ReasonCode.FORMAT),))
    if made.xml != spec.xml:
        name = spec.guest.get("id", spec.guest.get("name"))
        edited = Reason(ReasonCode.EDITED, f"artefacts/{name}-domain.xml")
        return Judgement(restart=True, reasons=(edited,))
    if made.media != spec.media:
        return Judgement(restart=True, reasons=(Reason(ReasonCode.CHANGED, "installation media"),))
    return Judgement()


def _of_nics(made: DomainSpec, spec: DomainSpec, *, same_frame: bool) -> Judgement:
    """Return what of the interfaces a guest has to restart for.

    What it learns when it starts can wait where it follows from another bridge, or from another MTU.
    """
    before, after = nics(made), nics(spec)
    if not same_frame and before.keys() != after.keys():
        interfaces = {"interfaces": list(before.values())}, {"interfaces": list(after.values())}
        return Judgement(restart=True, reasons=tuple(changes_of(*interfaces)))
    reasons = [*_of_macs(before, after), *_of_conventional(before, after)]
    pending = not reasons
    for number, (mac, nic) in enumerate(after.items()):
        known = before.get(mac)
        keys = (
            {key for key in nic.keys() | known.keys() if known.get(key) != nic.get(key)} if known else set()
        )
        if same_frame:
            keys -= _ALIVE
        if not keys or (keys <= _PORT and same_frame):
            continue
        wait = keys <= {"mtu"} | _PORT or (keys <= _PORT | _AT_START and (made.waiting or keys & _PORT))
        pending = pending and bool(wait) and same_frame
        reasons += [
            Reason(ReasonCode.CHANGED, f"interfaces[{number}].{key}", _text(known, key), _text(nic, key))
            for key in sorted(keys - (_PORT if same_frame else frozenset()))
        ]
    return Judgement(restart=bool(reasons), pending=pending, reasons=tuple(reasons))


def _of_macs(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[Reason]:
    """Return why a guest restarts for another MAC address of an interface.

    Its tap keeps its name, so the old one would have to go first, and with it the address that the guest
    learns again only when it starts.
    """
    gone = {nic["target"]: mac for mac, nic in before.items() if mac not in after}
    return [
        Reason(ReasonCode.CHANGED, f"interfaces[{number}].mac", gone[nic["target"]], mac)
        for number, (mac, nic) in enumerate(after.items())
        if mac not in before and nic["target"] in gone
    ]


def _of_conventional(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> Iterator[Reason]:
    """Yield interfaces that come or go and cannot be plugged in and out: those of conventional PCI."""
    for code, ones, others in (
        (ReasonCode.REMOVED, before, after),
        (ReasonCode.ADDED, after, before),
    ):
        for mac, nic in ones.items():
            if mac not in others and nic.get("model") in CONVENTIONAL:
                yield Reason(code, f"interface on {nic['bridge']} ({nic['model']})")


def _text(nic: Mapping[str, Any] | None, key: str) -> str | None:
    value = nic.get(key) if nic is not None else None
    return None if value is None else str(value)


def nics(spec: DomainSpec) -> dict[str, dict[str, Any]]:
    """Return the interfaces of a guest by their MAC addresses."""
    return {str(each["mac"]).lower(): each for each in spec.guest.get("interfaces") or ()}


def alive(made: DomainSpec | None, spec: DomainSpec, detail: DomainDetail) -> LiveChange:
    """Return what changes while a guest runs.

    What was changed in the guest may not have reached its definition, where that was cut off: it is an edit
    until it has.
    """
    if made is None:
        return LiveChange()
    same = made.guest == spec.guest
    after = nics(spec)
    before = after if same else nics(made)
    changes = {
        mac: _of_nic(number, before.get(mac), nic, detail)
        for number, (mac, nic) in enumerate(after.items())
        if mac in detail.taps and nic["attach"] in ("ovs", "ovn")
    }
    edits = [reason for each in changes.values() for reason in each.edits]
    repairs = [reason for each in changes.values() for reason in each.repairs]
    plugged, missing = _plugged(before, after, detail)
    disks = of_disks(made, spec, detail)
    edits += [*plugged, *disks.edits]
    repairs += [*missing, *disks.repairs]
    if detail.edited:
        repairs.append(Reason(ReasonCode.EDITED, "its definition in libvirt"))
    keys = () if same else ("memory_mb", "cpus")
    sizes = {key: (_size(made, key), _size(spec, key)) for key in keys}
    changed = {key: size for key, (was, size) in sizes.items() if was != size and size is not None}
    edits += [Reason(ReasonCode.CHANGED, key, str(sizes[key][0]), str(size)) for key, size in changed.items()]
    return LiveChange(
        edits=tuple(edits),
        repairs=tuple(repairs),
        place=tuple(mac for mac, each in changes.items() if each.place),
        set=tuple(mac for mac, each in changes.items() if each.set),
        attach=tuple(mac for mac in after if mac not in detail.taps),
        detach=tuple(mac for mac in detail.taps if mac not in after),
        memory_mb=changed.get("memory_mb"),
        cpus=changed.get("cpus"),
        disks=disks,
    )


class _NicChange(msgspec.Struct, frozen=True):
    """What changes of one NIC. ``place`` and ``set``: whether it is one of those of ``LiveChange``."""

    edits: tuple[Reason, ...]
    repairs: tuple[Reason, ...]
    place: bool
    set: bool


def _of_nic(
    number: int, known: Mapping[str, Any] | None, nic: Mapping[str, Any], detail: DomainDetail
) -> _NicChange:
    """Return what changes of a NIC that is plugged in, and of its port."""
    mac = str(nic["mac"]).lower()
    tap = detail.taps[mac]
    edits: list[Reason] = []
    repairs: list[Reason] = []
    there = detail.bridges.get(tap) == nic["source"]
    if known is not None and known["source"] != nic["source"]:
        edits.append(Reason(ReasonCode.CHANGED, "bridge", known["bridge"], nic["bridge"]))
    elif not there:
        repairs.append(Reason(ReasonCode.MISSING, f"its port on the bridge {nic['bridge']}"))
    elif tap in detail.nameless:
        repairs.append(Reason(ReasonCode.MISSING, f"iface-id of its port on the bridge {nic['bridge']}"))
    differences = [*nic_differences(number, mac, known, nic, detail)]
    edits += [each.reason for each in differences if each.edit]
    repairs += [each.reason for each in differences if not each.edit]
    if tap in detail.answering:
        repairs.append(Reason(ReasonCode.MISSING, f"arp_ignore of its interface on {nic['bridge']}"))
    # a port that comes back has no limits
    lost = tap not in detail.bridges and "bandwidth" in nic
    return _NicChange(
        edits=tuple(edits),
        repairs=tuple(repairs),
        place=not there or tap in detail.nameless or any(each.at_port for each in differences),
        set=lost or any(each.edit or not each.at_port for each in differences),
    )


def _plugged(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], detail: DomainDetail
) -> tuple[list[Reason], list[Reason]]:
    """Return why interfaces are plugged in or out: for edits, and for what was done outside."""
    edits: list[Reason] = []
    repairs: list[Reason] = []
    if before is after and after.keys() == detail.taps.keys():
        return edits, repairs
    for mac, nic in after.items():
        into = f"interface on {nic['bridge']}"
        if mac not in before:
            edits.append(Reason(ReasonCode.ADDED, into))
        elif mac not in detail.taps:
            repairs.append(Reason(ReasonCode.MISSING, into))
    edits += [
        Reason(ReasonCode.REMOVED, f"interface on {nic['bridge']}")
        for mac, nic in before.items()
        if mac not in after
    ]
    repairs += [
        Reason(ReasonCode.REMOVED, f"interface {mac}, plugged in by hand,")
        for mac in detail.taps
        if mac not in after and mac not in before
    ]
    return edits, repairs


def _size(spec: DomainSpec, key: str) -> int | None:
    sections = (each for each in spec.guest.values() if isinstance(each, dict) and "memory_mb" in each)
    return next((each.get(key) for each in sections), None)


def after_alive(made: DomainSpec, spec: DomainSpec) -> DomainSpec:
    """Return what a running domain is made from once it was changed alive: some waits for its next start."""
    before = nics(made)
    interfaces: list[dict[str, Any]] = []
    waiting = False
    for mac, nic in nics(spec).items():
        kept = {key: before[mac][key] for key in _AT_START & before[mac].keys()} if mac in before else {}
        waiting = waiting or any(nic.get(key) != value for key, value in kept.items())
        interfaces.append({**nic, **kept})
    guest = {**spec.guest, "interfaces": interfaces}
    return msgspec.structs.replace(
        spec, guest=guest, waiting=waiting, seed=made.seed if waiting else spec.seed
    )
