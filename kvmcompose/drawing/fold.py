"""Large testbeds fold: many guests of one machine, or of one segment of a host, are drawn as one stack."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

import msgspec

from kvmcompose.core.state import GuestState
from kvmcompose.drawing.graph import Edge, Graph, Node
from kvmcompose.drawing.places import Homes

#: Above so many guests a picture folds, and only if so many would go into a stack.
FOLDS_ABOVE, STACK_ABOVE = 60, 5
#: At most so many guests are drawn one by one.
MOST_DRAWN = 1000
#: How many guests a host with a stack has in a row, so that an open stack is not one tall column.
STACK_COLUMNS = 4
_NUMBERED = re.compile(r"(.+)-\d+")


class Stack(msgspec.Struct, frozen=True):
    """Guests that one card stands for. ``name`` is that of its node, ``title`` is what is written on it.

    The guests of an ``is_open`` stack are drawn, too.
    """

    name: str
    title: str
    guests: tuple[str, ...]
    is_open: bool = False


class Folded(msgspec.Struct, frozen=True):
    """A graph with stacks in place of guests."""

    graph: Graph
    stacks: tuple[Stack, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """How many guests a host has in a row at least."""
        names = {stack.name for stack in self.stacks}
        return {node.group: STACK_COLUMNS for node in self.graph.nodes if node.name in names}


def machine_of(guest: GuestState) -> str:
    """Return the machine that a guest is a clone of, as far as its state tells; its own name for others."""
    numbered = _NUMBERED.fullmatch(guest.name)
    return guest.extra_info.reference_image or (numbered[1] if numbered is not None else guest.name)


def fold(graph: Graph, machines: Mapping[str, str], opened: Collection[str] = ()) -> Folded:
    """Return the graph with stacks, if it has many guests.

    ``machines`` has the machine of each guest, ``opened`` are names of stacks. Stacks that would exceed
    MOST_DRAWN stay closed.
    """
    homes = Homes(graph)
    guests = [name for name in homes.guests if name in machines]
    if len(guests) <= FOLDS_ABOVE:
        return Folded(graph)
    taken = set(homes.nodes)
    stacks, drawn = [], len(guests)
    for key, title, members in _stacked(homes, guests, machines):
        name = key
        while name in taken:
            name += "'"
        taken.add(name)
        stacks.append(Stack(name, title, tuple(members)))
        drawn -= len(members)
    found = []
    for stack in stacks:
        is_open = stack.name in opened and drawn + len(stack.guests) <= MOST_DRAWN
        drawn += len(stack.guests) if is_open else 0
        found.append(msgspec.structs.replace(stack, is_open=is_open))
    return Folded(_with_stacks(graph, homes, found), tuple(found))


def _stacked(
    homes: Homes, guests: Iterable[str], machines: Mapping[str, str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield a key, a title and the guests of each stack: first those of a machine, then what is left."""
    by_machine: dict[tuple[str, str, str], list[str]] = {}
    for name in guests:
        key = homes.nodes[name].group, homes.home(name), machines[name]
        by_machine.setdefault(key, []).append(name)
    left: dict[tuple[str, str], list[str]] = {}
    for (host, segment, machine), members in by_machine.items():
        if len(members) > STACK_ABOVE:
            yield f"{machine}@{host}/{segment}", machine, members
        else:
            left.setdefault((host, segment), []).extend(members)
    for (host, segment), members in left.items():
        if len(members) > STACK_ABOVE:
            yield f"@{host}/{segment}", "guests", members


def _with_stacks(graph: Graph, homes: Homes, stacks: Iterable[Stack]) -> Graph:
    """Return the graph with a node for each stack, in place of its guests if it is closed."""
    stack_of = {name: stack for stack in stacks for name in stack.guests}
    closed = {name for name, stack in stack_of.items() if not stack.is_open}
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        stack = stack_of.get(node.name)
        if stack is not None and stack.name not in nodes:
            nodes[stack.name] = Node(stack.name, node.kind, node.group)
        if node.name not in closed:
            nodes[node.name] = node
    of_stacks: dict[tuple[str, str], Edge] = {}
    for edge in graph.edges:
        stack = stack_of.get(edge.source)
        if stack is not None and edge.target in homes.segments:
            of_stacks.setdefault((stack.name, edge.target), Edge(stack.name, edge.target))
    edges = (edge for edge in graph.edges if edge.source not in closed and edge.target not in closed)
    return msgspec.structs.replace(
        graph, nodes=tuple(nodes.values()), edges=tuple(chain(of_stacks.values(), edges))
    )
