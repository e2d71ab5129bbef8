"""The picture of a topology as boxes and lines, from its places. All lengths are in CSS pixels.

Lines run along the rows and columns between boxes, never behind them: from a box into the gutter of its host,
and between hosts through the channel above them. Between rows of hosts they run down the trunk, left of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import msgspec

from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import SEGMENTS, Block, Column, Grid, Homes

CARD_WIDTH, CARD_HEIGHT = 156, 60
BAR_HEIGHT = 24
FABRIC_WIDTH, FABRIC_HEIGHT = 190, 60
#: Beside the blocks of a host, for lines to other hosts. There are fewer on the right.
GUTTER = 64

_MARGIN = 24
_CARD_GAP = 14
#: Between two rows of guests: the rail above the lower one, and the track below the upper one.
_ROW_GAP = 30
_RAIL, _TRACK = 10, 8
_BLOCK_GAP = 20
_RIGHT = 36
_TITLE, _BOTTOM = 44, 18
_AREA_GAP = 28
_FABRIC_GAP = 44
#: Lines side by side: how far apart, and after how many the first track is used again.
_STEP, _TRACKS = 7, 7
#: Between a line of the fabric and the box below: room for a label. How many such lines are side by side.
_LABEL, _LEVELS = 18, 3
_CHANNEL = _STEP * _TRACKS + 22
#: A label: its height, how wide a character of it is, and all of it at most. Beside an upright line there is
#: a gap; above a level one, half of its own width.
_LINE_HEIGHT, LABEL_PIXELS, _WIDEST = 12, 5.9, 170
_BESIDE, _LINE = 5, 2
#: Between two levels of a channel: room for a label. Above the highest one there is a gap, too.
_LEVEL, _ABOVE = _LINE_HEIGHT + 4, 22
#: Left of hosts in several rows.
_TRUNK = _STEP * _TRACKS + 7


class Point(msgspec.Struct, frozen=True):
    """A point; y grows downwards."""

    x: float
    y: float


class Box(msgspec.Struct, frozen=True):
    """A rectangle: its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        """The x of its centre."""
        return self.x + self.width / 2

    @property
    def right(self) -> float:
        """The x of its right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y of its lower side."""
        return self.y + self.height


class Bar(msgspec.Struct, frozen=True):
    """The part of a segment that is on a host, above the guests that are at home on it."""

    segment: str
    host: str
    box: Box


class Line(msgspec.Struct, frozen=True):
    """A line through points. ``segment`` is what it belongs to, ``label`` what is said of it.

    ``wide`` lines are those between segments.
    """

    source: str
    target: str
    points: tuple[Point, ...]
    segment: str
    label: str = ""
    wide: bool = False


class Label(msgspec.Struct, frozen=True):
    """What is written at a line between segments, and where: no line and no box is there."""

    text: str
    box: Box


class Layout(msgspec.Struct, frozen=True):
    """All boxes and lines of a picture. ``cards`` are guests, ``fabric`` is what is on no host."""

    width: float
    height: float
    hosts: Mapping[str, Box]
    fabric: Mapping[str, Box]
    bars: tuple[Bar, ...]
    cards: Mapping[str, Box]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]


def layout(graph: Graph, places: Grid) -> Layout:
    """Return where everything is drawn. ``places`` are those of this graph."""
    return _Layout(graph, places).layout()


def _width(label: str) -> float:
    """Return how wide a label is; a longer one is shortened to that."""
    return min(_WIDEST, len(label) * LABEL_PIXELS)


class _Layout:
    def __init__(self, graph: Graph, places: Grid) -> None:
        self._graph = graph
        self._homes = Homes(graph)
        self._places = places
        self._fabric: dict[str, Box] = {}
        self._hosts: dict[str, Box] = {}
        self._bars: list[Bar] = []
        self._cards: dict[str, Box] = {}
        #: The bar below which a guest is.
        self._above: dict[str, Bar] = {}
        #: Where rows of hosts begin, and in which of them each is.
        self._tops: dict[int, float] = {}
        self._rows = {column.host: column.row for column in places.columns}
        self._left = _MARGIN + (_TRUNK if len(set(self._rows.values())) > 1 else 0)
        self._tracks = 0
        #: The levels of the channel above each row of hosts: what is taken of each, from left to right.
        self._levels: defaultdict[int, list[list[tuple[float, float]]]] = defaultdict(list)
        #: Those of lines between hosts, by the edge, and the labels that have their room on them.
        self._level_of: dict[tuple[int, int], int] = {}
        self._labels: list[Label] = []
        #: How many lines there are between hosts and what is on none, and how many are drawn.
        self._downs = self._down_number = 0
        #: How many labels there are above what is on no host.
        self._written: dict[Box, int] = {}

    def layout(self) -> Layout:
        top, edges = self._place_fabric(), self._graph.edges
        self._place_hosts(top)  # from left to right they are where they stay
        self._downs = sum((edge.source in self._fabric) != (edge.target in self._fabric) for edge in edges)
        self._take_levels()
        self._place_hosts(top)
        lines = (*self._home_lines(), *self._edge_lines(), *self._part_lines())
        boxes = [*self._hosts.values(), *self._fabric.values()]
        return Layout(
            width=max((box.right for box in boxes), default=0) + _MARGIN,
            height=max((box.bottom for box in boxes), default=0) + _MARGIN,
            hosts=self._hosts,
            fabric=self._fabric,
            bars=tuple(self._bars),
            cards=self._cards,
            lines=lines,
            labels=tuple(self._labels),
        )

    def _place_fabric(self) -> float:
        """Place what is on no host. Returns where the hosts begin."""
        y: float = _MARGIN
        for row in self._places.fabric:
            for number, name in enumerate(row):
                if name:
                    x = self._left + GUTTER + number * (FABRIC_WIDTH + _FABRIC_GAP)
                    self._fabric[name] = Box(x, y, FABRIC_WIDTH, FABRIC_HEIGHT)
            if any(row):
                y += FABRIC_HEIGHT + _FABRIC_GAP
        return y - _FABRIC_GAP if self._fabric else y

    def _has_links(self) -> bool:
        """Return whether there may be lines that leave a host."""
        return bool(self._fabric) or any(self._is_between_hosts(edge) for edge in self._graph.edges)

    def _is_between_hosts(self, edge: Edge) -> bool:
        ends = [self._homes.nodes.get(name) for name in (edge.source, edge.target)]
        return all(node is not None and node.kind == "bridge" for node in ends)

    def _place_hosts(self, y: float) -> None:
        self._bars.clear()
        for row, columns in groupby(self._places.columns, key=lambda column: column.row):
            if self._has_links():
                above = _STEP * min(_TRACKS, self._downs) if self._levels[row] else 0
                y += max(_CHANNEL, _LEVEL * len(self._levels[row]) + above + _ABOVE)
            elif row:
                y += _AREA_GAP
            self._tops[row] = y
            self._place_row(columns, y)
            y = max(box.bottom for box in self._hosts.values())

    def _take_levels(self) -> None:
        """Give each line between hosts a level of the channels that it runs through, with room for its label.

        Lines that are nowhere above each other share one.
        """
        for number, edge in enumerate(self._graph.edges):
            bars = self._tunnel(edge)
            if bars is None:
                continue
            for row, (left, right) in self._spans(bars, edge.label).items():
                levels = self._levels[row]
                level = next(
                    (
                        level
                        for level, taken in enumerate(levels)
                        if all(right + _STEP < begin or end + _STEP < left for begin, end in taken)
                    ),
                    len(levels),
                )
                if level == len(levels):
                    levels.append([])
                levels[level].append((left, right))
                self._level_of[number, row] = level

    def _tunnel(self, edge: Edge) -> tuple[Bar, Bar] | None:
        """Return the ends of a line between two hosts, the left one of the upper row first."""
        ends = [self._homes.nodes.get(name) for name in (edge.source, edge.target)]
        if not self._is_between_hosts(edge):
            return None
        bars = [self._bar(node.name, node.group) for node in ends if node is not None]
        if bars[0] is None or bars[1] is None or bars[0].host == bars[1].host:
            return None
        first, second = sorted(
            (bar for bar in bars if bar is not None), key=lambda bar: (self._rows[bar.host], bar.box.x)
        )
        return first, second

    def _spans(self, bars: tuple[Bar, Bar], label: str) -> Mapping[int, tuple[float, float]]:
        """Return what a line takes of the channels above rows of hosts; its label is above the first host."""
        first, second = bars
        rows = [self._rows[bar.host] for bar in bars]
        if rows[0] == rows[1]:
            return {rows[0]: (first.box.x - GUTTER, max(second.box.x, first.box.x + _width(label)))}
        return {
            rows[0]: (0, first.box.x + _width(label)),
            rows[1]: (0, second.box.x),
        }

    def _place_row(self, columns: Iterable[Column], top: float) -> None:
        x: float = self._left
        for column in columns:
            width = column.width * (CARD_WIDTH + _CARD_GAP) - _CARD_GAP
            y = top + _TITLE
            present = self._homes.on(column.host)
            for block in column.blocks:
                y = self._place_block(column, block, x + GUTTER, y, drawn=block.segment in present)
            box = Box(x, top, GUTTER + width + _RIGHT, y - top - _BLOCK_GAP + _BOTTOM)
            self._hosts[column.host] = box
            x += box.width + _AREA_GAP

    def _place_block(self, column: Column, block: Block, x: float, y: float, *, drawn: bool) -> float:
        """Place the bar and the guests of a block, and return where the next one begins."""
        bar = None
        if block.segment:
            width = column.width * (CARD_WIDTH + _CARD_GAP) - _CARD_GAP
            bar = Bar(block.segment, column.host, Box(x, y, width, BAR_HEIGHT))
            if drawn:
                self._bars.append(bar)
            y += BAR_HEIGHT + _ROW_GAP - _TRACK
        for number, name in enumerate(block.guests):
            row, slot = divmod(number, column.width)
            if not name:
                continue
            self._cards[name] = Box(
                x + slot * (CARD_WIDTH + _CARD_GAP),
                y + row * (CARD_HEIGHT + _ROW_GAP),
                CARD_WIDTH,
                CARD_HEIGHT,
            )
            if bar is not None:
                self._above[name] = bar
        rows = -(-len(block.guests) // column.width)
        return y + rows * (CARD_HEIGHT + _ROW_GAP) - (_ROW_GAP - _TRACK if rows else 0) + _BLOCK_GAP

    def _home_lines(self) -> Iterator[Line]:
        """Yield the lines of first interfaces: from the bar, or from a rail above the row of guests."""
        labels: dict[tuple[str, str], str] = {}
        for edge in self._graph.edges:
            labels.setdefault((edge.source, edge.target), edge.label)
        for name, bar in self._above.items():
            card = self._cards[name]
            rail = card.y - _RAIL
            left = bar.box.x - _STEP
            direct = card.y - bar.box.bottom < CARD_HEIGHT
            points = (
                (Point(card.centre, bar.box.bottom), Point(card.centre, card.y))
                if direct
                else (
                    Point(bar.box.x, bar.box.y + BAR_HEIGHT / 2),
                    Point(left, bar.box.y + BAR_HEIGHT / 2),
                    Point(left, rail),
                    Point(card.centre, rail),
                    Point(card.centre, card.y),
                )
            )
            yield Line(name, bar.segment, points, bar.segment, labels.get((name, bar.segment), ""))

    def _edge_lines(self) -> Iterator[Line]:
        """Yield the lines of further interfaces, and those between segments, routers and networks."""
        done: set[tuple[str, str]] = set()
        for number, edge in enumerate(self._graph.edges):
            pair = (edge.source, edge.target)
            source, target = (self._homes.nodes.get(name) for name in pair)
            if source is None or target is None:
                continue
            if edge.source in self._cards:
                above = self._above.get(edge.source)
                first = above is not None and above.segment == edge.target and pair not in done
                done.add(pair)
                if target.kind in SEGMENTS and not first:
                    yield from self._further(edge)
            elif edge.source in self._fabric and edge.target in self._fabric:
                yield self._in_fabric(edge)
            elif edge.source in self._fabric or edge.target in self._fabric:
                inside, outside = (target, source) if edge.source in self._fabric else (source, target)
                bar = self._bar(inside.name, inside.group)
                if bar is not None:
                    yield self._down(edge, outside, bar)
            elif (line := self._between(edge, number, source, target)) is not None:
                yield line

    def _bar(self, segment: str, host: str) -> Bar | None:
        """Return the first part of a segment on a host."""
        return next((bar for bar in self._bars if (bar.segment, bar.host) == (segment, host)), None)

    def _further(self, edge: Edge) -> Iterator[Line]:
        """Yield the line of an interface that is not the first: below the row, up the right side."""
        card = self._cards[edge.source]
        bar = self._bar(edge.target, self._homes.nodes[edge.source].group)
        if bar is None:
            return
        x = bar.box.right + self._track() * _STEP / 2 + _STEP
        y = bar.box.y + BAR_HEIGHT / 2
        below = card.bottom + _TRACK
        points = (
            Point(card.centre, card.bottom),
            Point(card.centre, below),
            Point(x, below),
            Point(x, y),
            Point(bar.box.right, y),
        )
        yield Line(edge.source, edge.target, points, edge.target, edge.label)

    def _write(self, text: str, left: float, bottom: float) -> None:
        """Write a label from a point on, above which it is."""
        self._labels.append(Label(text, Box(left, bottom - _LINE_HEIGHT, _width(text), _LINE_HEIGHT)))

    def _track(self) -> int:
        """Return the number of the track that the next line takes."""
        self._tracks += 1
        return (self._tracks - 1) % _TRACKS

    def _in_fabric(self, edge: Edge) -> Line:
        upper, lower = sorted((self._fabric[edge.source], self._fabric[edge.target]), key=lambda box: box.y)
        middle = lower.y - _LABEL - (self._track() % _LEVELS) * _STEP
        if edge.label:
            count = self._written.get(lower, 0)
            self._written[lower] = count + 1
            left = lower.centre + (_BESIDE if count == 0 else -_BESIDE - _width(edge.label))
            if count <= 1:  # the title of the box has all
                self._write(edge.label, left, lower.y - 1)
        points = (
            Point(upper.centre, upper.bottom),
            Point(upper.centre, middle),
            Point(lower.centre, middle),
            Point(lower.centre, lower.y),
        )
        ends = [self._homes.nodes[name] for name in (edge.source, edge.target)]
        segment = next((node.name for node in ends if node.kind in SEGMENTS), "")
        return Line(edge.source, edge.target, points, segment, edge.label, wide=True)

    def _gutter(self, bar: Bar, track: int, above: float) -> Point:
        """Return where a track in the gutter of a bar's host comes to a line so far above the host."""
        x = bar.box.x - 2 * _STEP - track * _STEP
        return Point(x, self._tops[self._rows[bar.host]] - above)

    def _down_height(self, row: int, track: int) -> float:
        """Return how far above a row of hosts a line to what is on none runs: above all labels."""
        levels = len(self._levels[row])
        return _LEVEL * levels + _STEP * ((self._down_number % _TRACKS if levels else track) + 1)

    def _trunk(self, one: float, other: float, track: int) -> tuple[Point, ...]:
        """Return the way between the channels of two rows of hosts, whose heights are given."""
        x = _MARGIN + track * _STEP
        return () if one == other else (Point(x, one), Point(x, other))

    def _down(self, edge: Edge, outside: Node, bar: Bar) -> Line:
        """Return the line from what is on no host to a part of a segment."""
        box, track = self._fabric[outside.name], self._track()
        first, row = next(iter(self._tops)), self._rows[bar.host]
        turn = self._gutter(bar, track, self._down_height(row, track))
        y = self._tops[first] - self._down_height(first, track)
        self._down_number += 1
        middle = bar.box.y + BAR_HEIGHT / 2
        start = box.x + box.width * (track + 1) / (_TRACKS + 1)
        points = (
            Point(start, box.bottom),
            Point(start, y),
            *self._trunk(y, turn.y, track),
            turn,
            Point(turn.x, middle),
            Point(bar.box.x, middle),
        )
        return Line(edge.source, edge.target, points, bar.segment, edge.label, wide=True)

    def _between(self, edge: Edge, number: int, source: Node, target: Node) -> Line | None:
        """Return the line between two segments of hosts."""
        bars = [self._bar(node.name, node.group) for node in (source, target)]
        if bars[0] is None or bars[1] is None:
            return None
        track = self._track()
        levels = [self._level_of.get((number, self._rows[bar.host])) for bar in bars if bar is not None]
        one, other = (
            self._gutter(bar, track, _STEP * (track + 1) if level is None else _STEP + _LEVEL * level)
            for bar, level in zip(bars, levels, strict=True)
            if bar is not None
        )
        if edge.label and source.group != target.group:
            first, _ = self._tunnel(edge) or (bars[0], None)
            self._write(edge.label, first.box.x + 2, (one if first is bars[0] else other).y - _LINE)
        y1, y2 = (bar.box.y + BAR_HEIGHT / 2 for bar in bars if bar is not None)
        over = () if source.group == target.group else (one, *self._trunk(one.y, other.y, track), other)
        points = (
            Point(bars[0].box.x, y1),
            Point(one.x, y1),
            *over,
            Point(other.x, y2),
            Point(bars[1].box.x, y2),
        )
        return Line(edge.source, edge.target, points, source.name, edge.label, wide=True)

    def _part_lines(self) -> Iterator[Line]:
        """Yield the lines from a switch to its parts on hosts, and between parts on one host."""
        for bar in self._bars:
            node = self._homes.nodes[bar.segment]
            first = self._bar(bar.segment, bar.host)
            if first is not None and first is not bar:
                x = bar.box.x - 2 * _STEP - self._track() * _STEP
                y1, y2 = (each.box.y + BAR_HEIGHT / 2 for each in (first, bar))
                points = (Point(bar.box.x, y1), Point(x, y1), Point(x, y2), Point(bar.box.x, y2))
                yield Line(bar.segment, bar.segment, points, bar.segment, wide=True)
            elif bar.segment in self._fabric:
                yield self._down(Edge(bar.segment, bar.segment), node, bar)
