"""Find the guests that an edit moves or renumbers without naming them, and the lines that keep them.

``moves`` compares the state that is up with the testbed as it is written now. A guest of both *is named by
the edit*, and so not reported, as far as the edit says what becomes of it:

- its host: ``pin`` names the guest, its machine or one of its bridges; its bridges are others than before; or
  its host is no longer in the config.
- its addresses: the interface is on another bridge, or has an ``ip`` or a ``mac`` of its own now, or had one
  that is removed; or the ``subnet`` of its bridges is another one.

The state contains results, not lines. So a ``pin`` that was removed looks like a strategy's decision, and the
guest is reported, with that pin. A golden image is never reported, as it is off while the testbed is up.

The lines are found by trial: the testbed is placed and specialised with them, until no more guest can be
kept. What ``Moves.kept`` says is therefore what the build does with the lines. ``moves_text`` words all this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, TypeVar

import msgspec

from kvmcompose.core.errors import ComplaintsError
from kvmcompose.core.model import LogicalTestbed, PlacedTestbed
from kvmcompose.core.state import GuestState, Interface, State
from kvmcompose.networks import Drift, dialect, keeper
from kvmcompose.pipeline.compile import Compiled, specialised
from kvmcompose.placement import Names, inseparable, one_by_one, place, segments_of

#: How often lines are added for what changes because of the lines before.
_ROUNDS = 20
#: How many lines are tried one by one when they are refused together.
_SINGLE = 20


class Fact(StrEnum):
    """What of a guest changes. The values are the words for it."""

    HOST = "host"
    ADDRESS = "address"
    GATEWAY = "gateway"
    MAC = "MAC address"
    MTU = "MTU"
    TAP = "name of the tap device"


class Move(msgspec.Struct, frozen=True):
    """A change of a guest, or of a bridge (``guest`` is None), that the edit does not name.

    ``index`` is the number of the interface, which is on ``bridge``. An address includes its prefix length.
    ``why`` says why no line prevents the change; None if one does.
    """

    fact: Fact
    old: str
    new: str
    guest: str | None = None
    bridge: str | None = None
    index: int | None = None
    why: str | None = None


class Moves(msgspec.Struct, frozen=True):
    """All changes that an edit does not name, and the lines of the YAML that prevent them.

    ``lines`` is plain data in the form of the YAML: mappings add their keys; an entry of ``machines`` or
    ``bridges`` adds its keys to the entry of that name, and ``interfaces`` is the whole list.
    ``unkept`` are the changes that remain with the lines, each with the reason.
    """

    moves: tuple[Move, ...] = ()
    unkept: tuple[Move, ...] = ()
    lines: dict[str, Any] = {}

    def __bool__(self) -> bool:
        """Return whether anything changes that the edit does not name."""
        return bool(self.moves)


class _Keyed(Protocol):
    @property
    def key(self) -> Hashable: ...


Lines = TypeVar("Lines")
Result = TypeVar("Result")
Change = TypeVar("Change", bound=_Keyed)


class _Shift(msgspec.Struct, frozen=True):
    """A guest or a bridge that moves from one host to another. ``segments`` are the bridges that it is on."""

    guest: str | None
    segments: tuple[str, ...]
    old: str
    new: str

    @property
    def key(self) -> Hashable:
        """The name of the bridge, or that of the guest, as one of a pair."""
        return (self.guest, None) if self.guest is not None else (None, *self.segments)

    @property
    def move(self) -> Move:
        bridge = self.segments[0] if self.guest is None else None
        return Move(Fact.HOST, self.old, self.new, self.guest, bridge)


def moves(before: State, after: Compiled) -> Moves:
    """Return what the edit changes without naming it. ``before`` is what is up."""
    edit = _Edit(before, after.placed.logical)
    found = (*_hosts(edit.shifts(after.placed)), *_changes(edit.drifts(after.state)))
    if not found:
        return Moves()
    pins, placed, no_pin = _settle(dict[str, str](), after.placed, edit.shifts, edit.pins, edit.placed)
    state = specialised(placed) if pins else after.state
    keep = edit.keeper
    hold, state, no_line = _settle(
        keep.nothing,
        state,
        edit.drifts,
        keep.more,
        lambda lines: specialised(PlacedTestbed(keep.held(placed.logical, lines), placed.placement)),
    )
    lines = keep.lines(hold)
    if pins:
        lines["testbed_options"] = {"placement": {"pin": dict(sorted(pins.items()))}}
    unkept = (
        *_hosts(edit.shifts(placed), lambda shift: edit.no_pin(shift, no_pin)),
        *_changes(edit.drifts(state), lambda drift: no_line.get(drift.key) or keep.obstacle(drift, hold)),
    )
    return Moves(found, unkept, lines)


class _Edit:
    """A state, and the testbed that is to follow it."""

    def __init__(self, before: State, logical: LogicalTestbed) -> None:
        self._before = msgspec.structs.replace(before, network=msgspec.to_builtins(before.network))
        self._logical = logical
        self.keeper = keeper(self._before, logical)
        self._everywhere = logical.topology.everywhere
        view = one_by_one(logical) if self._everywhere else logical
        self._names = Names(view.guests, view.topology)
        self._pinned = {each for name in logical.constraints.pin for each in self._names.reach(name)}
        self._hosts = {host.name for host in logical.hosts}
        plan = dialect(self._before.network["dialect"]).network_plan(self._before)
        self._segments = {each.segment: each.host for each in plan.bridges}
        #: On segments that are on all hosts, a guest is placed by itself.
        self._on = {guest.name: () if self._everywhere else segments_of(guest) for guest in logical.guests}

    def shifts(self, placed: PlacedTestbed) -> list[_Shift]:
        """Return the bridges and guests on other hosts than before, without those that the edit names."""
        placement = placed.placement
        found = [
            _Shift(None, (name,), self._segments[name], host)
            for name, host in placement.segments.items()
            if name in self._segments
        ]
        found += [
            _Shift(name, self._on[name], old.testbed_host, placement.guests[name])
            for name, old in self._both()
            if self._everywhere or {each.bridge for each in old.interfaces} == set(self._on[name])
        ]
        return [
            each
            for each in found
            if each.old != each.new
            and each.old in self._hosts
            and self._pinned.isdisjoint(each.segments)
            and not (self._everywhere and each.guest in self._pinned)
        ]

    def drifts(self, state: State) -> list[Drift]:
        """Return the interfaces that change, without what the edit names."""
        found = []
        for name, old in self._both():
            new = state.testbed_guests[name]
            for index, (was, is_now) in enumerate(zip(old.interfaces, new.interfaces, strict=False)):
                if was != is_now and was.bridge == is_now.bridge:
                    drift = self.keeper.unnamed(Drift(name, index, was, is_now))
                    if drift is not None and any(_facts(drift)):
                        found.append(drift)
        return found

    def _both(self) -> Iterator[tuple[str, GuestState]]:
        """Yield the guests that were there and still are, as they were."""
        before = {old.identity: old for old in self._before.testbed_guests.values()}
        for guest in self._logical.guests:
            old = before.get(guest.identity)
            if old is not None and not (old.is_golden_image or guest.is_golden_image):
                yield guest.name, old

    def pins(self, shifts: Sequence[_Shift], pins: dict[str, str]) -> dict[str, str]:
        """Return the pins, with those that hold bridges, and guests without bridges, where they were."""
        more = {}
        for each in shifts:
            name = self._pin_name(each) if each.guest is None or not each.segments else None
            if name is not None and self._anchor(each) is None:
                more[name] = each.old
        return {**more, **pins}

    def no_pin(self, shift: _Shift, refused: Mapping[Hashable, str]) -> str:
        """Return why no pin holds a guest or a bridge: for a guest, why none holds its bridges."""
        anchor = self._anchor(shift)
        if anchor is not None:
            return f"it cannot be separated from {anchor}"
        keys = (shift.key, *((None, each) for each in shift.segments))
        message = next((refused[key] for key in keys if key in refused), None)
        if message is not None:
            return f"a pin there is refused: {message}"
        shared = next((each for each in shift.segments if each in self._names.guests), None)
        return (
            "no pin keeps it there"
            if shared is None
            else f"{shared} is a bridge and a guest: no pin names it"
        )

    def _anchor(self, shift: _Shift) -> str | None:
        """Return a bridge that decides the host of these, if that is not where they were."""
        anchors = (self._anchors[each] for each in shift.segments)
        return next((each for each in anchors if self._segments.get(each) != shift.old), None)

    @cached_property
    def _anchors(self) -> dict[str, str]:
        """For each bridge the one that decides the host of its group: pinned, or with most of the guests."""
        count = Counter(each for name, _ in self._both() for each in self._on[name])
        found: dict[str, str] = {}
        for group in inseparable(self._logical):
            guests = Counter[str | None]()
            for each in group:
                guests[self._segments.get(each)] += count[each]

            def weight(segment: str, guests: Counter[str | None] = guests) -> tuple[bool, bool, int]:
                old = self._segments.get(segment)
                return segment in self._pinned, old in self._hosts, guests[old]

            found |= dict.fromkeys(group, max(group, key=weight))
        return found

    def _pin_name(self, shift: _Shift) -> str | None:
        """Return a name for a pin, which must not mean other bridges, too.

        A name that a bridge shares with a guest cannot be used.
        """
        if shift.guest is not None:
            return shift.guest
        (bridge,) = shift.segments
        if bridge not in self._names.guests:
            return bridge
        on = (name for name, segments in self._on.items() if segments == (bridge,))
        return next((name for name in on if name not in self._names.segments), None)

    def placed(self, pins: Mapping[str, str]) -> PlacedTestbed:
        """Place the testbed with these pins, too. Raises ComplaintsError."""
        constraints = self._logical.constraints
        constraints = msgspec.structs.replace(constraints, pin={**constraints.pin, **pins})
        logical = msgspec.structs.replace(self._logical, constraints=constraints)
        return PlacedTestbed(logical, place(logical, logical.strategy))


def _settle(
    lines: Lines,
    result: Result,
    changes: Callable[[Result], list[Change]],
    more: Callable[[Sequence[Change], Lines], Lines],
    attempt: Callable[[Lines], Result],
) -> tuple[Lines, Result, dict[Hashable, str]]:
    """Add lines until no further line keeps anything. Return them, the result with them, and refusals by key.

    Lines can change others, which then get lines, too. Where all lines together are refused, each is tried
    alone, as far as patience goes. If the lines only change others instead, none are returned.
    """
    first = lines, result
    refused: dict[Hashable, str] = {}
    for _ in range(_ROUNDS):
        left = [each for each in changes(result) if each.key not in refused]
        wanted = more(left, lines)
        if wanted == lines:
            break
        try:
            lines, result = wanted, attempt(wanted)
            continue
        except ComplaintsError as error:
            message = error.complaints[0].message
        refused |= dict.fromkeys([each.key for each in left[_SINGLE:]], message)
        for change in left[:_SINGLE]:
            wanted = more([change], lines)
            if wanted == lines or all(each.key != change.key for each in changes(result)):
                continue
            try:
                lines, result = wanted, attempt(wanted)
            except ComplaintsError as error:
                refused[change.key] = error.complaints[0].message
    if refused and len(changes(result)) >= len(changes(first[1])):
        lines, result = first
        refused = dict.fromkeys((each.key for each in changes(result)), next(iter(refused.values())))
    return lines, result, refused


def _hosts(shifts: Iterable[_Shift], why: Callable[[_Shift], str | None] = lambda _: None) -> Iterator[Move]:
    for shift in shifts:
        yield msgspec.structs.replace(shift.move, why=why(shift))


def _changes(drifts: Iterable[Drift], why: Callable[[Drift], str | None] = lambda _: None) -> Iterator[Move]:
    for drift in drifts:
        for fact, old, new in _facts(drift):
            yield Move(fact, old, new, drift.guest, drift.new.bridge, drift.index, why(drift))


def _address(nic: Interface) -> str:
    """Return the address of an interface, with those that OVN's DHCP gives it, and that of IPv6."""
    more = (*nic.leases, nic.ipv6)
    return " ".join((f"{nic.ip}/{nic.prefix_length}", *(each for each in more if each is not None)))


def _facts(drift: Drift) -> Iterator[tuple[Fact, str, str]]:
    """Yield what differs between the two."""
    old, new = drift.old, drift.new
    pairs = (
        (Fact.ADDRESS, _address(old), _address(new)),
        # a first gateway, or none any more, follows from what is connected to the external bridge
        (Fact.GATEWAY, old.gateway or new.gateway, new.gateway or old.gateway),
        (Fact.MAC, old.mac, new.mac),
        (Fact.MTU, str(old.mtu), str(new.mtu)),
        (Fact.TAP, old.target, new.target),
    )
    for fact, was, is_now in pairs:
        if was != is_now:
            yield fact, str(was), str(is_now)
