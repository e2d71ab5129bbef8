"""What a difference between a container and what it should be means. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from kvmcompose.core.instance import GONE, ON
from kvmcompose.core.nic import normal_vlan
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb
from kvmcompose.server.orchestrator.resources._container_spec import (
    ContainerDetail,
    ContainerSpec,
    WantedNic,
    is_of_this_format,
)
from kvmcompose.server.orchestrator.resources._guest_changes import changes_of, worded

#: Keys that a container is not made from: those of its name and place, and what only scripts in it see.
_UNUSED = re.compile(
    r"^(name|hostname|id|guest_id|labels|extra_info|testbed_host|is_golden_image|kind)($|\.)"
    r"|(^|\.)(setup_script|run_script|context|context_path|context_modes|virt_type|datapath_type"
    r"|depends_on|ready_timeout)($|\.|\[)"
)


def compare(wanted: Resource, found: Found) -> Change | None:
    """Return the change that makes a container what it should be."""
    spec: ContainerSpec = wanted.spec
    detail: ContainerDetail = found.detail
    if found.state == GONE:
        missing = (Reason(ReasonCode.MISSING),)
        return Change(verb=Verb.REPAIR, ref=wanted.ref, reasons=missing, wanted=wanted, found=found)
    asked = Reason(ReasonCode.STATE, detail.reason or "", before=found.state, after=spec.state)
    is_on = found.state in ON
    verb, reasons = Verb.REPAIR, [asked] if found.state != spec.state else []
    if spec.state == "shut off":
        reasons = [asked] if is_on else []
    elif made := tuple(_of_making(spec, found)):
        verb, reasons = Verb.REPLACE, [*made]
    elif is_on and (of_nics := [reason for nic in spec.nics for reason in of_nic(nic, detail)]):
        verb, reasons = Verb.UPDATE, [*of_nics, *reasons]
    elif is_on and (gone := removed_ends(spec, detail)):
        verb = Verb.UPDATE
        reasons = [*(Reason(ReasonCode.REMOVED, f"interface {end}") for end in gone), *reasons]
    if not reasons:
        return None
    return Change(verb=verb, ref=wanted.ref, reasons=tuple(reasons), wanted=wanted, found=found)


def _of_making(spec: ContainerSpec, found: Found) -> Iterator[Reason]:
    """Yield why another container has to take the place of one: what it is made from has changed."""
    earlier, made = found.detail.earlier, found.spec
    if earlier is not None and not is_of_this_format(made):
        made = earlier.made  # of another version, which brought up the same
    if not spec.made or made == spec.made:
        return
    if earlier is None or earlier.made != made:
        yield Reason(ReasonCode.EDITED, "what it is made from")
        return
    before, after = ({**each.document, "interfaces": None} for each in (earlier, spec))
    changes = [each for each in changes_of(before, after) if not _UNUSED.search(each.subject)]
    if changes:
        yield from worded([_of_file(each, spec) for each in changes if not _follows(each, changes)])
        return
    for path in sorted(earlier.files.keys() | spec.files.keys()):
        if earlier.files.get(path) != spec.files.get(path):
            yield Reason(ReasonCode.EDITED, path)


def _of_file(reason: Reason, spec: ContainerSpec) -> Reason:
    """Name what an image is in, or built from, in place of its digest."""
    keys = {".build_digest": "build", ".image_id": "image"}
    key = next((key for suffix, key in keys.items() if reason.subject.endswith(suffix)), None)
    if key is None or reason.code is not ReasonCode.CHANGED:
        return reason
    section = next((part for part in spec.document.values() if isinstance(part, dict) and key in part), {})
    given = section.get(key)
    if given is None:
        return reason
    if key == "image":
        return Reason(ReasonCode.EDITED, f"the image {given}")
    return Reason(ReasonCode.EDITED, f"build context {given if isinstance(given, str) else given['context']}")


def _follows(reason: Reason, changes: Collection[Reason]) -> bool:
    """Return whether a change is the ID of another image, which the YAML names."""
    return reason.subject.endswith(".image_id") and any(each.subject.endswith(".image") for each in changes)


def of_nic(wanted: WantedNic, detail: ContainerDetail) -> Iterator[Reason]:
    """Yield how a NIC of a container that runs differs."""
    nic, name = wanted.nic, f"interface {wanted.nic.name}"
    found = detail.nics.get(nic.end)
    if found is None or found.name != nic.name:
        yield Reason(ReasonCode.MISSING, name)
        return
    if not found.up:
        yield Reason(ReasonCode.CHANGED, f"state of {name}", "down", "up")
    for key, before, after in (
        ("mac", [found.mac], [nic.mac]),
        ("mtu", [str(found.mtu)], [str(nic.mtu)]),
        ("link", [found.link if found.up else nic.link], [nic.link]),
        ("ip", found.addresses, nic.addresses),
        ("gateway", found.gateways, nic.gateways),
    ):
        if set(before) != set(after):
            yield Reason(ReasonCode.CHANGED, f"{key} of {name}", _listed(before), _listed(after))
    yield from _of_port(wanted, detail)


def _of_port(wanted: WantedNic, detail: ContainerDetail) -> Iterator[Reason]:
    """Yield how the port of a NIC differs."""
    port, name = wanted.port, f"interface {wanted.nic.name}"
    bridge = detail.bridges.get(port.name)
    if bridge is None:
        yield Reason(ReasonCode.MISSING, f"port of {name} on {wanted.segment}")
        return
    if bridge != port.bridge:
        yield Reason(ReasonCode.CHANGED, f"bridge of {name}", bridge, port.bridge)
    elif port.interface_id and detail.logical_ports.get(port.name) != port.interface_id:
        yield Reason(ReasonCode.MISSING, f"logical port of {name}")
    vlans = [normal_vlan(each) for each in (detail.vlans.get(port.name), port.vlan)]
    if vlans[0] != vlans[1] and not port.integration:
        words = (None if each is None else str(each) for each in vlans)
        yield Reason(ReasonCode.CHANGED, f"vlan of {name}", *words)


def _listed(values: Collection[str]) -> str | None:
    return ", ".join(sorted(values)) or None


def removed_ends(spec: ContainerSpec, detail: ContainerDetail) -> list[str]:
    """Return the ends of NICs that the container has, and is not to have any more."""
    return sorted((detail.nics.keys() | detail.bridges.keys()) - {each.nic.end for each in spec.nics})
