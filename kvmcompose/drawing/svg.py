"""A picture of a topology as SVG: readable in light and dark, by people and by screen readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

import msgspec

from kvmcompose.core.plain import plain
from kvmcompose.drawing.fold import Stack
from kvmcompose.drawing.geometry import GUTTER, LABEL_PIXELS, Box, Label, Layout, Line, Point
from kvmcompose.drawing.graph import Graph, Node
from kvmcompose.drawing.places import SEGMENTS


class NodeMark(msgspec.Struct, frozen=True):
    """What is special about a node: a tone, which decides the colour, and a word for it."""

    tone: str
    word: str


#: The tones of marks, each with its colour in light and dark.
TONES = {
    "good": ("#1a7f37", "#3fb950"),
    "busy": ("#9a6700", "#d29922"),
    "bad": ("#cf222e", "#f85149"),
    "off": ("#6e7781", "#8b949e"),
    "new": ("#0969da", "#58a6ff"),
}
#: Colours of segments, distinguishable with colour-blindness (the palette of Okabe and Ito, darkened).
_COLOURS = ("#0072b2", "#b8500b", "#007a5e", "#a3457f", "#8a6d00", "#3b82c4", "#6b4fa0", "#5c6670")
_NAMES = {
    "guest": "virtual machine",
    "container": "container",
    "golden image": "golden image",
    "bridge": "bridge",
    "switch": "logical switch",
    "router": "router",
    "network": "outside network",
    "host interface": "interface of a host",
}
#: Icons by kind, drawn in a square of 16.
_ICONS = {
    "guest": "M1.5 2.5h13v8h-13zM5.5 13.5h5M8 10.5v3",
    "container": "M2 5l6-3 6 3v6l-6 3-6-3zM2 5l6 3 6-3M8 8v6",
    "golden image": "M2 4c0-3 12-3 12 0v8c0 3-12 3-12 0zM2 4c0 3 12 3 12 0",
    "router": "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13M4.5 8h7M9 5.5L11.5 8L9 10.5",
    "network": "M4.5 12.5a3 3 0 0 1-.5-6a4 4 0 0 1 7.5-.5a3.3 3.3 0 0 1 .5 6.5z",
    "switch": "M1.5 4.5h13v7h-13zM4 8h1M7 8h1M10 8h1",
    "bridge": "M1.5 4.5h13v7h-13zM4 8h1M7 8h1M10 8h1",
    "host interface": "M3 2.5h10v8H3zM6 10.5v3M10 10.5v3M6 5.5h4",
}
#: Characters that fit into a box, by its width in pixels, of names and details.
_NAME_PIXELS, _DETAIL_PIXELS = 7.6, 6.1
_RADIUS = 5
#: What would end an attribute, or be a space in it.
_QUOTED = str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
_LEGEND_HEIGHT = 40

#: What is drawn in which way, with its colours in light and dark. Written out: not every program that shows
#: SVG knows variables of CSS.
_COLOURED = {
    "text": ("fill", "#1f2328", "#f0f6fc"),
    "text.more": ("fill", "#59636e", "#9198a1"),
    "text.label": ("fill", "#59636e", "#9198a1"),
    ".label": ("stroke", "#ffffff", "#0d1117"),
    ".paper": ("fill", "#ffffff", "#0d1117"),
    ".area": ("fill", "#f6f8fa", "#151b23"),
    ".card": ("fill", "#ffffff", "#212830"),
    ".edged": ("stroke", "#d1d9e0", "#3d444d"),
    ".icon": ("stroke", "#59636e", "#9198a1"),
    **{f".{tone}": ("fill", light, dark) for tone, (light, dark) in TONES.items()},
}
#: What looks the same in light and dark.
_STYLE = {
    "text": {"font-family": 'system-ui,"Segoe UI","DejaVu Sans",sans-serif', "font-size": "13px"},
    "text.name,.kc text.host,.kc text.on": {"font-weight": "600"},
    "text.more": {"font-size": "10.5px"},
    "text.host": {"font-size": "15px"},
    "text.on": {"fill": "#fff", "font-size": "12px"},
    "text.label": {"font-size": "10px", "paint-order": "stroke", "stroke-width": "3px"},
    ".icon": {"fill": "none", "stroke-width": "1.3"},
    ".line": {"fill": "none", "stroke-width": "1.4"},
    ".wide": {"stroke-width": "2.4"},
}


def _style() -> str:
    """Return the style sheet of a picture."""
    light = "\n".join(f".kc {name}{{{what}:{value}}}" for name, (what, value, _) in _COLOURED.items())
    same = "\n".join(
        f".kc {name}{{{';'.join(f'{what}:{value}' for what, value in rules.items())}}}"
        for name, rules in _STYLE.items()
    )
    dark = "".join(f".kc {name}{{{what}:{value}}}" for name, (what, _, value) in _COLOURED.items())
    return f"\n{light}\n{same}\n@media(prefers-color-scheme:dark){{{dark}.kc text.on{{fill:#fff}}}}"


def page_style() -> str:
    """Return the same style sheet for a page, which allows none in its pictures; one declaration a line."""
    light = [(name, {what: value}) for name, (what, value, _) in _COLOURED.items()]
    dark = [(name, {what: value}) for name, (what, _, value) in _COLOURED.items()]
    dark_rules = "\n\n".join(_rule(*each, "  ") for each in (*dark, ("text.on", {"fill": "#fff"})))
    rules = "\n\n".join(_rule(*each) for each in (*light, *_STYLE.items()))
    return f"{rules}\n\n@media (prefers-color-scheme: dark) {{\n{dark_rules}\n}}\n"


def _rule(name: str, rules: Mapping[str, str], indent: str = "") -> str:
    lines = [f"{indent}  {what}: {value.replace(',', ', ')};" for what, value in rules.items()]
    selectors = f".kc {name}".replace(",", f",\n{indent}")
    return "\n".join([f"{indent}{selectors} {{", *lines, f"{indent}}}"])


def to_svg(graph: Graph, layout: Layout, title: str, marks: Mapping[str, NodeMark] | None = None) -> str:
    """Return the picture as an SVG document of its own. ``marks`` are by the names of nodes."""
    return "\n".join(_Picture(graph, layout, marks or {}).document(title)) + "\n"


def to_page_svg(graph: Graph, layout: Layout, title: str, stacks: Iterable[Stack] = ()) -> str:
    """Return the picture for a page that has ``page_style``, and shows the states of nodes itself.

    Elements have what they show in attributes: ``data-node``, ``data-host``, ``data-source`` and
    ``data-target``. Nodes and hosts take the focus.
    """
    return "\n".join(_PagePicture(graph, layout, stacks).document(title)) + "\n"


def to_html(svg: str, title: str) -> str:
    """Return a picture as a page of its own, which needs nothing else."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        "<style>:root{color-scheme:light dark}body{margin:0}svg{display:block}</style>\n"
        f"{svg}</html>\n"
    )


class _Picture:
    def __init__(self, graph: Graph, layout: Layout, marks: Mapping[str, NodeMark]) -> None:
        self._nodes = {node.name: node for node in graph.nodes}
        self._layout = layout
        self._marks = marks
        segments = [node.name for node in graph.nodes if node.kind in SEGMENTS]
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(segments)}
        self._from: dict[str, list[Line]] = {}
        for line in layout.lines:
            self._from.setdefault(line.source, []).append(line)

    def document(self, title: str) -> Iterator[str]:
        width, height = _n(self._layout.width), _n(self._layout.height + _LEGEND_HEIGHT)
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        yield from self._head(title, size)
        yield f'<rect class="paper" width="{width}" height="{height}"/>'
        for name, box in self._layout.hosts.items():
            yield from self._area(name, box)
        yield from self._lines()
        for bar in self._layout.bars:
            yield from self._bar(bar.segment, bar.box)
        for name, box in (*self._layout.fabric.items(), *self._layout.cards.items()):
            yield from self._card(self._nodes[name], box)
        yield from self._legend(self._layout.height)
        yield "</svg>"

    def _head(self, title: str, size: str) -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" class="kc" role="img" {size}>'
        yield f"<title>{_text(title)}</title>"
        yield f"<style>{_style()}</style>"

    def _area(self, name: str, box: Box) -> Iterator[str]:
        yield _rectangle(box, 'class="area edged"', radius=10)
        text = _fitting(name, box.width - GUTTER, 8.6)
        yield f'<text class="host" x="{_n(box.x + GUTTER)}" y="{_n(box.y + 27)}">{text}</text>'

    def _ends(self, line: Line) -> str:  # noqa: ARG002 (pages have some)
        """Return the attributes of a line that say what it connects."""
        return ""

    def _open(self, node: Node, box: Box) -> str:  # noqa: ARG002 (of pages)
        """Return the start of a node's group."""
        return f"<g><title>{_text(self._tooltip(node))}</title>"

    def _title(self, node: Node) -> str:
        """Return what is written on a node."""
        return node.name

    def _lines(self) -> Iterator[str]:
        for line in self._layout.lines:
            colour = self._colours.get(line.segment, "#6e7781")
            kind = "line wide" if line.wide else "line"
            yield f'<path class="{kind}" stroke="{colour}"{self._ends(line)} d="{_path(line.points)}"/>'
        for label in self._layout.labels:
            yield _label(label)

    def _bar(self, name: str, box: Box) -> Iterator[str]:
        yield self._open(self._nodes[name], box)
        yield _rectangle(box, f'fill="{self._colours[name]}"', radius=_RADIUS)
        text = _fitting(name, box.width - 40)
        yield f'<text class="on" x="{_n(box.x + 10)}" y="{_n(box.y + 16)}">{text}</text>'
        yield from self._badge(name, box)
        yield "</g>"

    def _card(self, node: Node, box: Box) -> Iterator[str]:
        yield self._open(node, box)
        colour = self._colours.get(node.name)
        edge = f'class="card" stroke="{colour}"' if colour else 'class="card edged"'
        yield _rectangle(box, edge, radius=_RADIUS + 2)
        icon = _ICONS.get(node.kind, _ICONS["guest"])
        yield f'<path class="icon" transform="translate({_n(box.x + 9)} {_n(box.y + 9)})" d="{icon}"/>'
        text = _fitting(self._title(node), box.width - 46)
        yield f'<text class="name" x="{_n(box.x + 32)}" y="{_n(box.y + 21)}">{text}</text>'
        for number, (line, colour) in enumerate(self._details(node)):
            y = box.y + 38 + number * 14
            if colour:
                yield f'<circle fill="{colour}" cx="{_n(box.x + 17)}" cy="{_n(y - 4)}" r="3"/>'
            text = _fitting(line, box.width - 42, _DETAIL_PIXELS)
            yield f'<text class="more" x="{_n(box.x + 32)}" y="{_n(y)}">{text}</text>'
        yield from self._badge(node.name, box)
        yield "</g>"

    #: How many lines of details a box has.
    _room = 2

    def _badge(self, name: str, box: Box) -> Iterator[str]:
        mark = self._marks.get(name)
        if mark is not None:
            yield f'<circle class="{mark.tone}" cx="{_n(box.right - 11)}" cy="{_n(box.y + 12)}" r="5"/>'

    def _details(self, node: Node) -> list[tuple[str, str]]:
        """Return the lines below a name, with colours: addresses by segment, or what the node says."""
        own = self._interfaces(node)
        lines = [(label or "no address", self._colours[segment]) for segment, label in own]
        lines = lines or [(line, "") for line in node.details]
        if len(lines) > self._room:
            (first, colour), *others = lines[self._room - 1 :]
            if self._room == 1:
                lines = [(f"{first} +{len(others)}", colour)]
            else:
                lines[self._room - 1 :] = [(f"and {len(others) + 1} more", "")]
        return lines

    def _interfaces(self, node: Node) -> list[tuple[str, str]]:
        """Return the segments that a guest is on, each with its addresses there."""
        if node.name not in self._layout.cards:
            return []
        return [(line.segment, line.label) for line in self._from.get(node.name, ())]

    def _tooltip(self, node: Node) -> str:
        mark = self._marks.get(node.name)
        kind = _NAMES.get(node.kind, node.kind)
        where = f" on {node.group}" if node.group else ""
        labels = [f"{segment}: {label}" for segment, label in self._interfaces(node) if label]
        lines = [f"{node.name} ({kind}{where})", *node.details, *labels]
        return "\n".join([*lines, *([mark.word] if mark is not None else [])])

    def _legend(self, y: float) -> Iterator[str]:
        """Yield what the icons mean, and the colours of marks."""
        x = 24.0
        drawn = [self._nodes[name].kind for name in (*self._layout.cards, *self._layout.fabric)]
        for kind in [kind for kind in _NAMES if kind in drawn and kind in _ICONS]:
            yield f'<path class="icon" transform="translate({_n(x)} {_n(y)})" d="{_ICONS[kind]}"/>'
            yield f'<text class="more" x="{_n(x + 22)}" y="{_n(y + 12)}">{_NAMES[kind]}</text>'
            x += 22 + len(_NAMES[kind]) * _DETAIL_PIXELS + 20
        words: dict[str, list[str]] = {}
        for mark in self._marks.values():
            if mark.word not in words.setdefault(mark.tone, []):
                words[mark.tone].append(mark.word)
        for tone in [tone for tone in TONES if tone in words]:
            text = ", ".join(words[tone])
            yield f'<circle class="{tone}" cx="{_n(x + 6)}" cy="{_n(y + 8)}" r="5"/>'
            yield f'<text class="more" x="{_n(x + 18)}" y="{_n(y + 12)}">{_text(text)}</text>'
            x += 18 + len(text) * _DETAIL_PIXELS + 20


class _PagePicture(_Picture):
    """A picture whose elements a page finds and changes."""

    def __init__(self, graph: Graph, layout: Layout, stacks: Iterable[Stack]) -> None:
        super().__init__(graph, layout, {})
        self._stacks = {stack.name: stack for stack in stacks}

    def _head(self, title: str, size: str) -> Iterator[str]:
        yield f'<svg xmlns="http://www.w3.org/2000/svg" class="kc" role="group" {size}'
        yield f" {_attribute('aria-label', title)}>"

    def _area(self, name: str, box: Box) -> Iterator[str]:
        yield f'<g class="place" tabindex="0" role="button" {_attribute("data-host", name)}'
        yield f" {_attribute('aria-label', f'{name} (host)')}>"
        yield from super()._area(name, box)
        yield "</g>"

    def _ends(self, line: Line) -> str:
        return f" {_attribute('data-source', line.source)} {_attribute('data-target', line.target)}"

    def _open(self, node: Node, box: Box) -> str:
        stack = self._stacks.get(node.name)
        card = node.name in self._layout.cards
        kind = "node many" if stack is not None else "node guest" if card else "node"
        is_open = f' aria-expanded="{str(stack.is_open).lower()}"' if stack is not None else ""
        place = f'data-x="{_n(box.x)}" data-y="{_n(box.y)}"'
        return (
            f'<g class="{kind}" tabindex="0" role="button" {_attribute("data-node", node.name)} {place}'
            f"{is_open} {_attribute('aria-label', self._tooltip(node))}>"
            + "".join(_behind(box) if stack is not None else ())
        )

    def _title(self, node: Node) -> str:
        stack = self._stacks.get(node.name)
        return (
            f"{stack.title} \N{MULTIPLICATION SIGN} {len(stack.guests)}" if stack is not None else node.name
        )

    def _card(self, node: Node, box: Box) -> Iterator[str]:
        # the last line of a guest's box is its state
        self._room = 1 if node.name in self._layout.cards else 2
        return super()._card(node, box)

    def _badge(self, name: str, box: Box) -> Iterator[str]:
        if name in self._layout.cards:
            yield f'<circle class="mark" cx="{_n(box.right - 11)}" cy="{_n(box.y + 12)}" r="5"/>'
            yield f'<text class="more state" x="{_n(box.x + 32)}" y="{_n(box.y + 52)}"></text>'

    def _details(self, node: Node) -> list[tuple[str, str]]:
        if node.name in self._stacks:
            segments = list(dict.fromkeys(segment for segment, _ in self._interfaces(node)))
            return [(", ".join(segments), self._colours[segments[0]])] if segments else []
        return super()._details(node)

    def _tooltip(self, node: Node) -> str:
        stack = self._stacks.get(node.name)
        if stack is None:
            return super()._tooltip(node)
        return f"{self._title(node)} (guests on {node.group})"


def _behind(box: Box) -> Iterator[str]:
    """Yield the cards below the first one of a stack."""
    for offset in (6, 3):
        moved = Box(box.x + offset, box.y + offset, box.width, box.height)
        yield _rectangle(moved, 'class="card edged"', radius=_RADIUS + 2)


def _attribute(name: str, value: str) -> str:
    return f'{name}="{_text(value).translate(_QUOTED)}"'


def _rectangle(box: Box, attributes: str, *, radius: int) -> str:
    place = f'x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}"'
    return f'<rect {attributes} {place} rx="{radius}"/>'


def _path(points: Sequence[Point]) -> str:
    """Return a path with round corners."""
    words = [f"M{_n(points[0].x)} {_n(points[0].y)}"]
    for (before, at), (_, after) in pairwise(pairwise(points)):
        radius = min(_RADIUS, _distance(before, at) / 2, _distance(at, after) / 2)
        start, end = _towards(at, before, radius), _towards(at, after, radius)
        words.append(f"L{_n(start.x)} {_n(start.y)}Q{_n(at.x)} {_n(at.y)} {_n(end.x)} {_n(end.y)}")
    return "".join([*words, f"L{_n(points[-1].x)} {_n(points[-1].y)}"])


def _distance(one: Point, other: Point) -> float:
    return abs(one.x - other.x) + abs(one.y - other.y)


def _towards(start: Point, end: Point, length: float) -> Point:
    """Return the point at a distance from ``start``, on a line along one of the axes."""
    whole = _distance(start, end)
    if not whole:
        return start
    part = length / whole
    return Point(start.x + (end.x - start.x) * part, start.y + (end.y - start.y) * part)


def _label(label: Label) -> str:
    box = label.box
    text = _fitting(label.text, box.width + 1, LABEL_PIXELS)
    return f'<text class="label" x="{_n(box.x)}" y="{_n(box.bottom - 3)}">{text}</text>'


def _fitting(text: str, pixels: float, each: float = _NAME_PIXELS) -> str:
    """Return the text, shortened to what fits into a box; the title of the element has all of it."""
    room = max(4, int(pixels / each))
    return _text(text if len(text) <= room else f"{text[: room - 1]}…")


def _text(text: str) -> str:
    return escape(plain(text, lines=True))


def _n(number: float) -> str:
    """Return a number without needless digits."""
    return f"{number:.1f}".removesuffix(".0")
