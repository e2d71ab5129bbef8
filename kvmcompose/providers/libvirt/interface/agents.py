"""QEMU guest agents of domains."""

from __future__ import annotations

from typing import Any, Protocol

from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, AgentCommand


class DomainAgents(Protocol):
    """The guest agents in domains on one host."""

    async def ask(self, name: str, command: AgentCommand, seconds: int = ANSWER_SECONDS) -> Any:
        """Return what the guest agent of a domain answers to a command: JSON, decoded, of any type.

        Raises DriverError for an agent that is not connected, answers nothing within ``seconds`` (libvirt may
        take five more), refuses the command, or answers nonsense. The calls of one domain wait for each
        other, and no other calls wait for them.
        """

    async def wait(self, name: str, seconds: float) -> None:
        """Return when the guest agent of a domain answers. Raises DriverError after ``seconds``."""
