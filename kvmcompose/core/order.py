"""Order between guests: what one waits for before it starts, and how a guest says that it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec


class Condition(StrEnum):
    """What a guest waits for in another one."""

    #: It was started.
    STARTED = "started"
    #: It can be entered, and has completed its first-boot set-up.
    REACHABLE = "reachable"
    #: Its set-up scripts have run.
    SETUP_DONE = "setup_done"
    #: Its healthcheck succeeds.
    HEALTHY = "healthy"


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A command that succeeds in a guest that works. Times are in seconds; the defaults are Docker's.

    ``command`` is a command with its arguments, or a line for the guest's shell. It runs every ``interval``,
    and has failed when it has not ended after ``timeout``. ``retries`` failures in a row make a guest
    unhealthy, except in the first ``start_period`` after its start.
    """

    command: str | tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0

    @property
    def argv(self) -> tuple[str, ...]:
        """The command with its arguments; a line is run by ``sh``."""
        return ("/bin/sh", "-c", self.command) if isinstance(self.command, str) else self.command


def dependencies(names: Iterable[str], depends_on: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """Return what guests depend on, directly or by others, without themselves: each with one that needs it.

    ``depends_on`` returns what one guest itself depends on.
    """
    named = tuple(names)
    found: dict[str, str] = {}
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        for each in depends_on(name):
            if each not in found and each not in named:
                found[each] = name
                waiting.append(each)
    return found
