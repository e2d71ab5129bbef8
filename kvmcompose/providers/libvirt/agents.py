"""QEMU guest agents of domains."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any
from weakref import WeakValueDictionary

import libvirt
import libvirt_qemu

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import domain_states
from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, PING, AgentCommand, answer_of, no_answer
from kvmcompose.providers.libvirt.connection import Connection, words

#: What libvirt says of an agent that is not connected to its channel, does not listen, or does not answer.
_SILENT = {
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_OPERATION_INVALID,
}
#: How long to wait for an event of a guest agent before it is asked again, in seconds.
_LOOK_SECONDS = 2.0


class LibvirtAgents:
    """The guest agents in domains on one host."""

    def __init__(self, connection: Connection, asking: Connection) -> None:
        """``asking`` is a connection for agents only, which may answer late: libvirtd takes a few requests of
        a connection at a time.
        """
        self._connection = connection
        self._agents = asking
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, name: str, command: AgentCommand, seconds: int = ANSWER_SECONDS) -> Any:
        """Ask by a connection of its own: a guest that answers late holds up no other call."""
        doing = f"ask the guest agent of {name}"
        guard = self._locks.setdefault(name, asyncio.Lock())
        async with guard:
            text = await self._agents.on_domain_once(doing, name, ask, command=command, seconds=seconds)
        return answer_of(name, command.execute, text)

    async def wait(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._connection.watch(name) as changed:
            while True:
                changed.clear()
                try:
                    await self.ask(name, PING)
                except DriverError as error:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise DriverError(
                            f"{name} was not ready within {seconds:.0f} s: it was waited for its guest agent;"
                            f" {error.message}",
                            hint=error.hint,
                        ) from None
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), min(left, _LOOK_SECONDS))
                else:
                    return


def ask(domain: Any, *, command: AgentCommand, seconds: int) -> str:
    """Return the answer of an agent, as text. libvirt asks only one that is connected to its channel.

    Raises DriverError for one that does not answer, libvirtError where the command fails.
    """
    try:
        return str(libvirt_qemu.qemuAgentCommand(domain, command.json, seconds, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _SILENT:
            reason = domain_states.paused(domain)
            why = words(error) if reason is None else f"it is paused ({reason})"
            raise no_answer(domain.name(), command.execute, why, is_paused=reason is not None) from None
        raise
