"""Connected networks, by union-find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.core.model import Link, Segment, Topology
from kvmcompose.networks._connected import DisjointSets, connected

NAMES = [f"br{number}" for number in range(8)]
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=12)


def reachable(pairs: list[tuple[str, str]], start: str) -> set[str]:
    """Follow the connections from one bridge until there is no new one."""
    found = {start}
    while new := {each for pair in pairs if found & set(pair) for each in pair} - found:
        found |= new
    return found


@given(PAIRS)
def test_the_first_bridge_of_a_connected_network_represents_it(pairs: list[tuple[str, str]]) -> None:
    links = tuple(Link(*pair) for pair in pairs)
    topology = Topology(tuple(Segment(name) for name in NAMES), links, None)
    assert connected(topology) == {name: min(reachable(pairs, name), key=NAMES.index) for name in NAMES}


@given(PAIRS)
def test_a_connection_that_closes_a_loop_joins_nothing(pairs: list[tuple[str, str]]) -> None:
    sets = DisjointSets(NAMES)
    for index, (one, other) in enumerate(pairs):
        assert sets.join(one, other) == (other not in reachable(pairs[:index], one))


def test_a_connection_with_an_unknown_bridge_is_ignored() -> None:
    topology = Topology((Segment("a"), Segment("b")), (Link("a", "x"), Link("x", "b")), None)
    assert connected(topology) == {"a": "a", "b": "b"}
