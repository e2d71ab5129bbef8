"""The user's constraints on every strategy: ``pin``, ``together`` and ``apart``.

A name is that of a guest, of a machine (meaning all its clones) or of a bridge. A guest is on the host of its
bridges, so every constraint is one on bridges. A logical switch means the guests on it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from kvmcompose.core.document import Path, show_path
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Constraints, Guest, Host, Topology
from kvmcompose.placement._follow import segments_of

PLACEMENT: Path = ("testbed_options", "placement")


class Names:
    """The segments that each name of the YAML refers to."""

    def __init__(self, guests: Sequence[Guest], topology: Topology) -> None:
        self.segments = {segment.name for segment in topology.segments}
        self._stands_for = topology.stands_for
        self.guests: dict[str, tuple[str, ...]] = {}
        for guest in guests:
            for name in dict.fromkeys((guest.machine.name, guest.name)):
                known = self.guests.get(name, ())
                self.guests[name] = tuple(dict.fromkeys((*known, *segments_of(guest))))

    def reach(self, name: str) -> tuple[str, ...]:
        """Return the segments that a name refers to; none for an unknown name."""
        found = self.guests.get(name) or self._stands_for.get(name)
        return found or ((name,) if name in self.segments else ())


def names_in(constraints: Constraints) -> Iterator[tuple[str, Path]]:
    """Yield every name in the constraints, with its path."""
    for name in constraints.pin:
        yield name, (*PLACEMENT, "pin", name)
    for key, lists in (("together", constraints.together), ("apart", constraints.apart)):
        for number, names in enumerate(lists):
            for index, name in enumerate(names):
                yield name, (*PLACEMENT, key, number, index)


def check_constraints(
    constraints: Constraints, guests: Sequence[Guest], topology: Topology, hosts: Sequence[Host]
) -> Iterator[Complaint]:
    """Yield unknown names, ambiguous names and unknown hosts."""
    if constraints == Constraints():
        return
    names = Names(guests, topology)
    noun = topology.noun
    known = [*names.guests, *sorted(names.segments)]
    for name, path in names_in(constraints):
        at_key = path[2] == "pin"
        if name in names.guests and name in names.segments:
            yield Complaint(
                code="ambiguous-name",
                path=path,
                message=f"{name!r} is the name of a guest and of a {noun}",
                wanted="a name that only one of them has",
                hint=f"name a {noun} that the guest is on, or a guest that is on the {noun}",
                at_key=at_key,
            )
        elif not names.reach(name) and name not in names.guests:  # one without interfaces is an error itself
            near = difflib.get_close_matches(name, known, 1)
            yield Complaint(
                code="unknown-placed-name",
                path=path,
                message=f"there is no guest and no {noun} {name!r}",
                wanted=f"the name of a guest, of a machine (for all its clones) or of a {noun}",
                hint=f"did you mean {near[0]!r}?" if near else None,
                at_key=at_key,
            )
    host_names = [host.name for host in hosts]
    for name, host in constraints.pin.items():
        if host not in host_names:
            near = difflib.get_close_matches(host, host_names, 1)
            yield Complaint(
                code="unknown-host",
                path=(*PLACEMENT, "pin", name),
                message=f"there is no testbed host {host!r}",
                wanted=f"one of: {', '.join(host_names)}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )


def place_of(key: str, number: int) -> str:
    """Return the path of a list of the constraints, for messages."""
    return show_path((*PLACEMENT[1:], key, number))
