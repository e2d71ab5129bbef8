"""What a server remembers of the health of guests. It is not stored: one that has started looks again."""

from __future__ import annotations

import asyncio

import msgspec

from kvmcompose.core.order import Healthcheck

#: Guests of one owner that are asked at a time: a check that takes its whole time holds up no one else's.
_AT_A_TIME = 16


class HealthSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a guest has shown. ``why`` says why it is not healthy; ``at`` is monotonic, in seconds.

    ``failures`` is how many checks in a row have failed. ``boot`` is the start of the guest that it is about.
    """

    state: str
    why: str = ""
    failures: int = 0
    boot: str = ""
    check: Healthcheck
    at: float


class HealthMemory:
    """What was seen last, and the looks that are under way, by project and identity of the guest."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], HealthSeen] = {}
        self.looks: dict[tuple[str, str], asyncio.Future[HealthSeen]] = {}
        self._places: dict[int, asyncio.Semaphore] = {}

    def places(self, owner: int) -> asyncio.Semaphore:
        """Return what limits how many guests of an owner, by their UID, are asked at a time."""
        return self._places.setdefault(owner, asyncio.Semaphore(_AT_A_TIME))
