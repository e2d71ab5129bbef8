"""Which bridges are connected to each other, directly or through others."""

from __future__ import annotations

from collections.abc import Iterable

from kvmcompose.core.model import Topology


class DisjointSets:
    """A partition of names into sets (union-find). The representative of a set is its first name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parents = {name: name for name in names}
        self._order = {name: index for index, name in enumerate(self._parents)}

    def __contains__(self, name: str) -> bool:
        return name in self._parents

    def find(self, name: str) -> str:
        """Return the representative of the set that contains a name."""
        parents = self._parents
        while parents[name] != name:
            parents[name] = parents[parents[name]]  # halve the path
            name = parents[name]
        return name

    def join(self, one: str, other: str) -> bool:
        """Unite the sets of two names. Returns False when they are one set already."""
        first, second = sorted((self.find(one), self.find(other)), key=self._order.__getitem__)
        self._parents[second] = first
        return first != second


def connected(topology: Topology) -> dict[str, str]:
    """Return, for every segment, the first segment (in file order) of its connected network."""
    names = [segment.name for segment in topology.segments]
    sets = DisjointSets(names)
    for link in topology.links:
        if link.source in sets and link.target in sets:
            sets.join(link.source, link.target)
    return {name: sets.find(name) for name in names}
