"""Files of a member's project that guests would see where they are: no host is sent them."""

from __future__ import annotations

from collections.abc import Iterable

from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedGuest
from kvmcompose.server.orchestrator.volumes import sources


def member_mounts(work: Work, noun: str, guests: Iterable[LoadedGuest]) -> list[Refusal]:
    """Return the mounts, each called a ``noun``, of a member's guests: copies run, on the main host, too."""
    if work.context.member is None:
        return []
    return [
        (
            f"{guest.name} has the {noun} {source}, which no host is sent for {work.context.owner.name}",
            "use `context` for what it reads, or have an administrator bring the testbed up",
        )
        for guest in guests
        for source in sources(guest)
    ]
