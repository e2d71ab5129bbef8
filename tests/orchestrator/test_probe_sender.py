"""What guests print of the probes that they have sent."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kvmcompose.core.expectation import PING
from kvmcompose.providers.guest.interface import GuestShell, Login
from kvmcompose.server.orchestrator.probe_sender import SentProbe, send


class Liar:
    """A guest that blames a network for probes of others."""

    async def run(self, _login: Login, _argv: list[str], keep: Any, **_more: Any) -> int:
        for line in ("7 Network is unreachable", "8 Network is unreachable", "\u0668 no", "x y", "", "done"):
            keep(line)
        return 0


def test_a_guest_speaks_for_its_own_probes_only() -> None:
    login = cast("Login", type("Entry", (), {"guest": "web", "user": "root"})())
    sent = send(cast("GuestShell", Liar()), login, [SentProbe(7, PING, "10.0.0.1")], "token", 1)
    assert asyncio.run(sent) == {7: "Network is unreachable"}
