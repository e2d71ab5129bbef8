"""Guest agents of simulated domains."""

from __future__ import annotations

from typing import Any

from kvmcompose.hosts.fake_world import FakeDomain
from kvmcompose.providers.libvirt.agent import AgentCommand, no_answer


def fake_answer(name: str, domain: FakeDomain, command: AgentCommand) -> Any:
    """Return what the agent of a domain answers. Raises DriverError without one."""
    if not domain.agent:
        raise no_answer(name, command.execute, "QEMU guest agent is not connected")
    match command.execute:
        case "guest-network-get-interfaces":
            return [
                {
                    "name": f"eth{number}",
                    "hardware-address": nic.mac,
                    "ip-addresses": [{"ip-address": f"198.51.100.{number + 2}", "prefix": 24}],
                }
                for number, nic in enumerate(domain.hardware.nics)
            ]
    return {}
