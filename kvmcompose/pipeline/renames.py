"""Find machines that look renamed: one is gone, and another is exactly like it.

Without ``id`` they are two machines, and the data of the first stays under its name. Only the user knows
whether that is meant; what is found here is a suggestion.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvmcompose.core.environment import without_values
from kvmcompose.core.state import GuestState, State


class Rename(msgspec.Struct, frozen=True):
    """A machine that was called ``old`` and seems to be called ``new``. ``id`` is what its data is under."""

    old: str
    new: str
    id: str

    @property
    def line(self) -> str:
        """The line of the YAML, at the machine ``new``, that keeps the data."""
        return f"id: {self.id}"


def renames(before: State, after: State) -> tuple[Rename, ...]:
    """Return the machines that look renamed, in the order of ``after``.

    Machines that are like each other are paired in their order; if more of them are gone than were added,
    or fewer, no pair is certain, and none is returned. Clones go with their machine.
    """
    there = {guest.identity for guest in before.testbed_guests.values()}
    stay = {guest.identity for guest in after.testbed_guests.values()}
    gone = _by_likeness(
        guest
        for guest in before.testbed_guests.values()
        if guest.identity not in stay and guest.identity not in after.testbed_guests
    )
    added = _by_likeness(
        guest for guest in after.testbed_guests.values() if guest.id is None and guest.name not in there
    )
    pairs = {
        new.name: Rename(old.name, new.name, old.identity)
        for likeness, guests in added.items()
        if len(gone.get(likeness, ())) == len(guests)
        for old, new in zip(gone[likeness], guests, strict=True)
    }
    return tuple(pairs[name] for name in after.testbed_guests if name in pairs)


def _by_likeness(guests: Iterator[GuestState]) -> dict[bytes, list[GuestState]]:
    found: dict[bytes, list[GuestState]] = {}
    for guest in guests:
        if guest.extra_info.reference_image is None:
            found.setdefault(_likeness(guest), []).append(guest)
    return found


def _likeness(guest: GuestState) -> bytes:
    """Return what two machines have in common of which one is the other with a new name.

    Addresses are not part of it, as they derive from the name.
    """
    definition = guest.definition
    if not isinstance(definition, dict):  # it has not been in a file yet, where digests replace values
        definition = msgspec.json.decode(msgspec.json.encode(without_values(definition)))
    interfaces = [
        (nic.bridge if nic.attach != "network" else "", nic.ip == "dynamic") for nic in guest.interfaces
    ]
    return msgspec.json.encode(
        (guest.kind, guest.is_golden_image, definition, interfaces, guest.labels), order="deterministic"
    )
