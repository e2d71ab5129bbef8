"""What a guest's domain is made from, and what a difference in that means for the one that exists. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from kvmcompose.core.environment import value_digest
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb
from kvmcompose.render.domain import DOMAIN_FORMAT

#: States of libvirt in which nothing of a guest runs.
OFF = ("shut off", "crashed", "no state")
#: Keys of a guest that only scripts in it see.
_SETUP = re.compile(
    r"(^|\.)(setup_scripts?|run_scripts?|environment|environment_file|environment_digest|context_path"
    r"|context_modes)($|\.|\[)"
)
#: Keys that the domain does not depend on. Without an ``id``, another name is another domain.
_UNUSED = re.compile(
    r"^(name|hostname|id|guest_id|labels|extra_info|testbed_host|is_golden_image|kind)($|\.)|ready_timeout"
)
_INTERFACE = re.compile(r"^interfaces\[(\d+)\]\.(\w+)$")
#: What changes for an interface while the guest runs: the port of its tap moves.
_ALIVE = frozenset({"bridge", "source"})
#: A tunnel more or less changes the MTU of all: interfaces have it from their next start.
_LATER = frozenset({"mtu"})


#: Frames by the digest of their definition: most of them are asked for again and again.
_frames: dict[str, str] = {}
_guard = threading.Lock()
_MOST_FRAMES = 50_000


class DomainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain is made from. It is stored in the metadata of the domain.

    ``version`` is that of the XML, 0 for what version 0.1 made.
    ``guest`` is the guest's part of ``state.json``; there are digests in place of the values of an
    environment. ``xml``, ``seed`` and ``media`` are digests of its files. ``frame`` is that of the definition
    without what may change while the guest runs.
    """

    version: int = DOMAIN_FORMAT
    guest: dict[str, Any]
    xml: str
    frame: str = ""
    seed: str | None = None
    media: str | None = None


class DomainWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A domain as it is wanted. ``state`` is ``running``, or what the user asked for since."""

    made: DomainSpec
    state: str = "running"


class DomainDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A domain as it is now. ``reason`` says why it is in its state; ``bridges`` are those of its taps.

    ``stamped`` is whether it bears what it was made from.
    """

    name: str
    reason: str | None = None
    bridges: Mapping[str, str] = {}
    stamped: bool = True


def frame_of(xml: str) -> str:
    """Return the digest of a definition without interfaces, and without the current memory and CPUs."""
    try:
        root = ET.fromstring(xml)  # noqa: S314 (ours, or the user's; expat bounds how entities grow)
    except ET.ParseError:
        return ""
    for parent, path in ((root.find("devices"), "interface"), (root, "currentMemory")):
        for each in parent.findall(path) if parent is not None else ():
            parent.remove(each)  # type: ignore[union-attr]
    for each in root.findall("vcpu"):
        each.attrib.pop("current", None)
    text = ET.canonicalize(ET.tostring(root, encoding="unicode"), strip_text=True)
    return hashlib.sha256(text.encode()).hexdigest()


def frame(digest: str, read: Callable[[], str]) -> str:
    """Return the frame of the definition with this digest, which is read only if it is not known yet."""
    with _guard:
        known = _frames.get(digest)
    if known is None:
        known = frame_of(read())
        with _guard:
            _frames[digest] = known
            while len(_frames) > _MOST_FRAMES:
                del _frames[next(iter(_frames))]
    return known


def encode(spec: DomainSpec) -> str:
    """Return what a domain is made from, for its metadata: ASCII, as XML forbids some other characters."""
    return json.dumps(msgspec.to_builtins(spec), separators=(",", ":"))


def decode(made: str) -> DomainSpec | None:
    """Return what a domain was made from, by its metadata; None for what cannot be read."""
    try:
        return msgspec.json.decode(made, type=DomainSpec) if made else None
    except msgspec.MsgspecError:
        return None


def compare(wanted: Resource, found: Found) -> Change | None:
    """Return the change that makes a domain what it should be."""
    spec: DomainSpec = wanted.spec.made
    state: str = wanted.spec.state
    made: DomainSpec | None = found.spec
    detail: DomainDetail = found.detail
    verb, pending, reasons = _of_definition(made, spec)
    current = "shut off" if found.state in OFF else found.state
    asked = Reason(ReasonCode.STATE, detail.reason or "", before=found.state, after=state)
    if state == "shut off":
        verb, pending, reasons = Verb.UPDATE, False, [asked] if current != state else []
    elif current == "shut off":
        verb, pending, reasons = Verb.REPAIR, False, [asked, *reasons]
    elif verb is not Verb.RESTART or pending:
        alive = [*_of_ports(made, spec, detail)]
        repairs = [reason for reason, repair in alive if repair]
        moves = [reason for reason, repair in alive if not repair]
        if "paused" in (current, state) and current != state:
            repairs.append(asked)
        if moves or verb is Verb.UPDATE:
            verb, pending, reasons = Verb.UPDATE, False, [*moves, *repairs]
        elif repairs:
            verb, pending, reasons = Verb.REPAIR, False, repairs
    if not reasons:
        return None
    return Change(
        verb=verb or Verb.UPDATE,
        ref=wanted.ref,
        reasons=tuple(reasons),
        wanted=wanted,
        found=found,
        pending=pending,
    )


def _of_definition(made: DomainSpec | None, spec: DomainSpec) -> tuple[Verb | None, bool, list[Reason]]:
    """Return what another definition means: the verb, whether it can wait, and the reasons."""
    if made is None:
        return Verb.RESTART, True, [Reason(ReasonCode.FORMAT)]
    if (made.xml, made.seed, made.media) == (spec.xml, spec.seed, spec.media):
        return None, False, []
    changes = [each for each in changes_of(made.guest, spec.guest) if not _UNUSED.search(each.subject)]
    changes = [each for each in changes if not _SETUP.search(each.subject)]
    keys = {match[2] for each in changes if (match := _INTERFACE.match(each.subject))}
    others = [each for each in changes if not _INTERFACE.match(each.subject)]
    if changes and not others and keys <= _LATER:
        return Verb.RESTART, True, worded(changes)
    same_frame = made.frame == spec.frame != "" and made.media == spec.media
    if changes and not others and keys <= _ALIVE | _LATER and same_frame:
        return Verb.UPDATE, False, worded(changes)
    if changes:
        return Verb.RESTART, False, worded(changes)
    if made.version != spec.version and made.xml != spec.xml:
        return Verb.RESTART, True, [Reason(ReasonCode.FORMAT)]
    name = spec.guest.get("id", spec.guest.get("name"))
    if made.xml != spec.xml:
        return Verb.RESTART, False, [Reason(ReasonCode.EDITED, f"artefacts/{name}-domain.xml")]
    if made.media != spec.media:
        return Verb.RESTART, False, [Reason(ReasonCode.CHANGED, "installation media")]
    return None, False, []  # scripts, or what they see: that is the set-up's


def _of_ports(
    made: DomainSpec | None, spec: DomainSpec, detail: DomainDetail
) -> Iterator[tuple[Reason, bool]]:
    """Yield why taps are to become ports of other bridges, and whether that is a repair."""
    before = {each.get("target"): each for each in (made.guest if made else {}).get("interfaces", ())}
    for nic in spec.guest.get("interfaces", ()):
        there, wanted = detail.bridges.get(nic["target"]), nic["source"]
        if nic["attach"] != "ovs" or there == wanted:
            continue
        known = before.get(nic["target"])
        if known is None:
            continue  # it is not plugged in
        if known["source"] == wanted:
            yield Reason(ReasonCode.MISSING, f"its port on the bridge {nic['bridge']}"), True
        else:
            yield Reason(ReasonCode.CHANGED, "bridge", known["bridge"], nic["bridge"]), False


def changes_of(before: Any, after: Any, path: str = "") -> Iterator[Reason]:
    """Yield what differs in two guests of ``state.json``, by path; of an environment the names."""
    if path.endswith(".environment") and not (before is None and after is None):
        yield from _of_environment(before or {}, after or {}, path)
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from changes_of(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and _is_of_objects([*before, *after]):
        for index in range(max(len(before), len(after))):
            here = f"{path}[{index}]"
            if index >= len(before):
                yield Reason(ReasonCode.ADDED, here)
            elif index >= len(after):
                yield Reason(ReasonCode.REMOVED, here)
            else:
                yield from changes_of(before[index], after[index], here)
    elif before != after:
        yield Reason(ReasonCode.CHANGED, path, _shown(before), _shown(after))


def _is_of_objects(values: list[Any]) -> bool:
    return any(not isinstance(each, str) for each in values)


def _of_environment(before: dict[str, str], after: dict[str, str], path: str) -> Iterator[Reason]:
    """States of version 0.1 have values, later ones digests of them."""
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None and other in (one, value_digest(name, one)):
            continue
        subject = f"{path}.{name}"
        if one is None:
            yield Reason(ReasonCode.ADDED, subject)
        elif other is None:
            yield Reason(ReasonCode.REMOVED, subject)
        else:
            yield Reason(ReasonCode.CHANGED, subject)


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict | list):
        return f"({len(value)} entries)" if value else "(empty)"
    return str(value)


#: Parts of a path in the state that the YAML does not have, or that say nothing.
_INTERNAL = re.compile(r"^(libvirt|clone|docker)\.|libvirt_type\.(cloud_image\.)?")


def worded(reasons: list[Reason]) -> list[Reason]:
    """Return the reasons in the terms of the YAML, each once."""
    found = []
    for each in reasons:
        subject = _INTERNAL.sub("", _INTERNAL.sub("", each.subject))
        match = re.match(r"^interfaces\[(\d+)\](?:\.(\w+))?$", subject)
        if match:
            if match[2] in ("source", "target", "prefix_length", "gateway"):
                continue  # follows from the others
            subject = f"{match[2]} of interface {match[1]}" if match[2] else f"interface {match[1]}"
        subject = re.sub(r"^environment\.", "environment ", subject)
        found.append(msgspec.structs.replace(each, subject=subject))
    return found or reasons
