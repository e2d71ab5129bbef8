"""Draws the topology of what is up, with everything where it was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec

from kvmcompose import __version__
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.picture import PictureEdge, PictureInterface, PictureNode, PictureStack, TestbedPicture
from kvmcompose.core.state import State
from kvmcompose.drawing.fold import Folded, fold, machine_of
from kvmcompose.drawing.geometry import layout
from kvmcompose.drawing.graph import Graph, sharing, topology
from kvmcompose.drawing.places import Grid, arrange
from kvmcompose.drawing.svg import to_page_svg
from kvmcompose.effects.files import digest_bytes
from kvmcompose.effects.threads import in_thread
from kvmcompose.networks import drawing
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: What the places of the two kinds of pictures are stored as.
WHOLE, FOLDED = "whole", "folded"
#: How many bytes of pictures are kept.
_MOST_KEPT = 16 << 20


class Picture(msgspec.Struct, frozen=True):
    """A TestbedPicture as JSON, and what identifies it."""

    tag: str
    content: bytes


class _Drawn(msgspec.Struct, frozen=True):
    content: bytes
    kind: str
    places: bytes


class Pictures:
    """Pictures of testbeds, the newest last: who looks at one asks for it again and again."""

    def __init__(self) -> None:
        self._kept: dict[str, Picture] = {}

    async def picture(self, context: Context, opened: Collection[str]) -> Picture:
        """Return the picture of what is up, or of what was built. ``opened`` are names of stacks.

        Raises RefusedError when nothing was ever built.
        """
        testbed = await context.read_current()
        before = {kind: context.store.places(context.project, kind) for kind in (WHOLE, FOLDED)}
        tag = await in_thread(_tag, testbed.document, before, opened)
        found = self._kept.pop(tag, None)
        if found is None:
            drawn = await in_thread(_draw, testbed, before, frozenset(opened))
            if drawn.places != before[drawn.kind]:
                # the deployment may have been removed meanwhile
                if context.store.deployment(context.project) is not None:
                    context.store.put_places(context.project, drawn.kind, drawn.places)
                tag = await in_thread(_tag, testbed.document, {**before, drawn.kind: drawn.places}, opened)
            found = Picture(tag, drawn.content)
        self._kept[tag] = found
        while len(self._kept) > 1 and sum(len(each.content) for each in self._kept.values()) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return found


def _tag(document: bytes, places: dict[str, bytes | None], opened: Collection[str]) -> str:
    """Return what a picture depends on, as one word."""
    parts = [__version__, digest_bytes(document), places, sorted(opened)]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:32]


def _draw(testbed: LoadedTestbed, before: dict[str, bytes | None], opened: Collection[str]) -> _Drawn:
    state = testbed.state
    try:
        details = sharing({name: each.run for name, each in testbed.guests.items()})
        graph = topology(state, drawing(state), details)
    except (KeyError, ValueError, StopIteration, msgspec.MsgspecError) as error:
        raise RefusedError(
            f"state.json does not fit together: {error!r}", hint="rebuild it: kvm-compose generate"
        ) from error
    machines = {name: machine_of(guest) for name, guest in state.testbed_guests.items()}
    folded = fold(graph, machines)
    kind = FOLDED if folded.stacks else WHOLE
    known = before[kind] or before[WHOLE if folded.stacks else FOLDED]
    places = arrange(folded.graph, _grid(known), folded.widths)
    encoded = msgspec.json.encode(places)
    shown = fold(graph, machines, opened)
    if shown != folded:  # open stacks are placed each time, so that they move nothing for others
        places = arrange(shown.graph, places, shown.widths)
    boxes = layout(shown.graph, places)
    picture = TestbedPicture(
        hosts=graph.hosts,
        nodes=_nodes(graph, state, machines),
        edges=tuple(PictureEdge(edge.source, edge.target, edge.label) for edge in graph.edges),
        stacks=_stacks(shown),
        width=boxes.width,
        height=boxes.height,
        svg=to_page_svg(shown.graph, boxes, state.project_name, shown.stacks),
    )
    return _Drawn(msgspec.json.encode(picture), kind, encoded)


def _grid(stored: bytes | None) -> Grid | None:
    """Return stored places; none where another version stored something else."""
    try:
        return msgspec.json.decode(stored, type=Grid) if stored is not None else None
    except msgspec.DecodeError:
        return None


def _nodes(graph: Graph, state: State, machines: dict[str, str]) -> tuple[PictureNode, ...]:
    segments = {node.name for node in graph.nodes if node.kind in ("bridge", "switch")}
    interfaces: dict[str, list[PictureInterface]] = {}
    for edge in graph.edges:
        if edge.target in segments and edge.source in state.testbed_guests:
            addresses = tuple(edge.label.split(", ")) if edge.label else ()
            interfaces.setdefault(edge.source, []).append(PictureInterface(edge.target, addresses))
    return tuple(
        PictureNode(
            name=node.name,
            kind=node.kind,
            host=node.group,
            details=node.details,
            machine=machines.get(node.name, ""),
            labels=state.testbed_guests[node.name].labels if node.name in state.testbed_guests else {},
            interfaces=tuple(interfaces.get(node.name, ())),
        )
        for node in graph.nodes
    )


def _stacks(folded: Folded) -> tuple[PictureStack, ...]:
    hosts = {node.name: node.group for node in folded.graph.nodes}
    return tuple(
        PictureStack(
            name=stack.name,
            title=stack.title,
            host=hosts[stack.name],
            guests=stack.guests,
            is_open=stack.is_open,
        )
        for stack in folded.stacks
    )
