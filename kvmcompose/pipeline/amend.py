"""A testbed that was built, with some machines edited: its new state, without looking at the others.

Placement, names and addresses depend on what is seen of a machine from outside: its name, its guests and
what they are attached to. As long as that is as it was, all that an edit can change is the definition of
the machine's own guests, and the rest of ``state.json`` stays as it is. Where there is any doubt the answer
is None, and everything is compiled: this is never another opinion on what the state is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Guest, Host, Machine, SshKeys
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import (
    STATE_VERSION,
    ExtraInfo,
    GuestState,
    HostSharedConfig,
    Interface,
    Shared,
    State,
    encode_state,
)
from kvmcompose.guests import guest_kind
from kvmcompose.networks import Dialect, dialect
from kvmcompose.pipeline.logical import machine
from kvmcompose.pipeline.pieces import Pieces, cut
from kvmcompose.pipeline.read import read_yaml
from kvmcompose.pipeline.schemas import Schema, Schemas
from kvmcompose.pipeline.shape import plain_data, shape_machines
from kvmcompose.placement import strategies, weighs_guests

#: Of so many machines one may be edited; more, and all of them are read.
_FEW = 4

#: Where the guests stand in ``state.json``.
_GUESTS = b'\n  "testbed_guests": {'
_AFTER_GUESTS = b'\n  },\n  "testbed_host_shared_config": {'
_INDENT = b"\n    "
_GUEST_END = b"\n    }"


class Built(msgspec.Struct, frozen=True):
    """A testbed as it was built: its YAML, with so many ``machines`` in it, and its ``state.json``."""

    text: bytes
    machines: int
    state: bytes


class Amended(msgspec.Struct, frozen=True):
    """The new ``state.json``, and the guests in it that belong to edited machines."""

    state: bytes
    shared: Shared
    guests: dict[str, GuestState]


def amend(built: Built, data: bytes, project: str, schemas: Schemas, files: ProjectFiles) -> Amended | None:
    """What the YAML in ``data`` comes to, if no more than some machines are other than in ``built``."""
    try:
        before, after = cut(built.text.decode()), cut(data.decode())
        if before is None or after is None:
            return None
        edited = _edited(before, after, built.machines)
        frame = _frame(before, schemas) if edited else None
        if frame is None:
            return None
        pairs: list[tuple[Guest, Guest]] = []
        for number in edited:
            found = _guests(frame, number, before.text(number), after.text(number), files)
            if not found:
                return None
            pairs += found
        return _spliced(built.state, pairs, project)
    except (InputError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def _edited(before: Pieces, after: Pieces, machines: int) -> list[int]:
    """The numbers of the machines that are written otherwise; none if anything else is."""
    if (before.before, before.dash, before.after) != (after.before, after.dash, after.after):
        return []
    # all items of a list are found, and perhaps what only looks like one: not if there are just as many
    if not len(before.items) == len(after.items) == machines:
        return []
    pairs = enumerate(zip(before.items, after.items, strict=True))
    edited = [number for number, (old, new) in pairs if old != new]
    return edited if len(edited) * _FEW <= max(machines, _FEW) else []


class _Frame(msgspec.Struct, frozen=True):
    """What machines are read by. ``weighed`` tells that a guest's size may decide where others are."""

    schema: Schema
    kinds: tuple[str, ...]
    dialect: Dialect
    weighed: bool


def _frame(pieces: Pieces, schemas: Schemas) -> _Frame | None:
    """From what stands around the machines. Raises InputError."""
    around = read_yaml((pieces.before + pieces.after).encode(), "")
    value = plain_data(around, schemas.testbed(schemas.dialects[0]))
    if "machines" not in value or value["machines"]:
        return None
    name = schemas.recognise(value.get("network") or {})
    strategy = (value.get("testbed_options") or {}).get("load_balancing", "round_robin")
    if strategy not in strategies():
        return None
    return _Frame(schemas.testbed(name), schemas.guest_kinds, dialect(name), weighs_guests(strategy))


def _guests(
    frame: _Frame, number: int, before: str, after: str, files: ProjectFiles
) -> list[tuple[Guest, Guest]] | None:
    """A machine's guests as they were and as they are; None if more than that may change with them."""
    old, new = (_machine(frame, number, text) for text in (before, after))
    if old is None or new is None or any(guest_kind(new.kind).check(new, files)):
        return None
    pairs = [
        [guest_kind(each.kind).complete(guest, files) for guest in guest_kind(each.kind).expand(each)]
        for each in (old, new)
    ]
    if [_outside(frame, each) for each in pairs[0]] != [_outside(frame, each) for each in pairs[1]]:
        return None
    return list(zip(*pairs, strict=True))


def _machine(frame: _Frame, number: int, text: str) -> Machine | None:
    """The machine of a piece, read by itself. Raises InputError."""
    entries = shape_machines(read_yaml(f"machines:\n{text}".encode(), ""), frame.schema, frame.kinds)
    if entries is None or len(entries) != 1:
        return None
    return machine(entries[0], number, frame.dialect)


def _outside(frame: _Frame, guest: Guest) -> tuple[Any, ...]:
    """What others can see of a guest, and of its machine."""
    own = guest.machine
    size = (guest.cpus, guest.memory_mb) if frame.weighed else ()
    return (
        (guest.name, guest.kind, guest.attachments, guest.is_golden_image, guest.golden_image, *size),
        (own.name, own.kind, own.attachments, own.scaled, own.index),
    )


def _spliced(state: bytes, pairs: Sequence[tuple[Guest, Guest]], project: str) -> Amended | None:
    """The state with the guests' new definitions. Raises msgspec.MsgspecError."""
    start = state.find(_GUESTS)
    end = state.rfind(_AFTER_GUESTS)
    if start < 0 or end < 0:
        return None
    head = msgspec.json.decode(state[: start + len(_GUESTS)] + state[end:], type=_Head)
    if (head.version, head.project_name) != (STATE_VERSION, project):
        return None
    # what fits is checked whatever the strategy
    limited = any(host.cpus is not None or host.memory_mb is not None for host in head.testbed_hosts.values())
    if limited and any((old.cpus, old.memory_mb) != (new.cpus, new.memory_mb) for old, new in pairs):
        return None
    shared = Shared(project, head.testbed_host_shared_config, head.testbed_guest_shared_config)
    found: dict[str, GuestState] = {}
    pieces = []
    position = start
    for old, new in pairs:
        span = _span(state, new.name, position, end)
        known = _known(state[slice(*span)], old) if span is not None else None
        # it has to be just what the old text comes to
        if span is None or known is None or _written(known) != state[slice(*span)]:
            return None
        found[new.name] = msgspec.structs.replace(known, definition=new.definition)
        pieces += [state[position : span[0]], _written(found[new.name])]
        position = span[1]
    return Amended(b"".join((state[:start], *pieces, state[position:])), shared, found)


class _Head(msgspec.Struct, frozen=True):
    """What ``state.json`` says beside the guests, as far as it is wanted."""

    version: int
    project_name: str
    testbed_hosts: dict[str, Host]
    testbed_host_shared_config: HostSharedConfig
    testbed_guest_shared_config: SshKeys


def _span(state: bytes, name: str, start: int, end: int) -> tuple[int, int] | None:
    """Where a guest stands: strings have no line breaks in JSON, so no other place looks like it."""
    key = b"%s: {" % msgspec.json.encode(name)  # which is found sooner without the spaces before it
    found = state.find(key, start, end)
    while found >= 0 and state[found - len(_INDENT) : found] != _INDENT:
        found = state.find(key, found + 1, end)
    last = state.find(_GUEST_END, found, end + 1)
    return (found - len(_INDENT), last + len(_GUEST_END)) if found >= 0 and last >= 0 else None


class _Decided(msgspec.Struct, frozen=True):
    """What was decided on a guest, as ``state.json`` has it."""

    name: str
    kind: str
    hostname: str
    guest_id: int
    testbed_host: str
    virt_type: str
    datapath_type: str
    is_golden_image: bool
    extra_info: ExtraInfo
    interfaces: tuple[Interface, ...]


def _known(text: bytes, guest: Guest) -> GuestState:
    """The state of a guest as it was built. Raises msgspec.MsgspecError."""
    decided = msgspec.json.decode(text.partition(b":")[2], type=_Decided)
    section = guest_kind(decided.kind).SECTION
    return GuestState(**msgspec.structs.asdict(decided), section=section, definition=guest.definition)


def _written(guest: GuestState) -> bytes:
    """A guest as it stands in ``state.json``."""
    state = encode_state(
        State(
            version=STATE_VERSION,
            project_name="",
            testbed_hosts={},
            testbed_guests={guest.name: guest},
            testbed_host_shared_config=HostSharedConfig(None, ""),
            testbed_guest_shared_config=SshKeys("", ""),
            network=None,
        )
    )
    start = state.index(_GUESTS) + len(_GUESTS)
    return state[start : state.index(_AFTER_GUESTS, start)]
