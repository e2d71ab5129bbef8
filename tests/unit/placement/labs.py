"""Testbeds for tests of placement, without YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import msgspec
import yaml
from hypothesis import strategies as st

from golden.memory import compile_text, host
from kvmcompose.core.model import Constraints, Host, LogicalTestbed, Placement

BODY = "libvirt: {cpus: %d, memory_mb: %d, libvirt_type: {cloud_image: {name: debian_12}}}"


@dataclass
class Lab:
    """``guests``: the bridges, CPUs and MiB of each; ``links`` between bridges; capacities of hosts."""

    guests: list[tuple[list[int], int, int]]
    bridges: int
    links: list[tuple[int, int]] = field(default_factory=list)
    capacities: Sequence[tuple[int | None, int | None]] = ((None, None), (None, None))
    constraints: str = "{}"

    def text(self, strategy: str) -> str:
        machines = "".join(
            f"  - {{name: g{number}, interfaces: [{', '.join(f'{{bridge: b{each}}}' for each in on)}], "
            f"{BODY % (cpus, memory)}}}\n"
            for number, (on, cpus, memory) in enumerate(self.guests)
        )
        names = ", ".join(f"{{name: b{number}}}" for number in range(self.bridges))
        links = ", ".join(f"[b{one}, b{other}]" for one, other in self.links)
        return (
            f"machines:\n{machines}network: {{bridges: [{names}], bridge_connections: [{links}]}}\n"
            f"testbed_options: {{load_balancing: {strategy}, placement: {self.constraints}}}\n"
        )

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(
            host(f"h{number}", f"192.0.2.{number + 1}", main=number == 0, cpus=cpus, memory_mb=memory)
            for number, (cpus, memory) in enumerate(self.capacities)
        )

    def logical(self) -> LogicalTestbed:
        """Return the testbed, even if no strategy can place it."""
        free = Lab(self.guests, self.bridges, self.links, [(None, None)])
        constraints = msgspec.convert(yaml.safe_load(self.constraints), Constraints)
        return msgspec.structs.replace(free.placed("pack")[0], hosts=self.hosts, constraints=constraints)

    def placed(self, strategy: str) -> tuple[LogicalTestbed, Placement]:
        placed = compile_text(self.text(strategy), on=self.hosts).placed
        return placed.logical, placed.placement


def tunnels(logical: LogicalTestbed, segments: dict[str, str]) -> int:
    return sum(segments[link.source] != segments[link.target] for link in logical.topology.links)


def reach(logical: LogicalTestbed, name: str) -> set[str]:
    """Return the bridges that a name refers to."""
    found = {
        attachment.segment
        for guest in logical.guests
        if name in (guest.name, guest.machine.name)
        for attachment in guest.attachments
    }
    return found or {name}


def is_right(logical: LogicalTestbed, segments: dict[str, str]) -> bool:
    """Check the constraints independently of the code under test."""
    room = {each.name: [each.cpus, each.memory_mb] for each in logical.hosts}
    for guest in logical.guests:
        hosts = {segments[attachment.segment] for attachment in guest.attachments}
        if len(hosts) > 1:
            return False
        for index, need in enumerate((guest.cpus, guest.memory_mb)):
            left = room[min(hosts)][index]
            room[min(hosts)][index] = None if left is None else left - need
    constraints: Constraints = logical.constraints
    return (
        all(left is None or left >= 0 for capacities in room.values() for left in capacities)
        and all(segments[each] == to for name, to in constraints.pin.items() for each in reach(logical, name))
        and all(
            len({segments[each] for name in names for each in reach(logical, name)}) == 1
            for names in constraints.together
        )
        and not any(
            {segments[each] for each in reach(logical, one)}
            & {segments[each] for each in reach(logical, two)}
            for names in constraints.apart
            for number, one in enumerate(names)
            for two in names[:number]
        )
    )


def every_placement(logical: LogicalTestbed) -> list[dict[str, str]]:
    """Return all valid placements, by trying all possible ones."""
    names = [segment.name for segment in logical.topology.segments]
    every = product([each.name for each in logical.hosts], repeat=len(names))
    return [found for hosts in every if is_right(logical, found := dict(zip(names, hosts, strict=True)))]


ROOM = st.one_of(st.none(), st.integers(1, 12))


@st.composite
def labs(draw: st.DrawFn, *, several: bool = True) -> Lab:
    """Return small testbeds, many of which cannot be placed."""
    bridges = draw(st.integers(1, 5))
    some = st.lists(st.integers(0, bridges - 1), min_size=1, max_size=2 if several else 1, unique=True)
    guests = draw(st.lists(st.tuples(some, st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6))
    joined = [(draw(st.integers(0, number - 1)), number) for number in range(1, bridges)]
    links = [link for link in joined if draw(st.booleans()) or draw(st.booleans())]
    capacities = draw(st.lists(st.tuples(ROOM, ROOM), min_size=1, max_size=3))
    named = st.sampled_from([*(f"b{n}" for n in range(bridges)), *(f"g{n}" for n in range(len(guests)))])
    pins = draw(
        st.dictionaries(named, st.sampled_from([f"h{n}" for n in range(len(capacities))]), max_size=1)
    )
    lists = st.lists(st.lists(named, min_size=2, max_size=3, unique=True), max_size=1)
    constraints = (
        f"{{pin: {{{', '.join(f'{name}: {to}' for name, to in pins.items())}}}, "
        f"together: {_lists(draw(lists))}, apart: {_lists(draw(lists))}}}"
    )
    scaled = [(on, cpus, memory * 100) for on, cpus, memory in guests]
    scaled_capacities = [(cpus, None if memory is None else memory * 100) for cpus, memory in capacities]
    return Lab(scaled, bridges, links, scaled_capacities, constraints)


def _lists(lists: list[list[str]]) -> str:
    return "[" + ", ".join("[" + ", ".join(names) + "]" for names in lists) + "]"
