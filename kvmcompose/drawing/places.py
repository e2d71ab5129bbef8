"""Which place of a picture belongs to what: a grid for each host, kept when the testbed changes.

Who was there stays; who is new gets a free place, or one below. The same graph without earlier places gets
the same places each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from types import MappingProxyType

import msgspec

from kvmcompose.drawing.graph import Graph, Node

#: Kinds of nodes that guests are connected to.
SEGMENTS = frozenset({"bridge", "switch"})
#: Kinds of nodes outside hosts, by the row of the fabric that they are in, from top to bottom.
_FABRIC = {"network": 0, "router": 1, "switch": 2}
_ROWS = 3
#: The most guests in a row of a host, and hosts that are in one row at any rate.
_MOST_COLUMNS, _ONE_ROW = 8, 5
#: About how wide and high a guest is with the room around it, a host without guests, and a window, in pixels;
#: and what is above and below all hosts.
_GUEST_SIZE, _HOST_SIZE, _WINDOW, _AROUND = (170, 90), (110, 180), (1200, 520), 50


class Block(msgspec.Struct, frozen=True):
    """A part of a host's grid: a segment, and the guests whose first interface is on it, row by row.

    An empty name is a free place. ``segment`` is empty for guests without interfaces.
    """

    segment: str
    guests: tuple[str, ...] = ()


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """The grid of a host: ``width`` guests in a row, its blocks from top to bottom.

    ``row`` is the row of hosts that it is in, from 0 at the top.
    """

    host: str
    width: int
    blocks: tuple[Block, ...] = ()
    row: int = 0


class Grid(msgspec.Struct, frozen=True):
    """The grids of hosts, in each row from left to right.

    Above them are rows of what is on no host or on several.
    """

    columns: tuple[Column, ...] = ()
    fabric: tuple[tuple[str, ...], ...] = ((),) * _ROWS


class Homes:
    """Where the nodes of a graph belong: hosts, and the segments of guests."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: Mapping[str, Node] = {node.name: node for node in graph.nodes}
        self.segments = [node.name for node in graph.nodes if node.kind in SEGMENTS]
        self.fabric = [
            [node.name for node in graph.nodes if _FABRIC.get(node.kind) == row] for row in range(_ROWS)
        ]
        outside = {name for row in self.fabric for name in row}
        self.guests = [
            node.name for node in graph.nodes if node.name not in outside and node.kind not in SEGMENTS
        ]
        self._by_host: dict[str, list[str]] = {}
        for name in self.guests:
            self._by_host.setdefault(self.nodes[name].group, []).append(name)
        self.hosts = list(dict.fromkeys([*graph.hosts, *(self.nodes[name].group for name in self.guests)]))
        self.connected: dict[str, list[str]] = {name: [] for name in self.guests}
        known = set(self.segments)
        for edge in graph.edges:
            segments = self.connected.get(edge.source)
            if segments is not None and edge.target in known and edge.target not in segments:
                segments.append(edge.target)

    def home(self, guest: str) -> str:
        """Return the segment of a guest's first interface; empty if it has none."""
        return next(iter(self.connected[guest]), "")

    def on(self, host: str) -> dict[str, list[str]]:
        """Return the segments that a host has a part of, each with the guests that are at home there."""
        guests = self._by_host.get(host, [])
        present = {segment for name in guests for segment in self.connected[name]}
        found: dict[str, list[str]] = {
            name: [] for name in self.segments if name in present or self.nodes[name].group == host
        }
        for name in guests:
            found.setdefault(self.home(name), []).append(name)
        return found


def arrange(
    graph: Graph, before: Grid | None = None, widths: Mapping[str, int] = MappingProxyType({})
) -> Grid:
    """Return the places of all nodes; those of ``before`` are kept as far as their hosts and segments are.

    ``widths`` are how many guests a new host has in a row at least.
    """
    before = before or Grid()
    homes = Homes(graph)
    kept = [column for column in before.columns if column.host in homes.hosts]
    wanted = {host: homes.on(host) for host in homes.hosts}
    new = {
        host: (sum(len(guests) for guests in wanted[host].values()), widths.get(host, 1))
        for host in homes.hosts
        if host not in {column.host for column in kept}
    }
    across = _across(kept, list(new.values()))
    rows = -(-len(wanted) // across)
    columns = [_kept_column(column, wanted[column.host]) for column in kept]
    for host, row in zip(new, _free_rows(kept, across), strict=False):
        guests, least = new[host]
        width = max(least, _width(guests, min(across, len(wanted)), rows))
        columns.append(Column(host, width, _filled(wanted[host].items(), width), row))
    columns.sort(key=lambda column: column.row)
    fabric = tuple(_kept(row, old) for row, old in zip(homes.fabric, before.fabric, strict=True))
    return Grid(tuple(columns), fabric)


def _kept(names: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return the names in their old places; new ones fill free places, then follow."""
    wanted, old = set(names), set(before)
    new = (name for name in names if name not in old)
    filled = [name if name in wanted else next(new, "") for name in before]
    while filled and not filled[-1]:
        filled.pop()
    return (*filled, *new)


def _across(kept: Sequence[Column], new: Sequence[tuple[int, int]]) -> int:
    """Return how many hosts are in a row: as many as before, or so many that the picture is large.

    ``new`` has for each host how many guests are on it, and in a row of it at least.
    """
    if kept or len(new) <= _ONE_ROW:
        return max(_ONE_ROW, *Counter(column.row for column in kept).values(), 0)
    guests, least = (max(each) for each in zip(*new, strict=True))

    def shrunk(rows: int) -> float:
        across = -(-len(new) // rows)
        return _shrunk(guests, max(least, _width(guests, across, rows)), across, rows)

    return -(-len(new) // min(range(1, len(new)), key=shrunk))


def _free_rows(kept: Iterable[Column], across: int) -> Iterator[int]:
    """Yield the rows of hosts that are new: one after the other, as far as there is room in them."""
    taken = Counter(column.row for column in kept)
    for row in count():
        yield from repeat(row, across - taken[row])


def _kept_column(before: Column, wanted: Mapping[str, Sequence[str]]) -> Column:
    there = {(block.segment, name) for block in before.blocks for name in block.guests if name}
    new = {
        segment: [name for name in guests if (segment, name) not in there]
        for segment, guests in wanted.items()
    }
    blocks = [_refilled(block, wanted.get(block.segment, ()), new) for block in before.blocks]
    if blocks:  # the last one can grow
        segment, guests = blocks[-1]
        guests += new.get(segment, [])
        new[segment] = []
    known = {segment for segment, _ in blocks}
    blocks += [(segment, guests) for segment, guests in new.items() if guests or segment not in known]
    while blocks and _is_spare(*blocks[-1], blocks[:-1], wanted):
        blocks.pop()
    return Column(before.host, before.width, _filled(blocks, before.width), before.row)


def _refilled(block: Block, wanted: Collection[str], new: Mapping[str, list[str]]) -> tuple[str, list[str]]:
    """Return a block with the guests that are still there; new ones take free places."""
    waiting = new.get(block.segment, [])
    kept = [name if name in wanted else "" for name in block.guests]
    return block.segment, [name or (waiting.pop(0) if waiting else "") for name in kept]


def _filled(blocks: Iterable[tuple[str, Sequence[str]]], width: int) -> tuple[Block, ...]:
    """Return blocks with whole rows, so that what is below one stays where it is; the last one has no end."""
    rows = [Block(segment, (*guests, *[""] * (-len(guests) % width))) for segment, guests in blocks]
    if rows:
        guests = rows[-1].guests
        while guests and not guests[-1]:
            guests = guests[:-1]
        rows[-1] = Block(rows[-1].segment, guests)
    return tuple(rows)


def _is_spare(
    segment: str,
    guests: Sequence[str],
    others: Iterable[tuple[str, Sequence[str]]],
    wanted: Container[str],
) -> bool:
    """Return whether a block holds nothing, and its segment is gone or has another block."""
    return not any(guests) and (segment not in wanted or segment in {name for name, _ in others})


def _width(guests: int, across: int, rows: int) -> int:
    """Return how many guests of a host are in a row: so many that the picture is large in a window.

    ``across`` hosts are in a row of hosts.
    """
    return min(range(1, _MOST_COLUMNS + 1), key=lambda width: _shrunk(guests, width, across, rows))


def _shrunk(guests: int, width: int, across: int, rows: int) -> float:
    """Return by how much a picture is larger than a window."""
    wide = across * (_HOST_SIZE[0] + width * _GUEST_SIZE[0])
    high = _AROUND + rows * (_HOST_SIZE[1] + -(-guests // width) * _GUEST_SIZE[1])
    return max(wide / _WINDOW[0], high / _WINDOW[1])
