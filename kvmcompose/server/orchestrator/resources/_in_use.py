"""The changes of resources that are changed while they are in use."""

from __future__ import annotations

from collections.abc import Iterable

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Resource, Verb


def change(
    wanted: Resource, found: Found, reasons: Iterable[Reason] = (), state_of: str = ""
) -> Change | None:
    """Return the update for what differs, otherwise the repair of a state that is wrong, otherwise None.

    ``found.state`` is empty when nothing is wrong; ``state_of`` names what it is the state of.
    """
    differs = tuple(reasons)
    if differs:
        return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=differs, wanted=wanted, found=found)
    if found.state:
        state = Reason(ReasonCode.STATE, state_of, before=found.state)
        return Change(verb=Verb.REPAIR, ref=wanted.ref, reasons=(state,), wanted=wanted, found=found)
    return None
