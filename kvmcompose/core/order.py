"""Order between guests: what one waits for before it starts, and how a guest says that it works."""

from __future__ import annotations

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
