"""The clock of a guest that has stood still: it was paused, or is in the state of a snapshot again.

Most guests would notice hours later, or never. Where a guest agent answers, it sets the clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from kvmcompose.hosts.errors import AgentSilentError, DriverError
from kvmcompose.providers.libvirt.agent import AgentCommand
from kvmcompose.providers.libvirt.interface.agents import DomainAgents
from kvmcompose.server.orchestrator.testbed import LoadedGuest

log = logging.getLogger(__name__)

#: How long the agent may take, in seconds, and when one that is not there yet is asked again.
_SECONDS, _AGAIN_SECONDS = 3, 1.0


async def set_clock(agents: DomainAgents, guest: LoadedGuest, *, again: bool = False) -> bool:
    """Have the agent of a guest set its clock to the time of this machine; return whether it did.

    Nothing fails because of it. ``again``: the agent may take a moment to connect to its channel.
    """
    if _has_a_time_of_its_own(guest):
        return False
    try:
        try:
            await _set(agents, guest)
        except AgentSilentError:
            if not again:
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
            await _set(agents, guest)
    except DriverError as error:
        log.info("the clock of %s is not set: %s", guest.name, error.message)
        return False
    return True


async def _set(agents: DomainAgents, guest: LoadedGuest) -> None:
    command = AgentCommand(execute="guest-set-time", arguments={"time": time.time_ns()})
    await agents.ask(guest.state.domain, command, _SECONDS)


def _has_a_time_of_its_own(guest: LoadedGuest) -> bool:
    """Return whether the YAML gives the guest another time than that of the world."""
    definition: Any = guest.state.definition
    clock = definition.get("clock") if isinstance(definition, dict) else None
    return isinstance(clock, dict) and bool(clock.get("offset_seconds"))
