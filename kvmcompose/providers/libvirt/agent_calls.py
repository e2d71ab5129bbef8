"""Commands to guest agents. Runs in the threads of a libvirt connection."""

from __future__ import annotations

from typing import Any

import libvirt
import libvirt_qemu

from kvmcompose.providers.libvirt.agent import AgentCommand, no_answer
from kvmcompose.providers.libvirt.connection import words

#: What libvirt says of an agent that is not connected to its channel, does not listen, or does not answer.
_SILENT = {
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_OPERATION_INVALID,
}


def ask(domain: Any, *, command: AgentCommand, seconds: int) -> str:
    """Return the answer of an agent, as text. libvirt asks only one that is connected to its channel.

    Raises DriverError for one that does not answer, libvirtError where the command fails.
    """
    try:
        return str(libvirt_qemu.qemuAgentCommand(domain, command.json, seconds, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() in _SILENT:
            raise no_answer(domain.name(), command.execute, words(error)) from None
        raise
