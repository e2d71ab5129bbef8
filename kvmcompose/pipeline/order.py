"""``depends_on`` and ``healthcheck`` of machines: reading them, and what a schema cannot express."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from kvmcompose.core.document import Path
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.order import Condition, Healthcheck
from kvmcompose.guests import guest_kind

#: Dependencies of guests on guests in a testbed: those of machines with many clones multiply.
MOST_DEPENDENCIES = 100_000
#: The shortest and the longest of each time, in seconds. Docker has no longest; a check holds up others.
_LIMITS = {"interval": (0.1, 3600.0), "timeout": (0.1, 600.0), "start_period": (0.0, 86400.0)}
_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: What a list in Docker Compose's ``test`` begins with, and what to write here.
_COMPOSE = {
    "CMD": "leave it out",
    "CMD-SHELL": "write the line alone, without a list: sh -c runs it",
    "NONE": "a machine without 'healthcheck' has none",
}
#: Of so many machines a cycle is shown whole, and so many cycles are reported.
_MOST_SHOWN, _MOST_CYCLES = 8, 10


def depends_on(value: Any) -> dict[str, Condition]:
    """Return the names in ``depends_on``, which has the right shape, with their conditions."""
    if isinstance(value, dict):
        return {name: Condition((body or {}).get("condition", "started")) for name, body in value.items()}
    return dict.fromkeys(value or (), Condition.STARTED)


def healthcheck(value: dict[str, Any] | None) -> Healthcheck | None:
    """Return ``healthcheck``, which has the right shape, with times in seconds."""
    if value is None:
        return None
    times = {key: seconds(value[key]) for key in _LIMITS if key in value}
    return msgspec.convert({**value, **times}, Healthcheck)


def seconds(value: float | str) -> float:
    """Return a time, as the schema allows it, in seconds: ``90`` and ``1m30s`` are the same."""
    if not isinstance(value, str):
        return float(value)
    return round(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)), 3)


def dependencies(guests: Sequence[Guest]) -> dict[str, dict[str, Condition]]:
    """Return what each guest that starts depends on, with names of guests in place of those of machines."""
    named = _guests_by_name(guests)
    return {
        guest.name: {
            other: condition
            for name, condition in guest.machine.depends_on.items()
            for other in named.get(name, ())
        }
        for guest in guests
        if guest.machine.depends_on and not guest.is_golden_image
    }


def _guests_by_name(guests: Iterable[Guest]) -> dict[str, list[str]]:
    """Return the guests that a name means: itself, or for a machine with clones, these."""
    found: dict[str, list[str]] = {}
    for guest in guests:
        if guest.is_golden_image:
            continue
        for name in dict.fromkeys((guest.machine.name, guest.name)):
            found.setdefault(name, []).append(guest.name)
    return found


def check_order(machines: Sequence[Machine], guests: Sequence[Guest]) -> Iterator[Complaint]:
    """Yield names that there are not, conditions that cannot come true, cycles, and times out of range."""
    named = {each.name: each for each in machines}
    named |= {guest.name: guest.machine for guest in guests if not guest.is_golden_image}
    counts: dict[str, int] = {}
    first: dict[str, Guest] = {}
    for guest in guests:
        if not guest.is_golden_image:
            counts[guest.machine.name] = counts.get(guest.machine.name, 0) + 1
            first.setdefault(guest.machine.name, guest)
    total = 0
    for each in machines:
        yield from _check_health(each, first.get(each.name))
        for position, (name, condition) in enumerate(each.depends_on.items()):
            at = _place(each, name, position)
            other = named.get(name)
            if other is None:
                yield _unknown(at, name, named)
            elif other.name == each.name:
                yield Complaint(
                    code="dependency-cycle",
                    path=at,
                    at_key=each.depends_on_is_map,
                    message=f"{each.name!r} cannot depend on itself",
                    found=repr(name) if name != each.name else None,
                )
            else:
                yield from _check_condition(each, at, name, condition, first.get(other.name))
                total += counts.get(each.name, 0) * (counts.get(name, 0) if name == other.name else 1)
    if total > MOST_DEPENDENCIES:
        yield Complaint(
            code="too-many",
            path=("machines",),
            message=f"the guests depend {total} times on others",
            wanted=f"at most {MOST_DEPENDENCIES} dependencies; each clone depends on each one that is named",
            hint="let all clones depend on one guest, and that one on the others",
        )
    yield from _check_cycles(machines, named)


def _place(machine: Machine, name: str, position: int) -> Path:
    return ("machines", machine.index, "depends_on", name if machine.depends_on_is_map else position)


def _unknown(at: Path, name: str, named: Mapping[str, Machine]) -> Complaint:
    near = difflib.get_close_matches(name, named, 1)
    return Complaint(
        code="unknown-guest",
        path=at,
        at_key=isinstance(at[-1], str),
        message=f"there is no guest {name!r}",
        wanted="the name of a guest or of a machine (for all its clones)",
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _check_health(machine: Machine, guest: Guest | None) -> Iterator[Complaint]:
    check = machine.healthcheck
    if check is None:
        return
    at = ("machines", machine.index, "healthcheck")
    if isinstance(check.command, str) and not check.command.strip():
        yield Complaint(code="empty-value", path=(*at, "command"), message="the command is empty")
    elif not isinstance(check.command, str) and not check.command[0]:
        yield Complaint(code="empty-value", path=(*at, "command", 0), message="the command is empty")
    elif not isinstance(check.command, str) and check.command[0] in _COMPOSE:
        yield Complaint(
            code="bad-value",
            path=(*at, "command", 0),
            message="this word is Docker Compose's, and no command",
            found=check.command[0],
            wanted="the command and its arguments",
            hint=_COMPOSE[check.command[0]],
        )
    for key, (least, most) in _LIMITS.items():
        value: float = getattr(check, key)
        if not least <= value <= most:
            yield Complaint(
                code="out-of-range",
                path=(*at, key),
                message="the time is too short" if value < least else "the time is too long",
                found=f"{value:g} s",
                wanted=f"{least:g} to {most:g} seconds",
            )
    if guest is not None and not guest_kind(guest.kind).can_be_entered(guest):
        yield Complaint(
            code="needs-cloud-init",
            path=at,
            at_key=True,
            message=f"the healthcheck cannot run in {machine.name!r}: nothing can log in to it",
            hint="of libvirt guests, only those with a cloud_image, or with 'ready: agent', can be entered",
        )


def _check_condition(
    machine: Machine, at: Path, name: str, condition: Condition, other: Guest | None
) -> Iterator[Complaint]:
    if other is None or condition is Condition.STARTED:
        return
    if condition is Condition.HEALTHY:
        if other.machine.healthcheck is None:
            yield Complaint(
                code="no-healthcheck",
                path=(*at, "condition"),
                message=f"{machine.name!r} waits for {name!r} to be healthy, which has no healthcheck",
                hint=f"add 'healthcheck' to the machine {other.machine.name!r}, or wait for 'reachable'",
            )
    elif not guest_kind(other.kind).says_when_ready(other):
        yield Complaint(
            code="needs-cloud-init",
            path=(*at, "condition"),
            message=f"whether {name!r} is {condition.replace('_', ' ')} cannot be found out: nothing says"
            " when it is ready",
            hint="of libvirt guests, only those with a cloud_image, or with 'ready', say so; use 'started'",
        )


def _check_cycles(machines: Sequence[Machine], named: Mapping[str, Machine]) -> Iterator[Complaint]:
    """Yield cycles, each at its first machine in the file.

    All clones of a machine depend on the same guests, so that machines make a cycle exactly if guests do.
    """
    after = {
        each.name: [
            other.name
            for name in each.depends_on
            if (other := named.get(name)) is not None and other.name != each.name
        ]
        for each in machines
    }
    by_name = {each.name: each for each in machines}
    for cycle in cycles(after):
        yield _cycle(by_name[cycle[0]], cycle[1], cycle, named)


def cycles(after: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield the first cycles of names that come after others, each from its first name in ``after``.

    No name may come after itself.
    """
    left = dict(after)
    numbers = {name: number for number, name in enumerate(after)}
    for _ in range(_MOST_CYCLES):
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            # each one comes before the next: what depends on it
            cycle = list(reversed(error.args[1]))[:-1]
            start = min(range(len(cycle)), key=lambda number: numbers[cycle[number]])
            cycle = [*cycle[start:], *cycle[:start]]
            yield cycle
            left[cycle[0]] = [each for each in left[cycle[0]] if each != cycle[1]]
        else:
            return


def in_words(cycle: Sequence[str], what: str) -> str:
    """Return a cycle of ``what`` (machines, guests) for a message, shortened: ``a -> b -> a``."""
    whole = len(cycle) <= _MOST_SHOWN
    shown = cycle if whole else [*cycle[: _MOST_SHOWN - 2], f"… ({len(cycle)} {what})", cycle[-1]]
    return f"the {what} depend on each other: {' -> '.join([*shown, cycle[0]])}"


def _cycle(machine: Machine, then: str, cycle: Sequence[str], named: Mapping[str, Machine]) -> Complaint:
    names = list(machine.depends_on)
    name = next(each for each in names if (found := named.get(each)) is not None and found.name == then)
    at = _place(machine, name, names.index(name))
    return Complaint(
        code="dependency-cycle",
        path=at,
        at_key=machine.depends_on_is_map,
        message=in_words(cycle, "machines"),
        wanted="an order in which each can start after those that it depends on",
        hint="remove one of these dependencies",
    )
