"""Random topologies."""

from __future__ import annotations

from hypothesis import strategies as st

from kvmcompose.drawing.graph import Edge, Graph, Node

HOSTS = ("one", "two", "three")
#: More than a row of them.
MANY = (*HOSTS, *(f"host-{number}" for number in range(4, 10)))
SWITCHES = [Node(f"sw{number}", "switch", details=(f"10.0.{number}.0/24",)) for number in range(4)]
FABRIC = [Node("lr0", "router"), Node("public", "network")]


@st.composite
def topologies(draw: st.DrawFn) -> Graph:
    """Draw a topology of bridges or of switches, with guests on up to three of them."""
    on_bridges = draw(st.booleans())
    hosts = draw(st.sampled_from([HOSTS, MANY]))
    bridges = [Node(f"br{number}", "bridge", hosts[number * 2 % len(hosts)]) for number in range(5)]
    segments = draw(st.lists(st.sampled_from(bridges if on_bridges else SWITCHES), unique=True, min_size=1))
    nodes, edges = [*segments, *(FABRIC if draw(st.booleans()) else [])], []
    if FABRIC[0] in nodes:
        edges += [Edge("lr0", each.name, "10.0.0.1/24") for each in segments]
    elif on_bridges:
        edges += [Edge(segments[0].name, each.name, "tunnel") for each in segments[1:]]
        if draw(st.booleans()):
            nodes.append(Node("NAT", "network"))
            edges.append(Edge("NAT", draw(st.sampled_from(segments)).name))
    for number in draw(st.lists(st.integers(0, 40), unique=True, max_size=25)):
        kind = draw(st.sampled_from(["guest", "container", "golden image"]))
        mine = draw(st.lists(st.sampled_from(segments), unique=True, max_size=3))
        host = draw(st.sampled_from(hosts))
        nodes.append(Node(f"guest-{number}", kind, mine[0].group or host if mine else host))
        edges += [Edge(f"guest-{number}", each.name, f"10.0.0.{number}") for each in mine]
    return Graph(tuple(nodes), tuple(edges), False, hosts)
